"""A table of memories as a mem0 ``VectorStoreBase``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mem0.utils.factory import VectorStoreFactory
from mem0.vector_stores.base import VectorStoreBase
from mem0.vector_stores.configs import VectorStoreConfig
from pydantic import BaseModel, ConfigDict

from aiovec import REMOVE, Field, Hit, Record, Schema, Table, new_id
from aiovec.bridge import Closable, DocumentBridge, StoreOrTarget, relevance

_R = TypeVar("_R")
_M = TypeVar("_M")

_PROVIDER = "aiovec"
# The text field, with the words of a memory as mem0 prepares them for keyword searches.
_WORDS = "words"
# The keys by which mem0 filters every search.
_SCOPES = dict.fromkeys(("user_id", "agent_id", "run_id"), Field(str, index="btree"))
_JOINED = {"AND": "$and", "OR": "$or", "NOT": "$nor", "$not": "$nor"}
_OPERATORS = {"icontains": "$ilike"}  # the other operators have the same names


class Config(BaseModel):
    """The ``config`` of the provider "aiovec".

    ``store`` is a target such as "memory.db", or a store from ``aiovec.sync.connect``.
    Additional keys are options of ``aiovec.connect``.
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    store: Any = "mem0.db"
    collection_name: str = "mem0"
    embedding_model_dims: int = 1536


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory as mem0 reads it; ``score`` is higher for better matches."""

    id: str
    score: float | None
    payload: dict[str, Any]


class AiovecVectorStore(Closable, VectorStoreBase):
    """The memories of one collection, in one table of an aiovec store. See ``Config``."""

    def __init__(
        self,
        store: StoreOrTarget = "mem0.db",
        collection_name: str = "mem0",
        embedding_model_dims: int = 1536,
        **options: Any,
    ) -> None:
        self.collection_name = collection_name
        fields = {_WORDS: Field(str, text=True), **_SCOPES}
        schema = Schema(embedding_model_dims, fields=fields, analyzer="english")
        self._bridge: DocumentBridge = DocumentBridge(
            store, collection_name, schema=schema, text=_WORDS, **options
        )

    def create_col(self, name: str, vector_size: int, distance: object = None) -> None:
        """Do nothing: the first write creates the table."""

    def insert(
        self,
        vectors: Sequence[Any],
        payloads: Sequence[Mapping[str, Any]] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Add memories, replacing existing ones with the same ids; write all or none."""
        contents = payloads or [{}] * len(vectors)
        names = ids or [new_id() for _ in vectors]

        async def insert(table: Table) -> None:
            rows = [self._row(*each) for each in zip(names, vectors, contents, strict=True)]
            await table.upsert(rows)

        self._bridge.run(lambda _: self._bridge.write(None, insert))

    def search(
        self, query: str, vectors: Any, top_k: int = 5, filters: Mapping[str, Any] | None = None
    ) -> list[Memory]:
        """Return the memories nearest to a vector."""
        return self.search_batch([query], [vectors], top_k, filters)[0]

    def search_batch(
        self,
        queries: Sequence[str],
        vectors_list: Sequence[Any],
        top_k: int = 1,
        filters: Mapping[str, Any] | None = None,
    ) -> list[list[Memory]]:
        """Return the memories nearest to each of several vectors."""

        async def search(table: Table) -> list[list[Memory]]:
            where, metric = self._where(filters), self._bridge.metric
            lists = await table.search_many(vectors_list, limit=top_k, where=where)
            return [
                [self._memory(hit, relevance(hit.score, metric)) for hit in hits] for hits in lists
            ]

        return self._read(search, [[] for _ in vectors_list])

    def keyword_search(
        self, query: str, top_k: int = 5, filters: Mapping[str, Any] | None = None
    ) -> list[Memory]:
        """Return the memories that best match the words, with their BM25 scores."""
        words = " ".join(f'"{word}"' for word in query.replace('"', " ").split())

        async def search(table: Table) -> list[Memory]:
            hits = await table.search_text(words, limit=top_k, where=self._where(filters))
            return [self._memory(hit, hit.score) for hit in hits]

        return self._read(search, [])

    def delete(self, vector_id: str) -> None:
        """Delete a memory by its id."""
        self._read(lambda table: table.delete(vector_id), 0)

    def update(
        self, vector_id: str, vector: Any = None, payload: Mapping[str, Any] | None = None
    ) -> None:
        """Replace a memory's vector, its payload, or both; None keeps the old value."""

        async def update(table: Table) -> None:
            schema = await table.schema()
            # An upsert would bring back a memory that is deleted at the same time.
            for row in await table.get(vector_id, include_vector=False):
                changed: dict[str, Any] = {"id": vector_id, schema.vector: vector}
                if payload is not None:
                    old = {key: None if key in schema.fields else REMOVE for key in row.fields}
                    changed = old | self._row(vector_id, vector, payload)
                if vector is None:
                    del changed[schema.vector]
                await table.update([changed])

        self._read(update, None)

    def get(self, vector_id: str) -> Memory | None:
        """Return a memory by its id, or None."""

        rows = self._read(lambda table: table.get(vector_id, include_vector=False), ())
        return self._memory(rows[0], None) if rows else None

    def list(
        self, filters: Mapping[str, Any] | None = None, top_k: int | None = None
    ) -> Sequence[list[Memory]]:
        """Return the memories that match the filters, as the only item of a list."""

        rows = self._read(lambda table: table.find(self._where(filters), limit=top_k), ())
        return [[self._memory(row, None) for row in rows]]

    def list_cols(self) -> Sequence[str]:
        """Return the names of the store's tables."""
        return self._bridge.run(lambda table: table.store.tables())

    def delete_col(self) -> None:
        """Drop the table. The next write creates it again."""
        self._bridge.run(lambda _: self._bridge.drop())

    reset = delete_col

    def col_info(self) -> dict[str, Any]:
        """Return the name of the collection, and its number of memories."""
        return {"name": self.collection_name, "count": self._read(lambda table: table.count(), 0)}

    # Inside

    def _read(self, act: Callable[[Table], Awaitable[_R]], missing: _M) -> _R | _M:
        return self._bridge.run(lambda _: self._bridge.read(act, missing))

    def _row(self, id: str, vector: Any, payload: Mapping[str, Any]) -> dict[str, Any]:
        words = payload.get("text_lemmatized") or payload.get("data") or ""
        return self._bridge.row(id, words, vector, payload)

    def _memory(self, row: Record | Hit, score: float | None) -> Memory:
        return Memory(row.id, score, self._bridge.metadata(row))

    def _where(self, filters: Mapping[str, Any] | None) -> Any:
        return self._bridge.where(_in_mongodb(filters)) if filters else None


