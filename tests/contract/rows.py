"""Contract tests for ``rows``: one snapshot, row by row, without Arrow objects."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.base import ContractBase, filled
from tests.harness.values import EVERY_KIND, SMALL, assert_same_rows, rows_of_every_kind, small_rows

from aiovec import Record, Results, VectorStore
from aiovec.errors import FilterError, InvalidNameError, TableNotFoundError


async def _all(store: VectorStore, **options: Any) -> list[Record]:
    return [row async for row in store.rows("notes", **options)]


class RowsContract(ContractBase):
    """``rows``."""

    @pytest.mark.core
    async def test_rows_has_the_rows_of_get(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(50)
        await filled(store, EVERY_KIND, rows)
        every = {row.id: row for row in await _all(store, include_vector=True)}
        assert_same_rows(Results([every[row["id"]] for row in rows]), rows, EVERY_KIND)

    async def test_rows_takes_a_filter_and_a_selection(self, notes: VectorStore) -> None:
        rows = await _all(notes, where="year >= 7", select=["year"])
        assert sorted((row.id, dict(row)) for row in rows) == [
            (f"r{n:04}", {"id": f"r{n:04}", "year": n}) for n in (7, 8, 9)
        ]
        assert all(row.vector is None for row in rows)
        with pytest.raises(InvalidNameError):
            await _all(notes, select=["absent"])
        with pytest.raises(FilterError):
            await _all(notes, where="absent = 1")
        with pytest.raises(TableNotFoundError):
            async for _ in notes.rows("absent"):
                pass

    @pytest.mark.core
    async def test_writes_while_rows_are_read_are_not_seen(self, store: VectorStore) -> None:
        rows = small_rows(2500)
        await filled(store, SMALL, rows)
        seen = []
        async for row in store.rows("notes"):
            if not seen:
                await store.insert("notes", small_rows(20, start=5000))
                await store.update("notes", {"year": -1}, where="TRUE")
                await store.delete("notes", ["r2499"])
            seen.append((row.id, row["year"]))
        assert sorted(seen) == [(row["id"], row["year"]) for row in rows]
