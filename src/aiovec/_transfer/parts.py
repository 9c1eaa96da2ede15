"""Files that appear under their name when they are complete."""

from __future__ import annotations

import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from .._model.schema import Schema
from .._store.store import VectorStore
from ..backend.files import create_like, flush_folder, rename_new, writing_to
from ..backend.foreign import kinds, source_for
from ..errors import ConfigError
from .formats import sidecar_of
from .streams import OutputStream


class PartFile:
    """A file that is written beside its name, and renamed when it is done.

    Without ``replaces`` it takes the name from no other file: ConfigError.
    """

    def __init__(self, path: Path, *, replaces: bool = True) -> None:
        self.path = path
        self.replaces = replaces
        self.part = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part")

    def begin(self) -> Path:
        """Return the path to write to, of a file with the permissions of one that it replaces."""
        create_like(self.part, self.path)
        return self.part

    def finish(self) -> None:
        """Bring what was written to the disk, then give it its name."""
        with open(self.part, "rb+") as file:
            os.fsync(file.fileno())
        if self.replaces:
            os.replace(self.part, self.path)
        else:
            try:
                rename_new(self.part, self.path)
            except FileExistsError:
                raise ConfigError(
                    f"{self.path} already exists; pass --overwrite to replace it"
                ) from None
        flush_folder(self.path.parent)

    def discard(self) -> None:
        with suppress(OSError):
            self.part.unlink()


class FileWriter(ABC):
    """Writes one format. Nothing stands under the file's name before ``finish``.

    ``stream`` is written instead of a file; then ``path`` is its name for messages.
    """

    def __init__(self, path: Path, stream: OutputStream | None, *, replaces: bool) -> None:
        self._path = path
        self._part = PartFile(path, replaces=replaces) if stream is None else None
        with writing_to(path):
            self._file: Any = stream if self._part is None else self._part.begin().open("wb")

    @property
    def files(self) -> list[Path]:
        return [] if self._part is None else [self._path]

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows."""

    def finish(self) -> None:
        """Let the file appear."""
        if self._part is not None:
            with writing_to(self._path):
                self._file.close()
                self._part.finish()

    def discard(self) -> None:
        """Let go of what was written."""
        if self._part is not None:
            with suppress(OSError):  # what is left to be written may not fit
                self._file.close()
            self._part.discard()


class TextWriter(FileWriter):
    """Writes the text of rows, and beside a file the schema, which the text cannot carry.

    ``told`` is that schema. Without one, a schema that is there belongs to an older file and goes.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        told: Schema | None,
        stream: OutputStream | None = None,
        *,
        replaces: bool = True,
    ) -> None:
        super().__init__(path, stream, replaces=replaces)
        self._told = told
        self._vector = told.vector if told is not None else None
        self._beside = PartFile(sidecar_of(path), replaces=replaces)
        self._put(self.beginning(schema))

    @property
    def files(self) -> list[Path]:
        beside = self._part is not None and self._told is not None
        return [*super().files, self._beside.path] if beside else super().files

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
        if self._part is not None:
            with writing_to(self._path):
                self._file.flush()
                if self._told is None:
                    self._beside.path.unlink(missing_ok=True)
                else:
                    text = json.dumps(self._told.to_dict(), ensure_ascii=False, indent=2)
                    self._beside.begin().write_text(f"{text}\n", encoding="utf-8")
                    self._beside.finish()
        super().finish()

    def discard(self) -> None:
        super().discard()
        self._beside.discard()


def check_apart(store: VectorStore, paths: Iterable[Path]) -> None:
    """Raise ConfigError where a file would take the place of a store or another database."""
    for path in paths:
        if store._owns(path):
            raise ConfigError(f"{path} belongs to the store itself; name another file")
        for file in _databases_of(path):
            if os.path.isfile(file) and source_for(file) is not None:
                what = "is a database" if file == path else f"belongs to the database {file}"
                raise ConfigError(f"{path} {what}, so it is not replaced; name another file")


def _databases_of(path: Path) -> Iterator[Path]:
    """Yield the file itself, and the one whose WAL, shared memory or journal it would be."""
    yield path
    for end in [end for kind in kinds() for end in kind.beside]:
        if path.name.endswith(end) and path.name != end:
            yield path.with_name(path.name.removesuffix(end))
