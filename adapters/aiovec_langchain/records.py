"""A table of indexed documents as a LangChain ``RecordManager``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from langchain_core.indexing import RecordManager

from aiovec import F, Field, InvalidArgumentError, Table
from aiovec.bridge import (
    Bridge,
    Closable,
    StoreOrTarget,
    blocking,
    table_name,
    table_without_vectors,
)


class AiovecRecordManager(Closable, RecordManager):
    """The records of one namespace, in a separate table of an aiovec store.

    ``store`` and ``options`` are as in ``AiovecVectorStore``. Times come from this machine's clock.
    """

    def __init__(self, namespace: str, store: StoreOrTarget = ":memory:", **options: Any) -> None:
        super().__init__(namespace)
        fields = {"group_id": Field(str, index="btree"), "updated_at": Field(float, index="btree")}
        schema = table_without_vectors(fields)
        self._bridge = Bridge(
            store, table_name(f"records-{namespace}"), lambda dim: schema, **options
        )

    async def acreate_schema(self) -> None:
        """Create the table if it does not exist."""
        await self._bridge.write(1, Table.schema)

    @blocking(acreate_schema)
    def create_schema(self) -> Any:
        """Like ``acreate_schema``."""

    def get_time(self) -> float:
        """Return the time in seconds."""
        return time.time()

    async def aget_time(self) -> float:
        """Like ``get_time``."""
        return self.get_time()

    async def aupdate(
        self,
        keys: Sequence[str],
        *,
        group_ids: Sequence[str | None] | None = None,
        time_at_least: float | None = None,
    ) -> None:
        """Record that these keys were indexed now."""
        groups = group_ids or [None] * len(keys)
        if len(groups) != len(keys):
            raise InvalidArgumentError("group_ids", len(groups), f"as many as keys, {len(keys)}")
        now = self.get_time()
        if time_at_least is not None and time_at_least > now:
            raise InvalidArgumentError("time_at_least", time_at_least, f"not after now, {now}")
        rows = [
            {"id": key, "group_id": group, "updated_at": now}
            for key, group in zip(keys, groups, strict=True)
        ]
        await self._bridge.write(1, lambda table: table.upsert(rows))

    @blocking(aupdate)
    def update(self) -> Any:
        """Like ``aupdate``."""

    async def aexists(self, keys: Sequence[str]) -> list[bool]:
        """Return whether each key is recorded, in the order of the keys."""
        existing = await self._bridge.read(lambda table: table.exists(keys), ())
        return [key in existing for key in keys]

    @blocking(aexists)
    def exists(self) -> Any:
        """Like ``aexists``."""

    async def alist_keys(
        self,
        *,
        before: float | None = None,
        after: float | None = None,
        group_ids: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Return the keys recorded between two times, in these groups or in all groups."""
        where = [F.id > ""]  # every key
        if before is not None:
            where.append(F.updated_at < before)
        if after is not None:
            where.append(F.updated_at > after)
        if group_ids:
            where.append(F.group_id.in_(group_ids))
        rows = await self._bridge.read(
            lambda table: table.find(where, select=[], limit=limit or None), ()
        )
        return [row.id for row in rows]

    @blocking(alist_keys)
    def list_keys(self) -> Any:
        """Like ``alist_keys``."""

    async def adelete_keys(self, keys: Sequence[str]) -> None:
        """Delete the records of these keys."""
        await self._bridge.read(lambda table: table.delete(keys), 0)

    @blocking(adelete_keys)
    def delete_keys(self) -> Any:
        """Like ``adelete_keys``."""
