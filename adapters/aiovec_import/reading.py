"""A file or a database as tables to import."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from aiovec.backend import Schema, redacted
from aiovec.backend.files import schema_in
from aiovec.errors import ConfigError

from .arrow_files import ArrowFile
from .csv_files import CsvFile
from .files import (
    TEXTS,
    FileReader,
    Given,
    format_of,
    has_suffix,
    reading,
    schema_file,
)
from .jsonlines import JsonLines
from .sources import (
    Chunk,
    ForeignTable,
    Hints,
    Reader,
    Source,
    named_source,
    source_for,
    source_names,
    unusable_sources,
)


@dataclass(frozen=True, slots=True)
class Input:
    """The input of ``aiovec import``: a file with one table, or a database with several.

    ``name`` is its path or place for messages, ``form`` the file's format, or "database". Its
    methods block.
    """

    name: str
    form: str
    reader: Reader

    @property
    def is_database(self) -> bool:
        return isinstance(self.reader, Source)

    def tables(self) -> list[ForeignTable]:
        """Return the tables that can be imported."""
        with reading(self.name):
            return self.reader.tables()

    def chunks(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        """Yield the rows of a table, up to ``size`` at once, for a table of this schema."""
        with reading(self.name):
            yield from self.reader.read(table, schema, size)

    def backup(self, path: Path) -> None:
        """Copy a database to a path that does not exist yet."""
        if not isinstance(self.reader, Source):
            raise ConfigError("--backup is for databases; copy a file as it is", key="--backup")
        self.reader.backup(path)

    def close(self) -> None:
        self.reader.close()


def open_input(
    path: Path,
    *,
    form: str | None = None,
    hints: Hints | None = None,
    schema: Schema | None = None,
    existing: Schema | None = None,
    stream: IO[bytes] | None = None,
) -> Input:
    """Open a file by its format, or a database by the source that recognises it.

    ``schema`` is the one that the user gave, ``existing`` that of the table that the rows go to. A
    ``stream`` is read instead of a file, first of all into a temporary file; then the path is its
    name for messages.
    """
    hints = hints or Hints()
    if stream is None:
        with reading(path):
            if not path.exists():
                raise ConfigError(f"there is no file {path}")
            # Before anything else opens the file: see ``Source.recognise``.
            asked = path.is_dir() or (path.is_file() and not has_suffix(path))
            source = source_for(path) if asked else None
            if source is None and path.is_dir():
                raise _with_unusable(
                    ConfigError(
                        f"{path} is a folder that no importer recognises; import takes a file, a "
                        f"folder of another store, or one of {', '.join(source_names())}:PLACE"
                    )
                )
            if source is not None:
                if form is not None and format_of(path, form):
                    raise ConfigError(
                        f"{path} is a database, not a file of rows; leave out --format"
                    )
                return Input(str(path), "database", source(str(path), hints))
    if hints.dtype is not None:
        raise ConfigError("--dtype is for databases; a file has its own types", key="--dtype")
    if hints.join is not None:
        raise ConfigError("--join is for tables of databases", key="--join")
    try:
        found = format_of(path, form)
    except ConfigError as exc:
        raise _with_unusable(exc) if stream is None else exc from None
    with reading(path):
        file: Any = _copied(stream) if stream is not None else path.open("rb")
        try:
            if not file.seekable():  # a named pipe
                with file:
                    file = _copied(file)
            if stream is None and found in TEXTS and schema_file(path).is_file():
                schema = schema or schema_in(schema_file(path))
            kinds: dict[str, type[FileReader]] = {"jsonl": JsonLines, "csv": CsvFile}
            kind = kinds.get(found, ArrowFile)
            return Input(str(path), found, kind(Given(path, found, file, hints, schema, existing)))
        except BaseException:
            file.close()
            raise


def _with_unusable(error: ConfigError) -> ConfigError:
    """Return the error with the sources that are unusable, one of which may read the input."""
    for text in unusable_sources():
        error.add_note(text)
    return error


def open_source(text: str, hints: Hints) -> Input | None:
    """Open what a text such as ``chroma:DIR#docs`` names; None if it names no kind of source.

    What follows the ``#`` is the table, unless the hints name one.
    """
    found = named_source(text)
    if found is None:
        return None
    kind, place = found
    place, _, table = place.partition("#")
    shown = redacted(f"{text.partition(':')[0]}:{redacted(place)}")
    with reading(shown):
        hints = replace(hints, table=hints.table or table or None)
        return Input(shown, "database", kind(place, hints))


def _copied(stream: IO[bytes]) -> Any:
    """Return a temporary file with all that the stream holds."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the reader closes it
    try:
        shutil.copyfileobj(stream, file)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file
