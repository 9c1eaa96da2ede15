"""All that this app knows of storing and finding. It knows a VectorStore, and no backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiovec import Embed, Field, Hit, Schema, VectorStore

TABLE = "notes"
SCHEMA = Schema(
    dim=256,  # of the embedder that aiovec.toml describes
    fields={"text": Field(str, text=True), "topic": Field(str, index="bitmap"), "year": int},
    embed=Embed("text"),
)


class Retriever:
    """Notes that are found by what they say."""

    def __init__(self, store: VectorStore) -> None:
        self._notes = store.table(TABLE)
        self._store = store

    async def prepare(self) -> None:
        """Make the table where it is missing. A table of another model is refused."""
        await self._notes.create(SCHEMA, exist_ok=True)

    async def add(self, notes: Sequence[Mapping[str, Any]]) -> int:
        """Store notes with an ``id`` and a ``text``; one whose id is there is replaced."""
        return await self._notes.upsert(notes)

    async def search(self, text: str, *, limit: int = 5, where: str | None = None) -> list[Hit]:
        """Return the best notes by the words and the vector of a text, of those selected."""
        return await self._notes.search_hybrid(text, limit=limit, where=where)

    async def delete(self, ids: Sequence[str]) -> int:
        return await self._notes.delete(ids)

    async def count(self, where: str | None = None) -> int:
        return await self._notes.count(where)

    async def health(self) -> dict[str, str]:
        """Raises where the store cannot be reached, or has no table for the notes."""
        await self._store.ping()
        await self._store.schema(TABLE)
        return {"status": "ok", "backend": self._store.backend_name}
