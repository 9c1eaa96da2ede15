"""Files that appear under their name when they are complete."""

from __future__ import annotations

import json
import os
import re
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from .._model.schema import Schema
from ..backend.files import create_like, flush_folder, rename_new, writing_to
from ..errors import ConfigError
from .files import schema_file

# C0 without tab and line feed, DEL, C1: stored text must not drive a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class FileWriter(ABC):
    """Writes rows to a temporary file and renames it at the end, or writes to a stream.

    ``schema`` is that of the table that an import of the file makes; None if it has no vectors.
    """

    carries_schema = True

    def __init__(
        self, path: Path, schema: Schema | None, stream: IO[bytes] | None, *, overwrite: bool
    ) -> None:
        self._path = path
        self._schema = schema
        self._stream = stream
        self._overwrite = overwrite
        self._part = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part")
        self._file: Any = stream
        if stream is None:
            with writing_to(path):
                create_like(self._part, path)
                self._file = self._part.open("wb")

    @property
    def files(self) -> list[Path]:
        """The files that are written."""
        if self._stream is not None:
            return []
        alone = self.carries_schema or self._schema is None
        return [self._path] if alone else [self._path, schema_file(self._path)]

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows."""

    def finish(self) -> None:
        """Flush the file to the disk, and give it its name."""
        with writing_to(self._path):
            self._file.flush()
            if self._stream is not None:
                return
            os.fsync(self._file.fileno())
            self._file.close()
            if not self.carries_schema:
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
        if self._stream is None:
            with suppress(OSError):  # what is left to be written may not fit
                self._file.close()
            with suppress(OSError):
                self._part.unlink()


class TextWriter(FileWriter):
    """Writes rows as text, and the schema to a file next to it."""

    carries_schema = False

    def __init__(
        self,
        path: Path,
        columns: pa.Schema,
        schema: Schema | None,
        stream: IO[bytes] | None,
        *,
        overwrite: bool,
    ) -> None:
        super().__init__(path, schema, stream, overwrite=overwrite)
        self._put(self.beginning(columns))

    def beginning(self, columns: pa.Schema) -> str:
        """Return the text before the rows."""
        return ""

    @abstractmethod
    def text_of(self, batch: pa.RecordBatch) -> str:
        """Return rows as text."""

    def write(self, batch: pa.RecordBatch) -> None:
        self._put(self.text_of(batch))

    def _put(self, text: str) -> None:
        if self._stream is not None and self._stream.isatty():
            text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        with writing_to(self._path):
            self._file.write(text.encode())
