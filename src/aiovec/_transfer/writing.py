"""Files that appear under their name when they are complete."""

from __future__ import annotations

import json
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from .._model.schema import Schema
from ..backend.files import create_like, flush_folder, rename_new, writing_to
from ..errors import ConfigError
from .arrow_files import arrow_writer
from .csv_files import csv_header, csv_lines
from .files import TEXTS, schema_file
from .jsonlines import lines_of

# C0 without tab and line feed, DEL, C1: stored text must not drive a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class FileWriter:
    """Writes rows to a temporary file and renames it at the end, or writes to a stream.

    ``schema`` is that of the table that an import of the file makes; None if it has no vectors.
    A text cannot carry it, so it is written to a file next to it.
    """

    def __init__(
        self, path: Path, form: str, columns: pa.Schema, schema: Schema | None,
        stream: IO[bytes] | None, *, overwrite: bool,
    ) -> None:  # fmt: skip
        self._path = path
        self._schema = schema
        self._stream = stream
        self._overwrite = overwrite
        self._part = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part")
        self._is_text = form in TEXTS
        with writing_to(path):
            if stream is None:
                create_like(self._part, path)
            self._file: Any = stream or self._part.open("wb")
            try:
                self._sink = (
                    _TextSink(self._file, form, columns, schema)
                    if self._is_text
                    else arrow_writer(self._file, form, columns)
                )
            except BaseException:
                self._remove()
                raise

    @property
    def files(self) -> list[Path]:
        """The files that are written."""
        if self._stream is not None:
            return []
        beside = self._is_text and self._schema is not None
        return [self._path, schema_file(self._path)] if beside else [self._path]

    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows."""
        with writing_to(self._path):
            self._sink.write_batch(batch)

    def finish(self) -> None:
        """Flush the file to the disk, and give it its name."""
        with writing_to(self._path):
            self._sink.close()
            self._file.flush()
            if self._stream is not None:
                return
            os.fsync(self._file.fileno())
            self._file.close()
            if self._is_text:
                self._write_schema()
            try:
                (os.replace if self._overwrite else rename_new)(self._part, self._path)
            except FileExistsError:
                raise ConfigError(
                    f"{self._path} already exists; pass --overwrite to replace it"
                ) from None
            flush_folder(self._path.parent)

    def _write_schema(self) -> None:
        """Write the schema next to the file, or remove that of an older file."""
        if self._schema is None:
            schema_file(self._path).unlink(missing_ok=True)
        else:
            text = json.dumps(self._schema.to_dict(), ensure_ascii=False, indent=2)
            schema_file(self._path).write_text(f"{text}\n", encoding="utf-8")

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError, ValueError, pa.ArrowException):
            self._sink.close()  # left open, it would write when it is collected
        self._remove()

    def _remove(self) -> None:
        if self._stream is None:
            with suppress(OSError):  # what is left to be written may not fit
                self._file.close()
            with suppress(OSError):
                self._part.unlink()


class _TextSink:
    """Writes rows as text, as pyarrow's writers write theirs."""

    def __init__(
        self, file: IO[bytes], form: str, columns: pa.Schema, schema: Schema | None
    ) -> None:
        self._file = file
        self._vector = None if schema is None else schema.vector
        self._lines_of = csv_lines if form == "csv" else lines_of
        self._on_terminal = file.isatty()
        if form == "csv":
            self._put(csv_header(columns.names))

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._put("".join(self._lines_of(batch, self._vector)))

    def _put(self, text: str) -> None:
        if self._on_terminal:
            text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        self._file.write(text.encode())

    def close(self) -> None:
        """Do nothing: the file is not the sink's."""
