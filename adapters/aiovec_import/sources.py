"""Read the tables of a file, or of a store that another program wrote, chunk by chunk.

Each entry point in the group ``aiovec.sources`` adds a kind of store: it refers to a subclass of
``Source``, and its name is the prefix of sources such as ``chroma:DIR#docs``. A reader works
without an event loop; its caller runs each call in a thread.
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from aiovec import Embed
from aiovec._input.infer import USUAL_VECTORS
from aiovec.backend import Field, Metric, Schema, check_field_name, installed
from aiovec.backend.files import writing_to
from aiovec.errors import AiovecError, ConfigError

_T = TypeVar("_T")

GROUP = "aiovec.sources"

# Bytes after which a chunk ends, even if it has few rows.
BYTES_AT_ONCE = 32 * 2**20
_LONGEST_NAME = 63

# The reason for rejecting a row if an earlier row of the source has the same id.
CAME_BEFORE = "an earlier row of the source has this id"


@dataclass(frozen=True, slots=True)
class Reject:
    """An item that cannot be imported: its place in the source, its id, if any, and the reason."""

    row: int | str | None
    id: str | None
    reason: str


class RejectsFile:
    """The list of an import's rejects, which replaces the list of an earlier import.

    If its file cannot be written, ``say`` prints the list to standard error.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.say = say
        self.place: str = str(path)
        """The path of the list, or "standard error", for messages."""
        self.count: int = 0
        self._file: IO[str] | None = None

    def write(self, table: str, place: str, rejects: Iterable[Reject]) -> None:
        """Add a table's rejects to the list. ``place`` is the JSON key for the place of a row."""
        with writing_to(self.path):
            for reject in rejects:
                if not self.count:
                    self._open()
                self.count += 1
                entry = {"table": table, place: reject.row}
                entry |= {"id": reject.id, "reason": reject.reason}
                line = json.dumps(entry, ensure_ascii=False)
                if self._file is None:
                    self.say(line)
                else:
                    self._file.write(line + "\n")

    def _open(self) -> None:
        try:
            # An id from bytes that are not text may contain lone surrogates.
            self._file = self.path.open("w", encoding="utf-8", errors="replace")
        except OSError as exc:
            self.place = "standard error"
            self.say(f"{self.path} cannot be written: {exc.strerror}; its lines follow")

    def close(self, done: bool) -> None:
        """Close the list. If all rows were read (``done``) without rejects, remove an old list."""
        if self._file is not None:
            with writing_to(self.path):
                self._file.close()
        elif done and self.path.is_file():  # not a device: root could remove the null device
            with suppress(OSError):  # the list went to standard error
                self.path.unlink()


NO_LIST = RejectsFile(Path(os.devnull), lambda _: None)
"""A list that is discarded: updates have no rejects, and feeds log their rejects."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows in a form that ``insert`` accepts: an Arrow table, or a list of mappings.

    ``places`` has the place of each row in the source. ``rejects`` lists items that the reader
    cannot convert to rows. The importer checks the rows.
    """

    rows: Any
    places: Sequence[int | str]
    rejects: Sequence[Reject] = ()


def in_parts(values: Iterable[tuple[_T, int]], size: int) -> Iterator[list[_T]]:
    """Yield lists of up to ``size`` values. Each value comes with its length in bytes.

    Lists of long values are shorter.
    """
    part: list[_T] = []
    nbytes = 0
    for value, length in values:
        part.append(value)
        nbytes += length
        if len(part) >= size or nbytes >= BYTES_AT_ONCE:
            yield part
            part, nbytes = [], 0
    if part:
        yield part


@dataclass(frozen=True, slots=True)
class ForeignTable:
    """A table that a reader offers.

    ``name`` is a valid table name in aiovec, ``origin`` is the name in the source, and ``layout``
    describes its kind in the source. ``rows`` is None if counting is slow. ``notes`` explain
    what is imported in an unexpected way, and ``omitted`` lists columns that are not imported, with
    the reasons. With ``new_ids``, the rows get new ids. Only the reader uses ``part``. With
    ``texts``, the rows have no vectors; these are computed from a text, and ``base`` names the
    source in the rows. With ``has_schema``, the schema comes from aiovec, by a user or an export.
    """

    name: str
    origin: str
    layout: str
    rows: int | None
    schema: Schema
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    part: Any = None
    new_ids: bool = False
    texts: bool = False
    base: str = ""
    has_schema: bool = False

    def facts(self, name: str) -> dict[str, Any]:
        """Return the facts that are known before the rows are read, for ``--json``."""
        origin = {"origin": self.origin, "layout": self.layout}
        return {"name": name, **origin, "notes": self.notes, "omitted": self.omitted}


