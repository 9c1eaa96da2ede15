"""Read a Milvus Lite folder: each collection becomes a table with fields for typed columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aiovec.backend import Field
from aiovec.errors import ConfigError

from .common import Collection, CollectionSource, Point, Vectors, client

_KINDS: dict[str, Any] = {
    "BOOL": "bool", "INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int",
    "FLOAT": "float", "DOUBLE": "float", "VARCHAR": "text",
}  # fmt: skip


class MilvusSource(CollectionSource):
    layout = "Milvus collection"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return (path / "collections").is_dir() and (path / "LOCK").exists()

    def open(self, place: str) -> None:
        client("milvus_lite", "pymilvus milvus-lite")
        if not place.endswith(".db"):
            raise ConfigError(f"{place}: pymilvus opens folders whose names end in .db: rename it")
        self._client = client("pymilvus", "pymilvus").MilvusClient(place)

    def names(self) -> Iterable[str]:
        return list(self._client.list_collections())

    def collection(self, name: str) -> Collection:
        described = self._client.describe_collection(name)["fields"]
        vectors = [self._vectors(name, field) for field in described if _is_vector(field)]
        (key,) = (field["name"] for field in described if field.get("is_primary"))
        fields = {field["name"]: _field_of(field) for field in described if field["name"] != key}
        rows = self._client.query(name, output_fields=["count(*)"])[0]["count(*)"]
        return Collection(name, vectors, rows, key, fields)

    def _vectors(self, collection: str, field: dict[str, Any]) -> Vectors:
        name, kind = field["name"], field["type"].name
        if kind != "FLOAT_VECTOR":
            return Vectors(name, kind=kind.lower())
        indexes = self._client.list_indexes(collection, field_name=name)
        index = self._client.describe_index(collection, indexes[0]) if indexes else {}
        return Vectors(name, field["params"]["dim"], index.get("metric_type", "COSINE"))

    def points(self, collection: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        others = {vectors.name for vectors in collection.vectors if vectors.name != vector}
        # A collection with an index must be loaded first: a new process has not loaded it yet.
        self._client.load_collection(collection.name)
        pages = self._client.query_iterator(collection.name, batch_size=size, output_fields=["*"])
        try:
            while page := pages.next():
                yield [_point(dict(row), collection, vector, others) for row in page]
        finally:
            pages.close()

    def close(self) -> None:
        self._client.close()


def _point(row: dict[str, Any], collection: Collection, vector: str, others: set[str]) -> Point:
    id, chosen = row.pop(collection.handle), row.pop(vector, None)
    return Point(id, chosen, {k: value for k, value in row.items() if k not in others})


def _is_vector(field: dict[str, Any]) -> bool:
    return str(field["type"].name).endswith("VECTOR")


def _field_of(field: dict[str, Any]) -> Field | None:
    """Return a column's field, or None if its values go into the payload."""
    kind: Any = _KINDS.get(field["type"].name)
    if field["type"].name == "ARRAY":
        item = _KINDS.get(field["element_type"].name)
        kind = f"list[{item}]" if item in ("text", "int", "float") else None
    return Field(kind) if kind else None
