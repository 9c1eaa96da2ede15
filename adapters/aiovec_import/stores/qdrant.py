"""Read Qdrant: a folder of the client's local mode, a server, or a Qdrant Edge shard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .common import Collection, CollectionSource, Point, Vectors, client


class QdrantSource(CollectionSource):
    layout = "Qdrant collection"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return (path / "meta.json").is_file() and (path / "collection").is_dir()

    def open(self, place: str) -> None:
        connect = client("qdrant_client", "qdrant-client").QdrantClient
        key = os.environ.get("QDRANT_API_KEY")
        self._client = connect(url=place, api_key=key) if "://" in place else connect(path=place)

    def names(self) -> Iterable[str]:
        return [collection.name for collection in self._client.get_collections().collections]

    def collection(self, name: str) -> Collection:
        params = self._client.get_collection(name).config.params
        dense = params.vectors or {}
        named = dense if isinstance(dense, Mapping) else {"": dense}
        vectors = [_vectors(each, made.model_dump()) for each, made in named.items()]
        vectors += [Vectors(each, kind="sparse") for each in params.sparse_vectors or ()]
        return Collection(name, vectors, self._client.count(name, exact=True).count)

    def points(self, collection: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        offset = None
        wanted = [vector] if vector else True
        while True:
            page, offset = self._client.scroll(
                collection.name, limit=size, offset=offset, with_payload=True, with_vectors=wanted
            )
            yield [_point(record, vector) for record in page]
            if offset is None:
                return

    def close(self) -> None:
        self._client.close()
        del self._client  # __del__ closes it again: run that here, not on the event loop


class QdrantEdgeSource(CollectionSource):
    layout = "Qdrant Edge shard"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return (path / "edge_config.json").is_file() and (path / "segments").is_dir()

    def open(self, place: str) -> None:
        self._edge = client("qdrant_edge", "qdrant-edge-py")
        self._path = Path(place)
        self._shard = self._edge.EdgeShard.load(place)

    def names(self) -> Iterable[str]:
        return [self._path.resolve().name]

    def collection(self, name: str) -> Collection:
        made = json.loads((self._path / "edge_config.json").read_text("utf-8"))
        # The file lists vectors in the order of a hash map, which differs after each write.
        dense = sorted((made.get("vectors") or {}).items())
        vectors = [_vectors(each, config) for each, config in dense]
        vectors += [
            Vectors(each, kind="sparse") for each in sorted(made.get("sparse_vectors") or ())
        ]
        count = self._shard.count(self._edge.CountRequest(exact=True))
        return Collection(name, vectors, count)

    def points(self, collection: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        offset = None
        while True:
            request = self._edge.ScrollRequest(
                offset=offset, limit=size, with_payload=True, with_vector=True
            )
            page, offset = self._shard.scroll(request)
            yield [_point(record, vector) for record in page]
            if offset is None:
                return

    def close(self) -> None:
        self._shard.close()


def _vectors(name: str, made: Mapping[str, Any]) -> Vectors:
    if made.get("multivector_config"):
        return Vectors(name, kind="several for each point")
    return Vectors(name, made["size"], str(made["distance"]))


def _point(record: Any, vector: str) -> Point:
    vectors = record.vector
    chosen = vectors.get(vector) if isinstance(vectors, Mapping) else vectors
    return Point(record.id, chosen, record.payload or {})