Names = str | Iterable[str] | None
"""One name, several names, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A user's request: the arguments of ``aiovec.watch``, or the options of a command.

    ``sources`` are spelled as the user wrote them; ``base`` names them in each row. The rows come
    from the source's table ``origin``, or from ``query``; ``id_column``, ``vector_column`` and
    ``dtype`` describe the columns, and ``form`` is the format of the files.

    ``table`` is the table of the store. A new table gets ``schema``, by default a schema from the
    source, with this ``metric``, ``model`` and ``analyzer``, if given; ``text`` and ``index`` list
    the fields that get a keyword index or a filter index, and ``embed`` is the field that vectors
    are computed from.

    ``fields`` maps the fields of a passage to fields of the table. A database is copied to
    ``backup`` first.
    """

    sources: Sequence[str]
    table: str | None = None
    base: str = ""
    origin: str | None = None
    query: str | None = None
    id_column: str | None = None
    vector_column: str | None = None
    dtype: str | None = None
    form: str | None = None
    schema: Schema | None = None
    metric: Metric | None = None
    model: str | None = None
    analyzer: str | None = None
    text: Sequence[str] = ()
    index: Sequence[str] = ()
    embed: str | None = None
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

    @classmethod
    def of(cls, sources: Sequence[str], **options: Any) -> Wanted:
        """Build the request from arguments or options; None means the default."""
        given = {name: value for name, value in options.items() if value is not None}
        for name in {"text", "index", "include", "exclude"} & given.keys():
            names: Names = given[name]
            given[name] = [names] if isinstance(names, str) else [*(names or ())]
        return cls(sources=sources, **given)

    @property
    def texts(self) -> list[str]:
        """The fields for keyword search, and the field that vectors are computed from."""
        return [*self.text, *([] if self.embed is None else [self.embed])]

    @property
    def is_of_texts(self) -> bool:
        """True if the rows have no vectors but a text to compute them from."""
        return self.embed is not None and self.vector_column is None

    @property
    def wants_new_ids(self) -> bool:
        """True for ``--id-column none``: the rows get new ids."""
        return self.id_column == "none"

    def embed_of(self, fields: Mapping[str, Field]) -> Embed | None:
        """Return the ``Embed`` of a table with these fields.

        Raises ConfigError if ``embed`` names no text field.
        """
        if self.embed is None:
            return None
        texts = [name for name, field in fields.items() if field.kind == "text"]
        if self.embed not in texts:
            which = f"name a text field, one of: {', '.join(texts):.200}"
            why = which if texts else "no column of the source has texts"
            raise ConfigError(f"--embed {self.embed}: {why}", key="--embed")
        return Embed(self.embed)


def refuse(wanted: Wanted, names: str, why: str) -> None:
    """Raise ConfigError for the first of these options that the user gave."""
    for name in names.split():
        if getattr(wanted, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is for {why}", key=option)


class Reader(ABC):
    """A file or a store, open for reading."""

    name: str = ""
    """The path or address of the source, for messages."""

    form: str = "database"
    """The format of a file, or "database"."""

    place: str = "row"
    """The word for the place of a row, such as "rowid"."""

    remark: str = ""
    """A note for the user about the import."""

    failed: Mapping[str, str] = {}
    """Tables that cannot be imported, with the reasons; calling ``tables`` can add more tables."""

    @abstractmethod
    def tables(self) -> list[ForeignTable]:
        """Return the tables to import.

        Raises ConfigError if there are no tables, or if the user must name a table.
        """

    @abstractmethod
    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        """Yield the rows of a table from the beginning, up to ``size`` at a time.

        The vector has the name that ``schema`` gives it.
        """

    def backup(self, path: Path) -> None:
        """Copy the whole database to a path that does not exist yet."""
        raise ConfigError(
            f"--backup is for SQLite databases; copy {self.name} with the tools of its program",
            key="--backup",
        )

    @abstractmethod
    def close(self) -> None:
        """Close the source. May be called twice."""


class Source(Reader):
    """A store that another program wrote."""

    @classmethod
    @abstractmethod
    def recognise(cls, path: Path) -> bool:
        """Return whether a file or folder is of this kind, judging by the beginning of the file.

        Only the database's own library may open a database file. If other code opened and closed
        the file, that would drop the locks that this process holds on it.
        """

    @abstractmethod
    def __init__(self, place: str, wanted: Wanted) -> None:
        """Open a path or an address of this kind, or raise an AiovecError."""


def source_for(path: Path) -> tuple[type[Source] | None, list[str]]:
    """Return the kind of source that recognises a file or folder, if any.

    Also return an error for each installed kind that cannot be used.
    """
    errors: list[str] = []
    for name in installed(GROUP):
        try:
            if (kind := _kind(name)).recognise(path):
                return kind, errors
        except ConfigError as exc:
            errors.append(str(exc))
    return None, errors


def named_source(text: str) -> tuple[type[Source], str] | None:
    """Return the kind and the place that a source such as ``chroma:DIR`` names, or None."""
    return (_kind(kind), text.partition(":")[2]) if (kind := kind_in(text)) else None


def kind_in(text: str) -> str:
    """Return the name of the installed kind in a source such as ``chroma:DIR``, or ""."""
    scheme, colon, _ = text.partition(":")
    kind = scheme.partition("+")[0]  # SQLAlchemy adds its driver, as in postgresql+asyncpg:
    return kind if colon and kind in installed(GROUP) else ""


def _kind(name: str) -> type[Source]:
    """Load an installed kind of source."""
    entry_point = installed(GROUP)[name]
    try:
        kind = entry_point.load()
    except Exception as exc:  # one broken kind must not break the others
        raise ConfigError(
            f"the source {entry_point.name!r} ({entry_point.value}) is unusable: {exc}"
        ) from exc
    if not isinstance(kind, type) or not issubclass(kind, Source):
        raise ConfigError(
            f"the source {entry_point.name!r} ({entry_point.value}) is unusable: it is not "
            "a subclass of aiovec_import.sources.Source"
        )
    return kind


def free_name(name: str, taken: Container[str]) -> str:
    """Return the name, plus "_" if ``taken`` has the name without its trailing underscores."""
    return f"{name}_" if name.rstrip("_") in taken else name


def legal_vector(name: str) -> str:
    """Return the name if it is a legal vector name, or else a default name."""
    try:
        return name if check_field_name(name).lower() not in ("id", "payload") else USUAL_VECTORS[0]
    except AiovecError:
        return USUAL_VECTORS[0]


def legal_table_name(text: str, taken: Iterable[str] = ()) -> str:
    """Return a valid table name that resembles the text and is not in ``taken``."""
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
