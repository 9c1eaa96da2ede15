"""Storage and search of the app's notes, in a VectorStore with any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiovec import Embed, Field, Hit, Schema, VectorStore

TABLE = "notes"
SCHEMA = Schema(
    dim=256,  # the length of the vectors of the embedder in aiovec.toml
    fields={"text": Field(str, text=True), "topic": Field(str, index="bitmap"), "year": int},
    embed=Embed("text"),
)


class Retriever:
    """Notes that can be searched by their text."""

    def __init__(self, store: VectorStore) -> None:
        self._notes = store.table(TABLE)
        self._store = store

    async def prepare(self) -> None:
        """Create the table if it is missing. Raises ModelMismatchError if its model differs."""
        await self._notes.create(SCHEMA, exist_ok=True)

    async def add(self, notes: Sequence[Mapping[str, Any]]) -> int:
        """Store notes with an ``id`` and a ``text``, and replace notes with the same ids."""
        return await self._notes.upsert(notes)

    async def search(self, text: str, *, limit: int = 5, where: str | None = None) -> list[Hit]:
        """Return the best notes by a text's words and vector, from those that ``where`` selects."""
        return await self._notes.search_hybrid(text, limit=limit, where=where)

    async def delete(self, ids: Sequence[str]) -> int:
        return await self._notes.delete(ids)

    async def count(self, where: str | None = None) -> int:
        return await self._notes.count(where)

    async def health(self) -> dict[str, str]:
        """Return the status. Raises if the store cannot be reached or has no table for notes."""
        await self._store.ping()
        await self._store.schema(TABLE)
        return {"status": "ok", "backend": self._store.backend_name}
