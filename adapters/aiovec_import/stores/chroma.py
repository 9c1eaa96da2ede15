"""Read a Chroma folder: each collection becomes a table with the documents as its texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aiovec.backend import Field

from .common import Collection, CollectionSource, Point, Vectors, client

_EVERYTHING = ["embeddings", "documents", "metadatas", "uris"]


class ChromaSource(CollectionSource):
    layout = "Chroma collection"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return (path / "chroma.sqlite3").is_file()

    def open(self, place: str) -> None:
        chromadb = client("chromadb", "chromadb")
        quiet = chromadb.Settings(anonymized_telemetry=False)
        self._client = chromadb.PersistentClient(place, settings=quiet)

    def names(self) -> Iterable[str]:
        self._listed = {listed.name: listed for listed in self._client.list_collections()}
        return self._listed

    def collection(self, name: str) -> Collection:
        listed = self._listed[name]
        first = listed.get(limit=1, include=["embeddings"])["embeddings"]
        dim = len(first[0]) if first is not None and len(first) else None
        # The configuration has the metric under one of two kinds of index. It is read as JSON,
        # because the client would create the embedding function, which may need an API key.
        made = listed.configuration_json
        index = made.get("hnsw") or made.get("spann") or {}
        kind = "dense" if dim else "none yet"
        vectors = [Vectors("embedding", dim, index.get("space", "l2"), kind)]
        fields = {"text": Field(str, text=True)}
        return Collection(name, vectors, listed.count(), listed, fields, _model(made))

    def points(self, collection: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        for offset in range(0, collection.rows or 0, size):
            page = collection.handle.get(limit=size, offset=offset, include=_EVERYTHING)
            columns = (page[name] for name in ("ids", *_EVERYTHING))
            yield [
                Point(id, vector, {**(keys or {}), **({"uri": uri} if uri else {})}, {"text": text})
                for id, vector, text, keys, uri in zip(*columns, strict=True)
            ]


def _model(made: dict[str, Any]) -> str | None:
    """Return the model of the user's embedding function, if its configuration names one."""
    function = made.get("embedding_function") or {}
    config = function.get("config") or {}
    return config.get("model_name") or config.get("model")
