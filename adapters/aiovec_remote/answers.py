"""Facts of a server's answers. The server's types are trusted: another one is a server's fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiovec._http.wire import Message
from aiovec.backend import Schema, Value
from aiovec.backend.context import Kept
from aiovec.backend.contract import IndexInfo, TableHandle, TableStats


@dataclass(frozen=True, slots=True)
class Served:
    """The store that a server serves: the name of its backend, and what it is able to do."""

    backend: str = ""
    abilities: frozenset[str] = frozenset()


def nothing(answer: Message) -> None:
    """Read an answer that says nothing but that the call was done."""


def served_in(answer: Message) -> Served:
    return Served(answer.facts["backend"], frozenset(answer.facts["abilities"]))


def names_in(answer: Message) -> list[str]:
    names: list[str] = answer.facts["tables"]
    return names


def handle_in(answer: Message, name: str) -> TableHandle:
    return TableHandle(name, Schema.from_json(answer.facts["schema"]), answer.facts["state"])


def count_in(answer: Message) -> int:
    return int(answer.facts["count"])


def kept_in(answer: Message) -> Kept | None:
    kept = answer.facts["kept"]
    return None if kept is None else Kept(kept["outcome"])


def counts_in(answer: Message) -> Sequence[tuple[Value, int]]:
    return [(value, count) for value, count in answer.facts["counts"]]


def bounds_in(answer: Message) -> tuple[Value, Value] | None:
    bounds = answer.facts["bounds"]
    return None if bounds is None else (bounds[0], bounds[1])


def stats_in(answer: Message, backend: str) -> TableStats:
    """Return the statistics of a table, as those of this backend."""
    stats = answer.facts["stats"]
    details = {"server_backend": stats["backend"], **stats["details"]}
    return TableStats(**{**stats, "backend": backend, "details": details})


def indexes_in(answer: Message) -> list[IndexInfo]:
    return [IndexInfo(**one) for one in answer.facts["indexes"]]


def versions_in(answer: Message) -> list[Mapping[str, Any]]:
    versions: list[Mapping[str, Any]] = answer.facts["versions"]
    return versions
