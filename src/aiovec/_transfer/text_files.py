"""Writers of text: into a file with the schema beside it, or to standard output."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from .._model.schema import Schema
from ..backend.files import writing_to
from .formats import sidecar_of
from .parts import PartFile, finish_together
from .streams import OutputStream


class TextWriter(ABC):
    """Writes the text of rows, and beside a file the schema, which the text cannot carry."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        told: Schema | None,
        stream: OutputStream | None = None,
        *,
        replaces: bool = True,
    ) -> None:
        self._path = path
        self._vector = told.vector if told is not None else None
        self._file = _TextFile(path, told, replaces) if stream is None else stream
        if begin := self.beginning(schema):
            self._put(begin)

    @property
    def files(self) -> list[Path]:
        return self._file.files if isinstance(self._file, _TextFile) else []

    def beginning(self, schema: pa.Schema) -> str:
        """Return what stands before the rows."""
        return ""

    @abstractmethod
    def text_of(self, batch: pa.RecordBatch) -> str:
        """Return the rows as text."""

    def write(self, batch: pa.RecordBatch) -> None:
        self._put(self.text_of(batch))

    def _put(self, text: str) -> None:
        with writing_to(self._path):
            self._file.write(text.encode())

    def finish(self) -> None:
        if isinstance(self._file, _TextFile):
            self._file.finish()

    def discard(self) -> None:
        if isinstance(self._file, _TextFile):
            self._file.discard()


class _TextFile:
    def __init__(self, path: Path, told: Schema | None, replaces: bool) -> None:
        self._path = path
        self._part = PartFile(path, replaces=replaces)
        self._sidecar = SchemaFile(sidecar_of(path), told, replaces=replaces)
        with writing_to(path):
            self._file = self._part.begin().open("wb")

    @property
    def files(self) -> list[Path]:
        return [self._path, *self._sidecar.files]

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def finish(self) -> None:
        with writing_to(self._path):
            self._file.close()
            self._sidecar.write()
            finish_together(self._part, self._sidecar.parts, self._sidecar.stale)

    def discard(self) -> None:
        with suppress(OSError):  # what is left to be written may not fit
            self._file.close()
        self._part.discard()
        self._sidecar.discard()


class SchemaFile:
    """The schema beside a file whose format cannot carry it.

    Without a schema, one that is there belongs to an older file and is ``stale``.
    """

    def __init__(self, path: Path, schema: Schema | None, *, replaces: bool) -> None:
        self._part = PartFile(path, replaces=replaces)
        self._schema = schema

    @property
    def parts(self) -> list[PartFile]:
        return [] if self._schema is None else [self._part]

    @property
    def files(self) -> list[Path]:
        return [part.path for part in self.parts]

    @property
    def stale(self) -> list[Path]:
        return [self._part.path] if self._schema is None else []

    def write(self) -> None:
        if self._schema is not None:
            text = json.dumps(self._schema.to_dict(), ensure_ascii=False, indent=2)
            self._part.begin().write_text(f"{text}\n", encoding="utf-8")

    def discard(self) -> None:
        self._part.discard()
