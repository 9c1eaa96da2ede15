"""Vectors in a .npy file, and their records in a JSON Lines file of the same stem."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .._model.arrow import to_matrix
from .._model.schema import Schema
from ..backend.files import writing_to
from ..backend.foreign import Chunk, Hints, Reject
from ..errors import ConfigError, DimensionMismatchError
from .foreign import BYTES_AT_ONCE, reading
from .formats import records_of, sidecar_of
from .jsonlines import (
    lines_in,
    objects_in,
    renamed,
    rows_of,
    set_aside,
    sidecar_schema,
    with_text_id,
)
from .parts import PartFile, finish_together
from .text_files import SchemaFile

# The header is written again when the number of rows is known, so it has a fixed length.
_HEADER_BYTES = 128


class NumpyFiles:
    """The rows of a pair of files; the vectors are mapped into memory, not read."""

    place = "row"
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()

    def __init__(self, path: Path, hints: Hints, told: Schema | None) -> None:
        records = records_of(path)
        if not records.is_file():
            raise ConfigError(
                f"there is no file {records}; it must hold a line of JSON for each vector of "
                f"{path.name}",
                file=str(records),
            )
        with path.open("rb") as file:
            archive = file.read(2) == b"PK"
        if archive:
            raise ConfigError(
                f"{path} is an .npz archive; write the array of the vectors with numpy.save",
                file=str(path),
            )
        with reading(path, "its header"):
            _check_shape(path)
            self._vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if self._vectors.ndim != 2 or self._vectors.dtype.kind not in "fiu":
            raise ConfigError(
                f"{path} holds {self._vectors.dtype} of shape {self._vectors.shape}; vectors must "
                "be numbers in two dimensions, a row for each vector",
                file=str(path),
            )
        self.rows: int | None = len(self._vectors)
        self._id = hints.id_column or "id"
        dim = max(1, self._vectors.shape[1])
        self.schema = told or sidecar_schema(path) or Schema(
            dim, vector=hints.vector_column or "embedding"
        )  # fmt: skip
        self._path = path
        self._file = records.open("rb")
        try:
            with reading(records):
                self._check_count(records)
        except BaseException:
            self.close()
            raise

    def _check_count(self, records: Path) -> None:
        """Refuse a pair of different lengths: a vector belongs to the record of its position."""
        count = sum(1 for _ in lines_in(self._file))
        self._file.seek(0)
        if count != len(self._vectors):
            raise ConfigError(
                f"{records} has {count:,} records and {self._path.name} has "
                f"{len(self._vectors):,} vectors; each vector needs the record of its position. "
                "Write both files again",
                file=str(records),
            )

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]:
        if self._vectors.shape[1] != schema.dim:
            raise DimensionMismatchError(schema.dim, self._vectors.shape[1])
        rows: list[dict[str, Any]] = []
        places: list[int | str] = []
        rejects: list[Reject] = []
        nbytes = 0
        with reading(self._path) as here:
            for number, line in enumerate(objects_in(self._file)):
                here.at = f"row {number}"
                if isinstance(line.value, Reject):
                    rejects.append(Reject(number, None, line.value.reason))
                else:
                    row = line.value
                    renamed(row, self._id, "id")
                    set_aside(row, schema.vector)
                    rows.append(with_text_id(row))
                    places.append(number)
                nbytes += line.nbytes
                if len(rows) + len(rejects) >= size or nbytes >= BYTES_AT_ONCE:
                    yield self._chunk(rows, places, rejects, schema)
                    rows, places, rejects, nbytes = [], [], [], 0
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
                vector = part[int(place) - first]
                # A row without a vector is written as NaN.
                gap = schema.vector_nullable and bool(np.isnan(vector).all())
                row[schema.vector] = None if gap else vector
        return Chunk(rows, places, rejects)

    def close(self) -> None:
        self._file.close()


def _check_shape(path: Path) -> None:
    """Refuse a shape that does not fit the file, before NumPy reckons with it."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with path.open("rb") as file:
        reader = readers.get(np.lib.format.read_magic(file))
        if reader is None:
            return
        shape, _, dtype = reader(file)
        there = path.stat().st_size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > there:
        raise ConfigError(
            f"{path} says that it has the shape {shape}, which its {there:,} bytes cannot hold; it "
            "is cut or damaged. Write it again with numpy.save",
            file=str(path),
        )


class NumpyWriter:
    """Writes the pair of files, and the schema beside them."""

    def __init__(
        self, path: Path, schema: pa.Schema, told: Schema | None, *, replaces: bool = True
    ) -> None:
        if told is None:
            raise ConfigError(
                "the format numpy holds vectors; select the vector too, or export as jsonl"
            )
        self._path = path
        self._schema = told
        self._count = 0
        self._parts = [PartFile(file, replaces=replaces) for file in (records_of(path), path)]
        self._sidecar = SchemaFile(sidecar_of(path), told, replaces=replaces)
        with writing_to(path):
            self._records = self._parts[0].begin().open("w", encoding="utf-8", newline="\n")
            self._vectors = self._parts[1].begin().open("wb")
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
                matrix = to_matrix(batch.column(self._schema.vector))
                self._vectors.write(np.ascontiguousarray(matrix, dtype="<f4").data)
        self._count += batch.num_rows

    def finish(self) -> None:
        with writing_to(self._path):
            self._vectors.seek(0)
            self._vectors.write(self._header())
            self._vectors.close()
            self._records.close()
            self._sidecar.write()
            records, vectors = self._parts
            finish_together(vectors, [records, *self._sidecar.parts], self._sidecar.stale)

    def discard(self) -> None:
        for file in (self._vectors, self._records):
            with suppress(OSError):  # what is left to be written may not fit
                file.close()
        for part in self._parts:
            part.discard()
        self._sidecar.discard()
