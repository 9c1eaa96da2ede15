"""Vectors in a .npy file, and their records in a JSON Lines file of the same stem."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, DimensionMismatchError
from ..schema import Schema
from ..sources import Chunk, Hints, Reject
from .formats import records_of, sidecar_of
from .jsonlines import (
    SchemaFile,
    matrix_of_batch,
    objects_in,
    rows_of,
    sidecar_schema,
    with_text_id,
)
from .parts import PartFile, writing_to

# The header is written again when the number of rows is known, so it has a fixed length.
_HEADER_BYTES = 128


class NumpyFiles:
    """The rows of a pair of files; the vectors are mapped into memory, not read."""

    place = "row"
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, hints: Hints, told: Schema | None) -> None:
        records = records_of(path)
        if not records.is_file():
            raise ConfigError(
                f"there is no file {records}; it holds the records, a line of JSON for each "
                f"vector of {path.name}",
                file=str(records),
            )
        try:
            self._vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as exc:
            raise ConfigError(f"{path} cannot be read: {exc}", file=str(path)) from exc
        if self._vectors.ndim != 2 or self._vectors.dtype.kind not in "fiu":
            raise ConfigError(
                f"{path} holds {self._vectors.dtype} of shape {self._vectors.shape}; vectors are "
                "numbers in two dimensions, a row for each",
                file=str(path),
            )
        self.rows: int | None = len(self._vectors)
        self._id = hints.id_column or "id"
        dim = max(1, self._vectors.shape[1])
        self.schema = told or sidecar_schema(path) or Schema(
            dim, vector=hints.vector_column or "embedding"
        )  # fmt: skip
        self._file = records.open("rb")

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]:
        if self._vectors.shape[1] != schema.dim:
            raise DimensionMismatchError(schema.dim, self._vectors.shape[1])
        rows: list[dict[str, Any]] = []
        places: list[int | str] = []
        rejects: list[Reject] = []
        number = -1
        for number, line in enumerate(objects_in(self._file)):
            if isinstance(line.value, Reject):
                rejects.append(Reject(number, None, line.value.reason))
            elif number >= len(self._vectors):
                rejects.append(Reject(number, None, "there is no vector for this record"))
            else:
                row = line.value
                if self._id != "id" and self._id in row:
                    row["id"] = row.pop(self._id)
                rows.append(with_text_id(row))
                places.append(number)
            if len(rows) + len(rejects) >= size:
                yield self._chunk(rows, places, rejects, schema)
                rows, places, rejects = [], [], []
        over = range(number + 1, len(self._vectors))
        rejects += [Reject(i, None, "there is no record for this vector") for i in over]
        yield self._chunk(rows, places, rejects, schema)

    def _chunk(
        self,
        rows: list[dict[str, Any]],
        places: list[int | str],
        rejects: list[Reject],
        schema: Schema,
    ) -> Chunk:
        if places:
            # One read of the part, then a view for each row.
            first = int(places[0])
            part = np.array(self._vectors[first : int(places[-1]) + 1])
            for row, place in zip(rows, places, strict=True):
                row[schema.vector] = part[int(place) - first]
        return Chunk(rows, places, rejects)

    def close(self) -> None:
        self._file.close()


class NumpyWriter:
    """Writes the pair of files, and the schema beside them."""

    def __init__(self, path: Path, schema: pa.Schema, told: Schema | None) -> None:
        if told is None:
            raise ConfigError(
                "the format numpy holds vectors; select the vector too, or export as jsonl"
            )
        self._path = path
        self._schema = told
        self._count = 0
        self._parts = [PartFile(records_of(path)), PartFile(path)]
        self._sidecar = SchemaFile(sidecar_of(path), told)
        with writing_to(path):
            self._records = self._parts[0].part.open("w", encoding="utf-8", newline="\n")
            self._vectors = self._parts[1].part.open("wb")
            self._vectors.write(self._header())

    @property
    def files(self) -> list[Path]:
        return [self._path, records_of(self._path), *self._sidecar.files]

    def _header(self) -> bytes:
        shape = (self._count, self._schema.dim)
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        room = _HEADER_BYTES - 10
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + f"{text:<{room - 1}}\n".encode()

    def write(self, batch: pa.RecordBatch) -> None:
        with writing_to(self._path):
            for row in rows_of(batch, self._schema.vector):
                self._records.write(json.dumps(row, ensure_ascii=False) + "\n")
            if batch.num_rows:
                matrix = matrix_of_batch(batch, self._schema.vector)
                self._vectors.write(np.ascontiguousarray(matrix, dtype="<f4").data)
        self._count += batch.num_rows

    def finish(self) -> None:
        with writing_to(self._path):
            self._vectors.seek(0)
            self._vectors.write(self._header())
            self._vectors.close()
            self._records.close()
            self._sidecar.write()
            self._sidecar.finish()
            for part in self._parts:  # the vectors last: they are what the user named
                part.finish()

    def discard(self) -> None:
        for file in (self._vectors, self._records):
            with suppress(OSError):  # what is left to be written may not fit
                file.close()
        for part in self._parts:
            part.discard()
        self._sidecar.discard()
