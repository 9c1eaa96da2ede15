"""A user's wishes for a source: the arguments of ``aiovec.watch`` or the options of an import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiovec.backend import Metric, Schema
from aiovec.backend.paths import is_url

from .folders import Documents, documents_in
from .sources import Hints, NewTable, source_for

Names = str | Iterable[str] | None
"""One name or several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Sources, as the user names them, and the options for them.

    ``hints`` select rows and columns, and describe a new table; ``form`` and ``schema`` are for
    files. ``fields`` maps the fields of a passage to fields of the table. ``base`` names the source
    in its rows. A database is copied to ``backup`` first.
    """

    sources: Sequence[str]
    table: str | None = None
    base: str = ""
    hints: Hints = field(default_factory=Hints)
    form: str | None = None
    schema: Schema | None = None
    passages: bool = False
    chunk_size: int | None = None
    overlap: int = 0
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    upsert: bool = False
    delete: bool = False
    delete_all: bool = False
    strict: bool = False
    dry_run: bool = False
    backup: str | None = None

    def documents(self) -> Documents:
        """Find the documents among the sources; none if the sources have rows. Blocks."""
        return documents_in(self.sources, self.base, self.include, self.exclude)

    def of_documents(self) -> Documents | None:
        """Return the documents among the sources; None if the sources have rows. Blocks.

        A folder is one of documents if it contains one, or if it is not a store of another program.
        """
        if self.form or self.hints.query or any(map(is_url, self.sources)):
            return None
        found, path = self.documents(), Path(self.sources[0]).expanduser()
        is_theirs = not found.files and (not path.is_dir() or source_for(path)[0] is not None)
        return None if is_theirs else found

    @classmethod
    def of(
        cls, sources: Sequence[str], *, embed: str | None = None, text: Names = None,
        index: Names = None, id_column: str | None = None, query: str | None = None,
        include: Names = None, exclude: Names = None, vector_column: str | None = None,
        dtype: str | None = None, metric: Metric | None = None, model: str | None = None,
        **more: Any,
    ) -> Wanted:  # fmt: skip
        """Build this from the arguments of ``aiovec.watch``, or from the options of a command.

        Missing ones may be None.
        """
        new = NewTable(metric, model, _names(text), _names(index), embed)
        hints = Hints(None, query, id_column, vector_column, dtype, new)
        given = {name: value for name, value in more.items() if value is not None}
        return cls(
            sources=sources, hints=hints, include=_names(include), exclude=_names(exclude), **given
        )  # fmt: skip


def _names(given: Names) -> Sequence[str]:
    return [given] if isinstance(given, str) else [*(given or ())]
