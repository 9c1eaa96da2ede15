"""Conditions under which a call from another process runs.

A server runs the calls of its clients within ``under``. A call made for one state of a table fails
where the table has another, and a write with a key is done once, however often it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .contract import TableHandle


class TableChangedError(Exception):
    """The table is no longer in the state that the call was made for. Never reaches a user."""


@dataclass(frozen=True, slots=True)
class WriteKey:
    """The name that a caller gave to one write, to repeat it without doing it twice.

    ``digest`` is that of the write itself: the same key with another digest is another write, which
    is refused.
    """

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Conditions:
    state: str | None = None
    """The state of the table, as ``state_of`` names it; None for whatever state it has."""

    key: WriteKey | None = None


_CONDITIONS: ContextVar[Conditions] = ContextVar("aiovec_conditions", default=Conditions())  # noqa: B039 - frozen


@contextmanager
def under(conditions: Conditions) -> Iterator[None]:
    """Run the calls within under these conditions."""
    before = _CONDITIONS.set(conditions)
    try:
        yield
    finally:
        _CONDITIONS.reset(before)


def write_key() -> WriteKey | None:
    """Return the key of the write that is running.

    A backend that promises "once" commits it with the write, and gives the outcome that it kept
    where the key is there already.
    """
    return _CONDITIONS.get().key


def wanted_state() -> str | None:
    """Return the state of the table that the running call was made for."""
    return _CONDITIONS.get().state


def state_of(handle: TableHandle) -> str:
    """Return a name for the state of a table, the same in every process that has it open."""
    text = f"{handle.name}\0{handle.schema.to_json()}\0{handle.token!r}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
