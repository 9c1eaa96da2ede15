"""Other people's databases of vectors, found through the entry-point group ``aiovec.sources``.

What a group's entry names is a subclass of ``Source``. It works without an event loop; whoever
uses it runs each call in a thread. It opens what it reads for reading only, and changes nothing.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._model.schema import Schema, may_lack_vectors
from ..errors import ConfigError
from .plugins import installed

GROUP = "aiovec.sources"

USUAL_VECTORS = ("embedding", "vector")
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
class Skipped:
    """A table with vectors that is not offered: its name, its rows (None: not counted), and why."""

    origin: str
    rows: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Hints:
    """A user's hints about a source; None is for the source to find out."""

    table: str | None = None
    id_column: str | None = None
    vector_column: str | None = None
    model_column: str | None = None
    dtype: str | None = None


class Source(ABC):
    """A database that somebody else's program wrote, open for reading.

    ``place`` is the word for where a row stands in it, such as "rowid".
    """

    place: str = "row"

    beside: tuple[str, ...] = ()
    """Endings of the files that belong to the database named by the rest of their name."""

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
    def tables(self) -> list[ForeignTable]:
        """Return the tables that can be imported; ConfigError, with the reason, if none can."""

    def skipped(self) -> Sequence[Skipped]:
        """The tables that ``tables`` found and did not return, once it was called."""
        return ()

    @abstractmethod
    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        """The rows of a table, up to ``size`` at once, their vector named as in ``schema``."""

    @abstractmethod
    def backup(self, path: Path) -> None:
        """Copy the whole database to a path that does not exist yet."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. May be called twice."""


def nothing_there() -> Schema | None:
    """The schema of the table that the rows go to: there is none."""
    return None


class UnclearVectorError(Exception):
    """Only the user can say where the vectors are. Never reaches one as it is."""


def guessed_vector(
    able: Collection[str],
    names: Collection[str],
    length_of: Callable[[str], int | None],
    there: Callable[[], Schema | None],
) -> str | Schema:
    """The column or key of the vectors, where nobody says which one.

    ``able`` are those that may be it, ``names`` all that the rows have. ``there`` looks for the
    table that they go to; where that takes rows without vectors, and these seem to have none, the
    result is its schema. UnclearVectorError where something speaks against any guess.
    """
    if len(able) == 1 and (only := next(iter(able))) in USUAL_VECTORS:
        return only
    target = there()
    usual: tuple[str, ...] = USUAL_VECTORS
    if target is not None:
        usual = (target.vector, *usual)
        able = [name for name in able if name not in target.fields]
    for name in usual:
        if name in able:
            return name
    if target is not None and may_lack_vectors(target):
        if any(length_of(name) == target.dim for name in able):
            raise UnclearVectorError
        return target
    if len(able) != 1 or any(name in names for name in usual):
        raise UnclearVectorError
    return next(iter(able))


def source_for(path: Path) -> type[Source] | None:
    """Return the kind of source that recognises a file, or None."""
    return next((kind for kind in kinds() if kind.recognise(path)), None)


def kinds() -> Iterator[type[Source]]:
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
