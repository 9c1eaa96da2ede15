"""Files and databases that others wrote: what reads their tables, a chunk of rows at a time.

Readers of databases are found through the entry-point group ``aiovec.sources``: an entry names a
subclass of ``Source``. A reader works without an event loop; whoever uses it runs each call in a
thread. It opens what it reads for reading only, and changes nothing.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._model.schema import Schema
from ..errors import ConfigError
from .plugin import installed

GROUP = "aiovec.sources"

_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be taken: where it stands in its source, its id if it has one, and why."""

    row: int | str | None
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows as ``insert`` takes them: Arrow, a list of mappings, or columns.

    ``places`` tells for each where it stands in its source. ``rejects`` are rows between them that
    are no rows at all; whether the others can be taken is for the importer to find out.
    """

    rows: Any
    places: Sequence[int | str]
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True, slots=True)
class ForeignTable:
    """A table that a source offers.

    ``name`` is a legal name for it here, ``origin`` what it is called there, ``layout`` how it
    lies there, in words. ``rows`` is None where counting them takes long. ``notes`` say what of it
    is taken otherwise than one may expect, ``omitted`` which columns with values are not taken, and
    why. ``part`` is the source's own.
    """

    name: str
    origin: str
    layout: str
    rows: int | None
    schema: Schema
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    part: Any = None


@dataclass(frozen=True, slots=True)
class Hints:
    """The table, columns and type that the user names; None where the user named none."""

    table: str | None = None
    id_column: str | None = None
    vector_column: str | None = None
    dtype: str | None = None


class Reader(ABC):
    """A file or a database, open for reading.

    ``place`` is the word for where a row stands in it, such as "rowid".
    """

    place: str = "row"

    @abstractmethod
    def tables(self) -> list[ForeignTable]:
        """Return the tables to import; ConfigError if the user has to name one, or none is."""

    @abstractmethod
    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        """The rows of a table from its first one, up to ``size`` at once.

        Their vector is named as in ``schema``.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. May be called twice."""


class Source(Reader):
    """A database that somebody else's program wrote."""

    @classmethod
    @abstractmethod
    def recognise(cls, path: Path) -> bool:
        """Return whether the file is of this kind. Looks at its beginning only.

        A file of a database is not opened but by the database's own library: closing it would drop
        the locks that this process holds on it.
        """

    @abstractmethod
    def __init__(self, path: Path, hints: Hints) -> None:
        """Open the file, or raise an AiovecError."""

    @abstractmethod
    def backup(self, path: Path) -> None:
        """Copy the whole database to a path that does not exist yet."""


def source_for(path: Path) -> type[Source] | None:
    """Return the kind of source that recognises a file, or None."""
    return next((kind for kind in _kinds() if kind.recognise(path)), None)


def _kinds() -> Iterator[type[Source]]:
    """Yield the installed kinds of sources."""
    for entry_point in installed(GROUP).values():
        try:
            kind = entry_point.load()
        except (ImportError, AttributeError) as exc:
            raise ConfigError(
                f"the source {entry_point.name!r} ({entry_point.value}) is unusable: {exc}"
            ) from exc
        if not isinstance(kind, type) or not issubclass(kind, Source):
            raise ConfigError(
                f"the source {entry_point.name!r} ({entry_point.value}) is unusable: it is no "
                "subclass of aiovec.backend.Source"
            )
        yield kind


def legal_table_name(text: str, taken: Iterable[str] = ()) -> str:
    """A name for a table as much like a text as the rules allow, and none of those taken."""
    name = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")
    if not name or not name[0].isalpha():
        name = f"t-{name}".rstrip("-")
    name = name[:_LONGEST_NAME].rstrip("-_")
    used = set(taken)
    free, number = name, 2
    while free in used:
        end = f"-{number}"
        free, number = name[: _LONGEST_NAME - len(end)] + end, number + 1
    return free
