"""Contract tests for exports: one snapshot in Arrow batches, which can continue after a cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.oracle import arrow_table
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    rows_of_every_kind,
    small_rows,
    vectors,
)

from aiovec import FilterError, InvalidNameError, Schema, StoreClosedError, VectorStore
from aiovec.backend import pa


async def _batches(store: VectorStore, **options: Any) -> list[pa.RecordBatch]:
    return [batch async for batch in store.export("notes", **options)]


def _ids(batches: list[pa.RecordBatch]) -> list[str]:
    return [id for batch in batches for id in batch.column("id").to_pylist()]


class ExportingContract(ContractBase):
    """``export``."""

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_an_export_has_every_row_and_value(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(50)
        await filled(store, EVERY_KIND, rows)
        batches = await _batches(store)
        layout = EVERY_KIND.to_arrow()
        for batch in batches:
            batch.validate(full=True)
            assert batch.schema.equals(layout), batch.schema
            assert Schema.from_arrow(batch.schema) == EVERY_KIND
        exported = pa.Table.from_batches([b.replace_schema_metadata(None) for b in batches])
        exported = exported.sort_by("id").combine_chunks()
        expected = arrow_table(rows, EVERY_KIND)
        for name in ("id", *EVERY_KIND.fields):
            assert exported.column(name).equals(expected.column(name)), name
        assert np.array_equal(
            _matrix(exported.column("embedding")), np.stack([row["embedding"] for row in rows])
        )
        await store.create_table("copy", EVERY_KIND)
        await store.insert("copy", batches)
        assert_same_rows(await store.get("copy", [r["id"] for r in rows]), rows, EVERY_KIND)

    @pytest.mark.arrow
    async def test_batches_carry_the_schema(self, store: VectorStore) -> None:
        schemas = {
            "dot": Schema(3, metric="dot", model="m", vector="Vec", fields={"a": str}),
            "l2": Schema(8, metric="l2", payload=False),
        }
        for name, schema in schemas.items():
            await store.create_table(name, schema)
            assert [batch async for batch in store.export(name) if batch.num_rows] == []
            await store.insert(name, [{"id": "x", schema.vector: vectors(1, schema.dim)[0]}])
            (batch,) = [batch async for batch in store.export(name)]
            assert batch.schema.names == schema.to_arrow().names
            assert Schema.from_arrow(batch.schema) == schema

    @pytest.mark.arrow
    async def test_batches_have_the_requested_size(self, notes: VectorStore) -> None:
        for size in (1, 7, 10, 11, 2**40):
            with case(size):
                batches = await _batches(notes, batch_size=size)
                assert sorted(_ids(batches)) == [f"r{n:04}" for n in range(10)]
                assert len(batches) == -(-10 // size)

    @pytest.mark.arrow
    async def test_a_column_of_equal_values_or_nulls_is_exported_in_full(
        self, store: VectorStore
    ) -> None:
        """Columns of equal values or of nulls have a value for each row."""
        schema = Schema(DIM, fields={"name": str, "year": int, "tags": list[str]})
        rows: list[dict[str, Any]] = [
            {"id": f"r{n:04}", "embedding": [1.0] * DIM, "name": "same", "tags": ["t"]}
            for n in range(600)
        ]
        await filled(store, schema, rows)
        table = pa.Table.from_batches(
            [b.replace_schema_metadata(None) for b in await _batches(store, batch_size=256)]
        )
        assert table.column("name").to_pylist() == ["same"] * 600
        assert table.column("year").to_pylist() == [None] * 600
        assert table.column("tags").to_pylist() == [["t"]] * 600
        assert table.column("payload").null_count == 600
        assert (_matrix(table.column("embedding")) == 1).all()

    @pytest.mark.arrow
    async def test_an_export_takes_a_filter_and_a_selection(self, notes: VectorStore) -> None:
        assert sorted(_ids(await _batches(notes, where="year >= 7", batch_size=2))) == [
            "r0007", "r0008", "r0009",
        ]  # fmt: skip
        for select, names in (
            (["year"], {"id", "year"}),
            ([], {"id"}),
            (["embedding", "name", "name"], {"id", "embedding", "name"}),
            (["payload"], {"id", "payload"}),
            (iter(["id", "year"]), {"id", "year"}),
        ):
            batches = await _batches(notes, select=select)
            assert set(batches[0].schema.names) == names
            assert batches[0].schema.names[0] == "id"
            assert len(_ids(batches)) == 10
        for name in ("absent", "payload.x"):
            with pytest.raises(InvalidNameError):
                await _batches(notes, select=[name])
        with pytest.raises(FilterError):
            await _batches(notes, where="absent = 1")

    # One snapshot

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_writes_during_an_export_are_not_seen(self, store: VectorStore) -> None:
        rows = small_rows(500)
        await filled(store, SMALL, rows)
        batches = []
        async for batch in store.export("notes", batch_size=50):
            batches.append(batch)
            step = len(batches)
            await store.insert("notes", small_rows(20, start=1000 * step))
            await store.update("notes", {"name": "changed", "year": -1}, where="TRUE")
            await store.upsert("notes", [{"id": f"r{step:04}", "embedding": [9.0] * DIM}])
            await store.delete("notes", [f"r{500 - 30 * step + n:04}" for n in range(10)])
        table = pa.Table.from_batches([b.replace_schema_metadata(None) for b in batches])
        table = table.sort_by("id")
        assert table.column("id").to_pylist() == [row["id"] for row in rows]
        assert table.column("year").to_pylist() == [row["year"] for row in rows]
        assert set(table.column("name").to_pylist()) == {"n"}
        assert np.array_equal(
            _matrix(table.column("embedding")), np.stack([row["embedding"] for row in rows])
        )
        assert await store.count("notes") == 500 + 20 * 10 - 10 * 10

    @pytest.mark.arrow
    async def test_exports_at_once_each_have_their_snapshot(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(40))
        exports = []
        for n in range(4):
            export = store.export("notes", batch_size=5)
            exports.append((export, [await anext(export)]))
            await store.insert("notes", small_rows(10, start=100 * (n + 1)))

        async def rest(export: AsyncIterator[pa.RecordBatch], seen: list[pa.RecordBatch]) -> int:
            return len(set(_ids([*seen, *[batch async for batch in export]])))

        counts = await asyncio.gather(*(rest(export, seen) for export, seen in exports))
        assert counts == [40, 50, 60, 70]

    @pytest.mark.arrow
    async def test_leaving_early_frees_the_store(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(200))
        for _ in range(20):
            async with aclosing(store.export("notes", batch_size=10)) as batches:
                assert (await anext(batches)).num_rows == 10
        await store.insert("notes", small_rows(1, start=900))
        await store.drop_table("notes")

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_exports_that_are_left_end_with_their_store(self, store: VectorStore) -> None:
        """They raise an error, so that they do not look complete."""
        await filled(store, SMALL, small_rows(200))
        exports = [store.export("notes", batch_size=10) for _ in range(2)]
        await anext(exports[0])
        await store.close()
        for export in exports:
            with pytest.raises(StoreClosedError):
                await anext(export)

    @pytest.mark.arrow
    async def test_a_ninth_export_waits_for_its_turn(self, tmp_path: Path) -> None:
        """Each export holds a snapshot and some rows, so their number is limited."""
        # The rows are larger than the buffers between a server and its client, so that no export
        # ends early.
        rows = [{**row, "long": "x" * 250_000} for row in small_rows(200)]
        async with self.connect(tmp_path) as store:
            await filled(store, SMALL, rows)
            exports = [store.export("notes", batch_size=10) for _ in range(10)]
            for export in exports[:8]:
                assert (await anext(export)).num_rows == 10
            ninth, left = (asyncio.ensure_future(anext(export)) for export in exports[8:])
            done, _ = await asyncio.wait({ninth, left}, timeout=0.3)
            assert not done
            assert await store.count("notes") == 200
            left.cancel()
            await exports[0].aclose()
            assert (await ninth).num_rows == 10

    # Cursors

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_every_batch_carries_a_cursor_that_goes_on_behind_it(
        self, store: VectorStore, tmp_path: Path
    ) -> None:
        """The cursor also works with a filter, and after the store is opened again."""
        await filled(store, SMALL, small_rows(100))
        for options in ({}, {"where": "year >= 20", "select": ["year"]}):
            batches = await _batches(store, batch_size=17, **options)
            everything, done = _ids(batches), 0
            assert len(set(everything)) == (80 if options else 100)
            for batch in batches:
                done += batch.num_rows
                cursor = (batch.schema.metadata or {})[b"aiovec.cursor"]
                assert isinstance(cursor, bytes)
                rest = await _batches(store, batch_size=30, after=cursor, **options)
                assert _ids(rest) == everything[done:]
        cursor = batches[0].schema.metadata[b"aiovec.cursor"]
        await store.close()
        if self.persistent:
            async with self.connect(tmp_path) as again:
                rest = await _batches(again, after=cursor, **options)
                assert _ids(rest) == everything[batches[0].num_rows :]

    @pytest.mark.arrow
    async def test_a_cursor_opens_a_new_snapshot(self, store: VectorStore) -> None:
        rows = small_rows(100)
        await filled(store, SMALL, rows)
        seen: list[str] = []
        cursor = None
        for step in range(1_000):
            first = None
            async with aclosing(store.export("notes", batch_size=9, after=cursor)) as batches:
                async for batch in batches:
                    first = batch
                    break
            if first is None:
                break
            seen += _ids([first])
            cursor = first.schema.metadata[b"aiovec.cursor"]
            if step == 3:
                # Delete before and after the cursor: each remaining row is exported exactly once.
                await store.delete("notes", [f"r{n:04}" for n in range(0, 100, 10)])
                await store.insert("notes", small_rows(5, start=500))
        staying = [row["id"] for row in rows if row["year"] % 10]
        assert [id for id in sorted(seen) if id in set(staying)] == staying


def _matrix(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)