def _in_mongodb(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return mem0's filters in MongoDB's syntax. mem0 may also pass ``OR`` and ``NOT`` as ``$or``
    and ``$not``; ``"*"`` means any value but null."""
    wanted: dict[str, Any] = {}
    for key, value in filters.items():
        joined = _JOINED.get(key, key)
        if joined in ("$and", "$or", "$nor"):
            wanted[joined] = [_in_mongodb(each) for each in value]
        elif isinstance(value, (list, tuple)):
            wanted[key] = {"$in": value}
        elif isinstance(value, Mapping):
            wanted[key] = {_OPERATORS.get(name, f"${name}"): item for name, item in value.items()}
            if "$ilike" in wanted[key]:
                wanted[key]["$ilike"] = f"%{str(value['icontains']).replace('%', '_')}%"
        else:
            wanted[key] = {"$exists": True} if value == "*" else value
    return wanted


def register() -> None:
    """Add the provider to mem0's two dicts, and this module under the name that mem0 imports."""
    VectorStoreFactory.provider_to_class[_PROVIDER] = f"{__name__}.AiovecVectorStore"
    known = VectorStoreConfig.__private_attributes__["_provider_configs"]
    known.default[_PROVIDER] = Config.__name__
    sys.modules[f"mem0.configs.vector_stores.{_PROVIDER}"] = sys.modules[__name__]
