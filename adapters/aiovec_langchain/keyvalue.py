"""A table of keys and values as a LangChain ``ByteStore``: docstores, caches of embeddings."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.stores import ByteStore

from aiovec import F, Field, Table
from aiovec.bridge import Bridge, Closable, StoreOrTarget, table_without_vectors, twins

_PAGE = 1000


class AiovecByteStore(Closable, ByteStore):
    """Bytes by their keys, of at most 512 bytes each, in one table of an aiovec store.

    ``store`` and ``options`` are as in ``AiovecVectorStore``.
    """

    def __init__(
        self,
        store: StoreOrTarget = ":memory:",
        table: str = "langchain_bytes",
        **options: Any,
    ) -> None:
        # Base64: a row holds text.
        schema = table_without_vectors({"value": Field(str, nullable=False)})
        self._bridge = Bridge(store, table, lambda dim: schema, **options)

    async def _get(self, table: Table, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of these keys, None for a missing key."""
        rows = await self._bridge.reading(lambda: table.get(keys, include_vector=False), ())
        values = {row.id: base64.b64decode(row["value"]) for row in rows}
        return [values.get(key) for key in keys]

    mget, amget = twins(_get)

    async def _set(self, table: Table, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Set the values of keys."""
        rows = [
            {"id": key, "value": base64.b64encode(value).decode()} for key, value in key_value_pairs
        ]
        await self._bridge.writing(table, 1, lambda: table.upsert(rows))

    mset, amset = twins(_set)

    async def _delete(self, table: Table, keys: Sequence[str]) -> None:
        """Delete keys. A missing key is no error."""
        await self._bridge.reading(lambda: table.delete(keys), 0)

    mdelete, amdelete = twins(_delete)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, by default all, in order."""
        after = ""
        while page := self._bridge.run(self._page, prefix, after):
            yield from page
            after = page[-1]

    async def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        """As ``yield_keys``."""
        after = ""
        while page := await self._bridge.aio(self._page, prefix, after):
            for key in page:
                yield key
            after = page[-1]

    async def _page(self, table: Table, prefix: str | None, after: str) -> list[str]:
        where = [F.id > after, F.id.startswith(prefix or "")]
        rows = await self._bridge.reading(lambda: table.find(where, select=[], limit=_PAGE), ())
        return [row.id for row in rows]
