"""What a user wants of a source: the arguments of ``aiovec.watch``, the options of an import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiovec.backend import Schema

from .folders import Documents, documents_in
from .sources import Hints, NewTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Sources, as the user names them, and what becomes of them.

    ``hints`` say which of their rows and columns are read, and what a new table gets; ``form`` and
    ``schema`` are those of files. ``fields`` maps the fields of a passage to those of the table.
    ``size`` and ``overlap`` are the lengths of passages. ``base`` names the source in its rows.
    """

    sources: Sequence[str]
    table: str | None = None
    base: str = ""
    hints: Hints = field(default_factory=Hints)
    form: str | None = None
    schema: Schema | None = None
    passages: bool = False
    size: int | None = None
    overlap: int = 0
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    upsert: bool = False
    delete: bool = False
    delete_all: bool = False
    strict: bool = False
    dry_run: bool = False

    def documents(self) -> Documents:
        """Find the documents among the sources; there are none if they hold rows. Blocks."""
        return documents_in(self.sources, self.base, self.include, self.exclude)

    @classmethod
    def told(
        cls, source: str, *, embed: str | None, text: str | Iterable[str],
        index: str | Iterable[str], id_column: str | None, query: str | None,
        chunk_size: int | None, include: Iterable[str], exclude: Iterable[str], **more: Any,
    ) -> Wanted:  # fmt: skip
        """Return what the arguments of ``aiovec.watch`` say."""
        new = NewTable(None, None, _names(text), _names(index), embed)
        hints = Hints(None, query, id_column, None, None, new)
        return cls(
            sources=[source], hints=hints, size=chunk_size, include=[*include],
            exclude=[*exclude], **more,
        )  # fmt: skip


def _names(given: str | Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) else [*given]
