"""A file or a database, whatever it is, as tables to load."""

from __future__ import annotations

import shlex
import stat
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from .._model.schema import Schema
from ..backend.foreign import Chunk, ForeignTable, Hints, Reader, Source, source_for
from ..errors import AiovecError, ConfigError
from .files import FileReader, Given, sidecar_schema
from .foreign import reading
from .formats import TEXTS, check_format, format_of_stream, format_to_read
from .streams import InputStream

_COPIED_AT_ONCE = 2**20


@dataclass(frozen=True, slots=True)
class Input:
    """The input of ``aiovec import``: a file with one table, or a database with several.

    ``form`` is the file's format, or "database". Blocking, as what it reads with is.
    """

    path: Path
    form: str
    reader: Reader
    stream: InputStream | None = None

    @property
    def is_database(self) -> bool:
        return isinstance(self.reader, Source)

    @property
    def place(self) -> str:
        """The word for where a row stands in it."""
        return self.reader.place

    def tables(self) -> list[ForeignTable]:
        """The tables that can be loaded."""
        with reading(self.path):
            return self.reader.tables()

    def chunks(
        self, table: ForeignTable, schema: Schema, size: int
    ) -> Generator[Chunk, None, None]:
        """The table's rows, for a table of this schema. From a stream they come once."""
        with reading(self.path, f"the table {table.origin}" if self.is_database else ""):
            yield from self.reader.read(table, schema, size)

    def stop(self) -> None:
        """Let a thread that waits for a stream give up."""
        if self.stream is not None:
            self.stream.stop()

    def close(self) -> None:
        self.reader.close()


def open_input(
    path: Path,
    *,
    form: str | None = None,
    hints: Hints | None = None,
    schema: Schema | None = None,
    stream: InputStream | None = None,
    twice: bool = False,
    there: Callable[[], Schema | None] = lambda: None,
) -> Input:
    """Open a file by its format, or a database by the source that recognises it.

    ``schema`` is that of the table the rows shall go to, where it is known already. ``there`` tells
    it where the file does not say which vectors are meant.
    ``stream`` is read instead of a file; then the path is its name for messages. What is to be read
    ``twice`` is copied from it to a temporary file first.
    """
    hints = hints or Hints()
    if stream is None:
        _check_there(path)
        if stat.S_ISFIFO(path.stat().st_mode):
            with reading(path), path.open("rb", buffering=0) as pipe:
                stream = InputStream(pipe.fileno())
    if stream is not None:
        found = format_of_stream(form)
    # Before anything else opens the file: see ``Source.recognise``.
    elif (source := source_for(path)) is not None:
        if form is not None and check_format(form):
            raise ConfigError(f"{path} is a database, not a file of rows; leave out --format")
        with reading(path):
            return Input(path, "database", source(path, hints))
    elif path.is_dir():
        raise ConfigError(_advice_on_folder(path))
    else:
        found = format_to_read(path, form)
    if hints.dtype is not None:
        raise ConfigError("--dtype is for databases; a file has its own types", key="--dtype")
    with reading(path):
        if stream is None and found in TEXTS:
            schema = schema or sidecar_schema(path)
        kind = _kind(found)
        file = kind.open(path) if stream is None else _copied(stream) if twice else stream
        try:
            given = Given(path, found, file, hints, schema, cache(there))
            return Input(path, found, kind(given), stream)
        except BaseException:
            file.close()
            raise


def _kind(form: str) -> type[FileReader]:
    if form == "jsonl":
        from .jsonlines import JsonLines

        return JsonLines
    if form == "csv":
        from .csv_files import CsvFile

        return CsvFile
    from .arrow_files import ArrowFile

    return ArrowFile


def _copied(stream: InputStream) -> IO[bytes]:
    """A temporary file with all that comes."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the reader closes it
    while part := stream.read(_COPIED_AT_ONCE):
        file.write(part)
    file.seek(0)
    return file


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


def _check_there(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no file {path}") from exc
    except OSError as exc:
        raise AiovecError(f"{path} cannot be read: {exc.strerror or exc}") from exc
