"""A file or a database, whatever it is, as tables to load."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from .._model.schema import Schema
from ..backend.foreign import (
    Chunk,
    ForeignTable,
    Hints,
    Skipped,
    Source,
    legal_table_name,
    nothing_there,
    source_for,
)
from ..errors import AiovecError, ConfigError
from .foreign import reading
from .formats import check_format, format_of_stream, format_to_read
from .streams import InputStream


class Rows(Protocol):
    """A reader of one file."""

    place: str
    schema: Schema
    rows: int | None
    notes: tuple[str, ...]
    omitted: tuple[str, ...]

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]: ...
    def close(self) -> None: ...


class Input:
    """The input of ``aiovec import``: a file with one table, or a database with several.

    ``form`` is the file's format, or "database". Blocking, as what it reads with is.
    """

    def __init__(
        self,
        path: Path,
        form: str,
        rows: Rows | None,
        source: Source | None,
        stream: InputStream | None = None,
    ) -> None:
        self.path = path
        self.form = form
        self._rows = rows
        self._source = source
        self._stream = stream

    @property
    def is_database(self) -> bool:
        return self._source is not None

    @property
    def is_stream(self) -> bool:
        return self._stream is not None

    @property
    def place(self) -> str:
        """The word for where a row stands in it."""
        if self._source is not None:
            return self._source.place
        return "row" if self._rows is None else self._rows.place

    def tables(self) -> list[ForeignTable]:
        """The tables that can be loaded."""
        if self._source is not None:
            with reading(self.path):
                return self._source.tables()
        if self._rows is None:
            return []
        name = legal_table_name(self.path.stem)
        return [
            ForeignTable(
                name, self.path.name, self.form, self._rows.rows, self._rows.schema,
                self._rows.notes, self._rows.omitted,
            )
        ]  # fmt: skip

    def skipped(self) -> Sequence[Skipped]:
        """The tables with vectors that cannot be loaded, once ``tables`` was called."""
        return () if self._source is None else self._source.skipped()

    def chunks(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        """The table's rows, for a table of this schema."""
        if self._source is not None:
            return self._of_source(self._source, table, schema, size)
        return iter(()) if self._rows is None else self._rows.chunks(schema, size)

    def _of_source(
        self, source: Source, table: ForeignTable, schema: Schema, size: int
    ) -> Iterator[Chunk]:
        with reading(self.path, f"the table {table.origin}"):
            yield from source.read(table, schema, size)

    def notes(self, table: ForeignTable) -> tuple[str, ...]:
        """The notes on a table, once it was read."""
        return table.notes if self._rows is None else self._rows.notes

    def stop(self) -> None:
        """Let a thread that waits for a stream give up."""
        if self._stream is not None:
            self._stream.stop()

    def backup(self, path: Path) -> None:
        """Copy a database."""
        if self._source is None:
            raise ConfigError(f"{self.path} is not a database; copy the file")
        self._source.backup(path)

    def close(self) -> None:
        for reader in (self._rows, self._source):
            if reader is not None:
                reader.close()
        if self._stream is not None:
            self._stream.close()


def open_input(
    path: Path,
    *,
    form: str | None = None,
    hints: Hints | None = None,
    schema: Schema | None = None,
    stream: InputStream | None = None,
    there: Callable[[], Schema | None] = nothing_there,
) -> Input:
    """Open a file by its format, or a database by the source that recognises it.

    ``schema`` is that of the table the rows shall go to, where it is known already. ``there`` tells
    it where the file does not say which vectors are meant.
    ``stream`` is read instead of a file; then the path is its name for messages.
    """
    hints = hints or Hints()
    if stream is None:
        _check_there(path)
        if stat.S_ISFIFO(path.stat().st_mode):
            stream = _pipe(path)
    if stream is not None:
        try:
            found = format_of_stream(form)
            with reading(path):
                rows = _open(path, found, hints, schema, there, stream)
                return Input(path, found, rows, None, stream)
        except BaseException:
            stream.close()
            raise
    # Before anything else opens the file: see ``Source.recognise``.
    kind = source_for(path)
    if kind is not None:
        if form is not None and check_format(form):
            raise ConfigError(f"{path} is a database, not a file of rows; leave out --format")
        with reading(path):
            return Input(path, "database", None, kind(path, hints))
    if path.is_dir():
        raise ConfigError(_advice_on_folder(path))
    found = format_to_read(path, form)
    with reading(path):
        return Input(path, found, _open(path, found, hints, schema, there), None)


def _advice_on_folder(path: Path) -> str:
    """Say what can be done with a folder, of which LanceDB's may hold tables that others made."""
    store, tables = path, sorted(each.stem for each in path.glob("*.lance"))
    if path.suffix == ".lance" and (path / "_versions").is_dir():
        store, tables = path.parent, [path.stem]
    if not tables:
        return f"{path} is a folder; import takes a file"
    table = tables[0]
    code = (
        "import lancedb, pyarrow.parquet as pq; "
        f"pq.write_table(lancedb.connect({str(store)!r}).open_table({table!r}).to_arrow(), "
        f"{f'{table}.parquet'!r})"
    )
    quoted = shlex.quote(code) if any(sign in code for sign in '"$`\\!') else f'"{code}"'
    return (
        f"{path} is a folder of LanceDB; import takes a file. A store that aiovec made is moved by "
        "aiovec migrate. Write each table that another program made to a Parquet file, and import "
        f"that: python -c {quoted} && aiovec import {table}.parquet -s STORE"
    )


def _pipe(path: Path) -> InputStream:
    with reading(path):
        fd = os.open(path, os.O_RDONLY)
    try:
        return InputStream(fd)
    finally:
        os.close(fd)


def _check_there(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no file {path}") from exc
    except OSError as exc:
        raise AiovecError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _open(
    path: Path,
    form: str,
    hints: Hints,
    schema: Schema | None,
    there: Callable[[], Schema | None],
    stream: InputStream | None = None,
) -> Rows:
    if hints.dtype is not None:
        raise ConfigError("--dtype is for databases; a file has its own types", key="--dtype")
    if form == "jsonl":
        from .jsonlines import JsonLines

        return JsonLines(path, hints, schema, stream, there)
    if form == "csv":
        from .csv_files import CsvFile

        return CsvFile(path, hints, schema, stream, there)
    if form == "numpy":
        from .numpy_files import NumpyFiles

        return NumpyFiles(path, hints, schema)
    from .arrow_files import ArrowFile

    return ArrowFile(path, form, hints, schema, stream, there)
