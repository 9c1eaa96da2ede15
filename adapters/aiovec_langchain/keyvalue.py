"""A table of keys and values as a LangChain ``ByteStore``, for docstores and embedding caches."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.stores import ByteStore

from aiovec import F, Field
from aiovec.bridge import Bridge, Closable, StoreOrTarget, blocking, in_store, table_without_vectors

_PAGE = 1000


class AiovecByteStore(Closable, ByteStore):
    """A table of an aiovec store as a mapping from keys of at most 512 bytes to bytes.

    ``store`` and ``options`` are as in ``AiovecVectorStore``.
    """

    def __init__(
        self,
        store: StoreOrTarget = ":memory:",
        table: str = "langchain_bytes",
        **options: Any,
    ) -> None:
        # Values are stored in Base64, because a row holds text.
        schema = table_without_vectors({"value": Field(str, nullable=False)})
        self._bridge = Bridge(store, table, lambda dim: schema, **options)

    @in_store
    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of these keys, with None for a missing key."""
        rows = await self._bridge.read(lambda table: table.get(keys, include_vector=False), ())
        values = {row.id: base64.b64decode(row["value"]) for row in rows}
        return [values.get(key) for key in keys]

    @blocking(amget)
    def mget(self) -> Any:
        """Like ``amget``."""

    @in_store
    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Set the values of keys."""
        rows = [
            {"id": key, "value": base64.b64encode(value).decode()} for key, value in key_value_pairs
        ]
        await self._bridge.write(1, lambda table: table.upsert(rows))

    @blocking(amset)
    def mset(self) -> Any:
        """Like ``amset``."""

    async def amdelete(self, keys: Sequence[str]) -> None:
        """Delete keys. A missing key is not an error."""
        await self._bridge.read(lambda table: table.delete(keys), 0)

    @blocking(amdelete)
    def mdelete(self) -> Any:
        """Like ``amdelete``."""

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, by default all keys, in sorted order."""
        after = ""
        while page := self._page(prefix, after):
            yield from page
            after = page[-1]

    async def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        """Like ``yield_keys``."""
        after = ""
        while page := await self._apage(prefix, after):
            for key in page:
                yield key
            after = page[-1]

    async def _apage(self, prefix: str | None, after: str) -> list[str]:
        where = [F.id > after, F.id.startswith(prefix or "")]
        rows = await self._bridge.read(lambda table: table.find(where, select=[], limit=_PAGE), ())
        return [row.id for row in rows]

    @blocking(_apage)
    def _page(self) -> Any:
        """Like ``_apage``."""
