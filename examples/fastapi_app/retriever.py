"""All that this app knows of storing and finding. It knows a VectorStore, and no backend."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiovec import Field, Hit, Schema, VectorStore
from embedding import HashingEmbedder

TABLE = "notes"


class Retriever:
    """Notes that are found by what they say."""

    def __init__(self, store: VectorStore, embedder: HashingEmbedder) -> None:
        self._notes = store.table(TABLE)
        self._store = store
        self._embedder = embedder

    async def prepare(self) -> None:
        """Make the table where it is missing. A table of another model is refused."""
        schema = Schema(
            self._embedder.dim,
            model=self._embedder.model,
            fields={"text": str, "topic": Field(str, index="bitmap"), "year": int},
        )
        await self._store.create_table(TABLE, schema, exist_ok=True)

    async def add(self, notes: Sequence[Mapping[str, Any]]) -> int:
        """Store notes with an ``id`` and a ``text``; one whose id is there is replaced."""
        vectors = await self._embed([note["text"] for note in notes])
        rows = [{**note, "embedding": vector} for note, vector in zip(notes, vectors, strict=True)]
        return await self._notes.upsert(rows, model=self._embedder.model)

    async def search(self, text: str, *, limit: int = 5, where: str | None = None) -> list[Hit]:
        """The notes nearest to a text, among those that the filter selects."""
        (vector,) = await self._embed([text])
        return await self._notes.search(
            vector, limit=limit, where=where, model=self._embedder.model
        )

    async def delete(self, ids: Sequence[str]) -> int:
        return await self._notes.delete(ids)

    async def count(self, where: str | None = None) -> int:
        return await self._notes.count(where)

    async def health(self) -> dict[str, str]:
        """Raises where the store cannot be reached, or has no table for the notes."""
        await self._store.ping()
        await self._store.schema(TABLE)
        return {"status": "ok", "backend": self._store.backend_name}

    async def _embed(self, texts: Sequence[str]) -> Any:
        # Not on the event loop, where every other request would wait for it.
        return await asyncio.to_thread(self._embedder.embed, texts)
