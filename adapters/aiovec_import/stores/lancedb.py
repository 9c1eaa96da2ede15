"""Read LanceDB tables that another program wrote, in a folder or a bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aiovec._input.infer import USUAL_VECTORS, field_of_arrow
from aiovec.backend import unstorable
from aiovec.errors import ConfigError

from .common import Collection, CollectionSource, Point, Vectors, client


class LanceSource(CollectionSource):
    layout = "LanceDB table"
    chooses_ids = True

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return any((folder / "_versions").is_dir() for folder in path.glob("*.lance"))

    def open(self, place: str) -> None:
        self._db = client("lancedb", "'aiovec[lancedb]'").connect(place)

    def names(self) -> Iterable[str]:
        token = None
        while True:
            page = self._db.list_tables(page_token=token)
            yield from page.tables
            token = page.page_token
            if not token:
                return

    def collection(self, name: str) -> Collection:
        table = self._db.open_table(name)
        columns = table.schema
        if b"aiovec.schema" in (columns.metadata or {}):
            raise ConfigError(
                "this is an aiovec store; copy tables with aiovec migrate, or aiovec export and "
                "then aiovec import"
            )
        metrics = {
            index.columns[0]: table.index_stats(index.name).distance_type or "l2"
            for index in table.list_indices()
        }
        vectors = [
            Vectors(column.name, _dim_of(column.type), metrics.get(column.name))
            for column in columns if _dim_of(column.type)
        ]  # fmt: skip
        vectors += [
            Vectors(column.name, kind="several for each row")
            for column in columns
            if pa.types.is_list(column.type) and _dim_of(column.type.value_type)
        ]  # fmt: skip
        vectors.sort(key=lambda column: column.name not in USUAL_VECTORS)
        vector_names = {column.name for column in vectors}
        id = self._wanted.id_column or "id"
        if self._wanted.id_column not in (None, "none", *columns.names):
            raise ConfigError(f"{name} has no column {id!r}", key="--id-column")
        others = (column for column in columns if column.name not in (id, *vector_names))
        fields = {column.name: field_of_arrow(column) for column in others}
        left_out = [(column.name, word) for column in columns if (word := unstorable(column.type))]
        return Collection(
            name, vectors, table.count_rows(), table, fields,
            omitted=[f"the column {column} ({word})" for column, word in left_out],
            new_ids=id not in columns.names,
        )  # fmt: skip

    def points(self, collection: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        left_out = {column.name for column in collection.vectors}
        id = self._wanted.id_column or "id"
        for batch in collection.handle.search().to_batches(batch_size=size):
            vectors = _vectors_of(batch.column(vector))
            kept = [
                column.name for column in batch.schema
                if column.name not in left_out and not unstorable(column.type)
            ]  # fmt: skip
            rows = batch.select(kept).to_pylist()
            for start in range(0, len(rows), size):
                yield [
                    Point(row.pop(id, None), vectors[start + i], row)
                    for i, row in enumerate(rows[start : start + size])
                ]


def _vectors_of(column: pa.Array) -> list[Any]:
    """Return each vector as an array, or None for a null."""
    whole = column.drop_null()
    flat = whole.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    rows = iter(flat.reshape(len(whole), column.type.list_size))
    return [next(rows) if valid else None for valid in column.is_valid().to_pylist()]


def _dim_of(kind: pa.DataType) -> int | None:
    """Return the length of the vectors in a column of this type; None for other types."""
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return int(kind.list_size)
    return None
