"""The toy backend with every ability, and with calls that can be made to hang."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.toy_backend import ToyBackend

from aiovec import IndexInfo
from aiovec.backend import (
    Backups,
    Columns,
    Found,
    Order,
    Ref,
    Snapshots,
    StoredRows,
    TableHandle,
    TextQuery,
    TextSearch,
    VectorIndexes,
    VectorQuery,
)


class AbleBackend(ToyBackend, TextSearch, VectorIndexes, Snapshots, Backups):
    target = "toy://user:SECRET-password@host/path?key=SECRET-key"

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        if self.hangs:
            await asyncio.sleep(3600)
        return await super().search(table, queries)

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        rows: StoredRows = await self.find(
            table, where=query.where, order_by=[Order(Ref("id"))], limit=query.limit, offset=0,
            columns=Columns(query.columns.fields, query.columns.payload, query.columns.vector),
        )  # fmt: skip
        return Found(rows, [1.0] * len(rows.ids))

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None: ...

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        return []

    async def drop_index(self, table: TableHandle, name: str) -> None: ...

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        return []

    async def restore(self, table: TableHandle, version: int) -> None: ...

    async def backup(self, path: Path) -> None: ...
