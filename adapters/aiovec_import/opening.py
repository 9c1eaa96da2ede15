"""Find the reader for a SOURCE of rows on the command line.

A file is recognized by its suffix, or by ``--format``, before any kind of store is tried.
Anything else must be a store that another program wrote.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from aiovec.backend import Schema, installed, redacted
from aiovec.backend.files import schema_in
from aiovec.backend.paths import is_url
from aiovec.errors import ConfigError

from .arrow_files import ArrowFile
from .csv_files import CsvFile
from .files import (
    FORMAT_OF,
    TEXTS,
    FileReader,
    format_of,
    names_format,
    no_file,
    path_and_table,
    reading,
    schema_file,
)
from .folders import KINDS, documents_in, in_words
from .globs import file_system_of
from .jsonlines import JsonLines
from .sources import (
    GROUP,
    Chunk,
    ForeignTable,
    Reader,
    Source,
    Wanted,
    named_source,
    refuse,
    source_for,
)


def opened(
    wanted: Wanted, files: Mapping[str, str], existing: Schema | None = None,
    as_files: bool = False,
) -> Reader:  # fmt: skip
    """Open the store or the files that the sources name; ``files`` comes from ``files_of``.

    ``existing`` is the schema of the target table. With ``as_files``, the sources are files, not a
    store.
    """
    opener = Opener(wanted, existing)
    if [*files] == [*wanted.sources] and len(files) == 1 and not as_files:
        return opener.open(wanted.sources[0])
    # The base of a glob stays the same, however many files match it.
    base = redacted(wanted.sources[0]) if len(wanted.sources) == 1 else "files"
    return Files(files, opener, base)


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens sources with the user's options. An opener can be pickled, and its methods block.

    ``existing`` is the schema of the target table.
    """

    wanted: Wanted
    existing: Schema | None = None

    def open(self, source: str) -> Reader:
        """Open a path, a URL or ``NAME:PLACE``; ``#TABLE`` at the end chooses a table of a store.

        "-" is standard input, which is first copied to a temporary file.
        """
        if source == "-":
            path = Path("standard input")
            return self._file(path, format_of(path, self.wanted.form), _copied(sys.stdin.buffer))
        if (named := named_source(source)) is not None:
            kind, place = named
            place, _, table = place.partition("#")
            shown = redacted(f"{source.partition(':')[0]}:{redacted(place)}")
            return self._store(kind, place, table, shown)
        path, table = path_and_table(source)
        is_file = self.wanted.form is not None or names_format(path)
        if is_url(source) or (is_file and not path.is_dir()):
            if table:
                raise ConfigError(f"{path} is a file with one table; leave out #{table}")
            return self.open_file(source)
        with reading(path):
            if not path.exists():
                raise no_file(path)
            # This must come before anything else opens the file: see ``Source.recognise``.
            recognised, unusable = source_for(path)
            if recognised is not None:
                return self._store(recognised, str(path), table, str(path))
            error = ConfigError(_unknown(path))
            for text in unusable:  # one of the unusable kinds might read it
                error.add_note(text)
            raise error

    def open_file(self, source: str) -> FileReader:
        """Open a path or a URL as a file with one table."""
        if is_url(source):
            return self._in_bucket(source)
        path = Path(os.path.expanduser(source))
        with reading(path):
            form = format_of(path, self.wanted.form)
            if not path.exists():
                raise no_file(path)
            return self._file(path, form, path.open("rb"), schema_file(path))

    def chunks(self, path: str, schema: Schema, size: int) -> Iterator[tuple[ForeignTable, Chunk]]:
        """Yield the rows of one of several files; the place of a row includes the file's name."""
        shown, opener = redacted(path), replace(self, existing=schema)
        with closing(opener.open_file(path)) as file, reading(shown):
            (table,) = file.tables()
            begin = f"{shown}, {file.place}"
            for chunk in file.read(table, schema, size):
                rejects = [replace(entry, row=f"{begin} {entry.row}") for entry in chunk.rejects]
                yield table, Chunk(chunk.rows, [f"{begin} {n}" for n in chunk.places], rejects)

    def _store(self, kind: type[Source], place: str, table: str, name: str) -> Source:
        with reading(name):
            reader = kind(place, replace(self.wanted, origin=table or None))
            reader.name = name
            return reader

    def _in_bucket(self, url: str) -> FileReader:
        with reading(shown := redacted(url)):
            place, name = file_system_of(url)
            form = format_of(Path(name), self.wanted.form)
            with place.open_input_stream(name) as stream:
                return self._file(Path(shown), form, _copied(stream))

    def _file(self, path: Path, form: str, file: Any, described: Path | None = None) -> FileReader:
        """Return the reader of an open file.

        ``described`` is the path of the schema file that a text file may have.
        """
        with reading(path):
            try:
                refuse(self.wanted, "query dtype", "databases, not for files")
                if not file.seekable():  # a named pipe
                    with file:
                        file = _copied(file)
                schema = self.wanted.schema
                if (
                    schema is None
                    and described is not None
                    and form in TEXTS
                    and described.is_file()
                ):
                    schema = schema_in(described)
                kinds: dict[str, type[FileReader]] = {"jsonl": JsonLines, "csv": CsvFile}
                kind = kinds.get(form, ArrowFile)
                return kind(path, form, file, self.wanted, schema, self.existing)
            except BaseException:
                file.close()
                raise


class Files(Reader):
    """Several files as one table, whose fields come from the first file."""

    place = "place"

    def __init__(self, files: Mapping[str, str], opener: Opener, base: str) -> None:
        self.files, self.opener = files, opener
        first, *others = files
        self.name: str = f"{len(files)} files" if others else redacted(first)
        for path in files:  # check all files before the first row is imported
            format_of(Path(path), opener.wanted.form)
            if not (is_url(path) or os.path.isfile(os.path.expanduser(path))):
                raise no_file(path)
        with closing(opener.open_file(first)) as file:
            (table,) = file.tables()
            self._table = replace(table, origin=self.name, rows=None, base=base)
            self.form: str = file.form

    def tables(self) -> list[ForeignTable]:
        return [self._table]

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        for path in self.files:
            for file_table, chunk in self.opener.chunks(path, schema, size):
                if more := [entry for entry in file_table.omitted if entry not in table.omitted]:
                    raise ConfigError(
                        f"{redacted(path)}: {', '.join(more)} cannot be imported, and the first "
                        "file has no such column; import this file by itself"
                    )
                yield chunk

    def close(self) -> None:
        """Do nothing: each file is closed once it has been read."""


def _unknown(path: Path) -> str:
    """Return the error text for a file or folder that no reader recognizes."""
    if not path.is_dir():
        suffixes = ", ".join(FORMAT_OF)
        return (
            f"{path.name} is not a document ({KINDS}), a file of rows ({suffixes}; or name its "
            "--format), or a database with vectors"
        )
    left_out = documents_in(Wanted(sources=[str(path)])).left_out
    return (
        f"{path} has no documents ({KINDS}), and is not a store of a kind that import knows: "
        f"{', '.join(installed(GROUP))}" + (f"; it has {in_words(left_out)}" if left_out else "")
    )


def _copied(stream: IO[bytes]) -> Any:
    """Return a temporary file with the whole content of the stream."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the reader closes it
    try:
        shutil.copyfileobj(stream, file)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file
