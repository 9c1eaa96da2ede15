"""Parts of a store for the commands, the server and the importers of this project.

Apps must not use them: they may change in any release.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # the command line imports this module, but ``--help`` must import none of these
    from ._model.schema import Schema
    from ._store.store import VectorStore
    from .backend.contract import Backend, TableHandle
    from .backend.embedders import EmbedderSettings
    from .backend.rows import Batch

_T = TypeVar("_T")


class StoreInternals:
    """Parts of an open store that only this project's packages use."""

    __slots__ = ("_store",)

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    @property
    def identity(self) -> str:
        """The name of the store; it stays the same when a migration moves the store."""
        return self._store._backends.identity

    def watching(
        self, sources: Sequence[str | Mapping[str, Any]]
    ) -> AbstractAsyncContextManager[None]:
        """Watch sources while the returned context manager is open, as in ``aiovec.asgi``."""
        from ._store.watch import watching_all

        return watching_all(self._store, sources)

    async def check_watched(self, sources: Sequence[str | Mapping[str, Any]]) -> None:
        """Raise the errors that ``watching`` would raise for these sources. Copies nothing."""
        from ._store.watch import check_watched

        await check_watched(self._store, sources)

    def owns(self, path: Path) -> bool:
        """Return whether a path belongs to the store. Reads the disk."""
        return self._store._backends.active.backend.owns(path)

    def give_embedder(self, name: str, embedder: EmbedderSettings) -> None:
        """Use this embedder for the tables whose schema has this name in ``embed``."""
        self._store._embedders.give(name, embedder)

    async def check_embedder(self, table: str, schema: Schema) -> None:
        """Raise a mismatch error if this store's embedder does not fit the table's vectors."""
        settings = self._store._backends.active.settings
        name = "" if schema.embed is None else schema.embed.using
        if (embedder := await self._store._embedders.find(name, settings)) is not None:
            embedder.check_fits(table, schema)

    async def can_embed(self, schema: Schema) -> bool:
        """Return whether the store can embed texts to search a table with this schema."""
        return await self._store._embedders.can_embed(schema, self._store._backends.active.settings)

    async def completed(self, table: str, schema: Schema) -> Schema:
        """Return a new table's schema, completed with the dimension and model of its embedder."""
        settings = self._store._backends.active.settings
        return await self._store._embedders.completed(table, schema, settings)

    async def tokenizer(self, schema: Schema) -> tuple[Any, int | None]:
        """Return the tokenizer of a table's model, and its token limit; each may be None."""
        return await self._store._embedders.tokenizer(schema, self._store._backends.active.settings)

    async def schema_and_state(self, table: str) -> tuple[Schema, str]:
        """Return a table's schema, and its current state as ``CallContext.states`` names it."""
        return await self._store._schema_and_state(table)

    async def on_table(
        self, call: str, table: str, act: Callable[[Backend, TableHandle], Awaitable[_T]]
    ) -> _T:
        """Run ``act`` on a table; repeat it if the table or the backend has changed."""
        return await self._store._on_table(call, table, lambda t: act(t.backend, t.handle))

    async def notes(
        self, table: str, change: Mapping[str, str | None] | None = None
    ) -> Mapping[str, str]:
        """Apply ``change`` to the notes that the backend keeps for a table; return all notes."""
        return await self._store._on_table(
            "notes", table, lambda t: t.backend.notes(t.handle, change or {})
        )

    async def write_checked(self, table: str, rows: Batch, schema: Schema, *, replace: bool) -> int:
        """Write rows that were checked against a schema: with ``replace`` like ``upsert``,
        otherwise like ``insert``."""
        write = self._store._write
        if replace:
            return await write("upsert", table, rows, on_conflict="replace", checked_for=schema)
        return await write("insert", table, rows, on_conflict="fail", checked_for=schema)
