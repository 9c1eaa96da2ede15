"""The rows as LanceDB holds them, and the answers that its SQL gives."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
from tests.filters.cases import SCHEMA, arrow_table

from aiovec.backend import Expr
from aiovec_lancedb.driver import lancedb
from aiovec_lancedb.rows import stored_form
from aiovec_lancedb.sql.filters import to_sql


class LancedbRows:
    """A table of the cases' rows, made anew for each set of them."""

    def __init__(self, place: str = "memory://", **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._db: Any = self._runner.run(lancedb.connect_async(place, **options))
        self._table: Any = None

    def close(self) -> None:
        self._db.close()
        self._runner.close()

    def hold(self, rows: list[dict[str, Any]]) -> None:
        self._runner.run(self._hold(stored_form(arrow_table(rows), SCHEMA)))

    async def _hold(self, table: pa.Table) -> None:
        numbers = pa.array(range(table.num_rows), pa.int64())
        table = table.append_column("number_", numbers)
        self._table = await self._db.create_table("t", table, mode="overwrite")

    def truths(self, expr: Expr) -> list[bool | None]:
        """What the condition is for each row."""

        async def ask() -> pa.Table:
            sql = to_sql(expr)
            return await self._table.query().select({"n": "number_", "truth": sql}).to_arrow()

        found = self._runner.run(ask()).sort_by("n")
        truths: list[bool | None] = found.column("truth").to_pylist()
        return truths

    def selected(self, expr: Expr) -> list[int]:
        """The numbers of the rows that a filter with the condition selects."""

        async def ask() -> pa.Table:
            query = self._table.query().where(to_sql(expr)).select(["number_"])
            return await query.to_arrow()

        return sorted(self._runner.run(ask()).column("number_").to_pylist())
