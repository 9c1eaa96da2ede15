"""Contract tests for updates with rows, each of which has new values for a stored row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.contract.changing import Letters
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    ids_of,
    rows_of_every_kind,
    small_rows,
)

from aiovec import REMOVE, Embed, Field, Record, Schema, VectorStore
from aiovec.errors import AiovecError, EmbeddingError, InvalidArgumentError, InvalidRowError

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
TENANTS = Schema(
    DIM, vector_nullable=True, fields={"tenant": Field(str, partition=True), "year": int}
)
TEXTS = Schema(
    DIM, model="letters", embed=Embed("body"), vector_nullable=True,
    fields={"body": Field(str, text=True), "year": int},
)  # fmt: skip
PHOTOS = Schema(DIM, model="letters", embed=Embed("body"), fields={"body": str, "year": int})
# Updates that are rejected, and change no row.
REFUSED: dict[str, Any] = {
    "an id twice": [{"id": "r0001", "year": 1}, {"id": "r0001", "name": "x"}],
    "no id": [{"id": "r0001", "year": 1}, {"year": 2}],
    "only an id": [{"id": "r0001", "year": 1}, {"id": "r0002"}],
    "a wrong type": [{"id": "r0001", "year": 1}, {"id": "r0002", "year": "x"}],
    "a field removed": [{"id": "r0001", "year": 1}, {"id": "r0002", "year": REMOVE}],
    "no vector": [{"id": "r0001", "year": 1}, {"id": "r0002", "embedding": None}],
    "a short vector": [{"id": "r0001", "year": 1}, {"id": "r0002", "embedding": [1.0]}],
    "a key in a text": [{"id": "r0001", "year": 1}, {"id": "r0002", "payload.kind.deep": 1}],
    "a field as a key": [{"id": "r0001", "year": 1}, {"id": "r0002", "payload.year": 1}],
    "a key and its part": [{"id": "r0001", "kind": {}, "payload.kind.x": 1}],
    "columns without ids": {"year": [1, 2]},
    "columns of two lengths": {"id": ["r0001", "r0002"], "year": [1]},
    "a single text": "r0001",
}


async def _content(store: VectorStore) -> list[dict[str, Any]]:
    return [row.to_dict() for row in await store.find("notes", limit=None, include_vector=True)]


class UpdatingContract(ContractBase):
    """``update`` with rows."""

    @pytest.mark.core
    async def test_rows_change_what_they_have(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(80)
        await filled(store, EVERY_KIND, rows)
        changes: list[dict[str, Any]] = [
            {"id": "r0001", "score": 3.0},
            {"id": "r0002", "name": "x", "payload.nested.number": -1, "tags": None},
            {"id": "absent", "name": "x"},
            {"id": "r0003", "kind": REMOVE, "payload.nested.new.deep": [1], "seen": AT},
            {"id": "r0004", "embedding": [1.0, 0.0, 0.0, 0.5], "live": None, "kind": None},
        ]
        assert await store.update("notes", changes) == 4
        expected = {row["id"]: row for row in rows}
        expected["r0001"]["score"] = 3.0
        expected["r0002"] |= {"name": "x", "tags": None}
        expected["r0002"]["nested"]["number"] = -1
        del expected["r0003"]["kind"]
        expected["r0003"]["nested"]["new"] = {"deep": [1]}
        expected["r0003"]["seen"] = AT
        expected["r0004"] |= {"embedding": [1.0, 0.0, 0.0, 0.5], "live": None, "kind": None}
        assert_same_rows(await store.get("notes", [*expected]), [*expected.values()], EVERY_KIND)

    async def test_many_rows_of_different_keys(self, store: VectorStore) -> None:
        """The result is the same as reading the rows, changing them, and writing whole rows."""
        rows = rows_of_every_kind(300)
        await filled(store, EVERY_KIND, rows)
        await filled(store, EVERY_KIND, rows, name="whole")
        changes: list[dict[str, Any]] = []
        for n, row in enumerate(rows):
            change: dict[str, Any] = {"id": row["id"]}
            change |= {"score": n / 3} if n % 2 else {"name": f"n{n}", "live": n % 4 == 0}
            change |= {"embedding": [1.0, n, 2.0, 3.0]} if n % 3 else {}
            change |= {"kind": n} if n % 5 else {}
            changes.append(change)
        assert await store.update("notes", changes, strict=True) == 300
        whole = [row | change for row, change in zip(rows, changes, strict=True)]
        await store.upsert("whole", whole)
        ids = [row["id"] for row in rows]
        assert_same_rows(await store.get("notes", ids), await _dicts(store, ids), EVERY_KIND)

    async def test_rows_come_in_every_form(self, store: VectorStore) -> None:
        pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
        await filled(store, SMALL, small_rows(100, kind="old"))
        columns = {"id": [f"r{n:04}" for n in range(90)], "year": [*range(90)], "kind": ["x"] * 90}
        rows = pd.DataFrame(columns).to_dict("records")
        table = pa.table(columns)
        forms: dict[str, Any] = {
            "mappings": rows,
            "columns": columns,
            "an iterator": iter(rows),
            "records": [Record(row["id"], None, {**row, "name": "n"}) for row in rows],
            "Arrow": table,
            "batches": table.to_batches(max_chunksize=40),
            "pandas": pd.DataFrame(columns),
            "an index": pd.DataFrame(columns).set_index("id"),
            "Polars": pl.DataFrame(columns),
        }

        async def read() -> AsyncIterator[Any]:
            for row in rows:
                yield row

        for name, form in [*forms.items(), ("an async iterator", read())]:
            with case(name):
                await store.update("notes", {"year": -1, "kind": "old"}, where="TRUE")
                assert await store.update("notes", form) == 90
                after = await _content(store)
                assert [row["year"] for row in after] == [*range(90), *[-1] * 10]
                assert [row["kind"] for row in after] == ["x"] * 90 + ["old"] * 10
                assert all(row["name"] == "n" and len(row["embedding"]) == DIM for row in after)

    async def test_refused_rows_change_nothing(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(10, kind="x"))
        before = await _content(store)
        for name, rows in REFUSED.items():
            with case(name), pytest.raises((InvalidRowError, AiovecError, ValueError)) as caught:
                await store.update("notes", rows)
            assert isinstance(caught.value, AiovecError), name
        for options in ({"ids": ["r0001"]}, {"where": "TRUE"}, {"vector": [1.0] * DIM}):
            with pytest.raises(InvalidArgumentError, match="one mapping"):
                await store.update("notes", [{"id": "r0001", "year": 1}], **options)
        with pytest.raises(InvalidArgumentError, match="strict"):
            await store.update("notes", {"year": 1}, where="TRUE", strict=True)
        assert await _content(store) == before
        assert await store.update("notes", []) == 0

    async def test_strict_refuses_absent_ids(self, notes: VectorStore) -> None:
        before = await _content(notes)
        few = [{"id": "r0001", "year": 1}, {"id": "gone", "year": 1}]
        for count in (0, 100):
            many = [{"id": f"r9{n:03}", "year": 1} for n in range(count)]
            with pytest.raises(InvalidRowError, match="'gone'"):
                await notes.update("notes", [*few, *many], strict=True)
            assert await _content(notes) == before
        assert await notes.update("notes", few[:1], strict=True) == 1

    async def test_partitions_and_vectors_move_with_rows(self, store: VectorStore) -> None:
        for count in (10, 100):  # some backends write them in different ways
            with case(str(count)):
                await store.drop_table("notes", missing_ok=True)
                rows = [
                    {"id": f"r{n:04}", "embedding": [1.0, n, 0.0, 0.0], "tenant": "a", "year": n}
                    for n in range(count)
                ]
                await filled(store, TENANTS, rows)
                changes: list[dict[str, Any]] = [{"id": row["id"], "year": 0} for row in rows]
                changes[1] |= {"tenant": "b"}
                changes[2] |= {"tenant": "b", "embedding": [0.0, 0.0, 1.0, 0.0]}
                changes[3] = {"id": "r0003", "embedding": None}
                assert await store.update("notes", changes) == count
                hits = await store.search("notes", [0.0, 0.0, 1.0, 0.0], where={"tenant": "b"})
                assert ids_of(hits) == ["r0002", "r0001"]
                live = await store.search("notes", [1.0, 3.0, 0.0, 0.0], limit=count)
                assert "r0003" not in ids_of(live)
                assert len(live) == count - 1

    async def test_a_new_text_makes_its_vector(self, tmp_path: Path) -> None:
        embed = Letters()
        async with self.connect(tmp_path, embedders={"default": embed}) as store:
            await self._new_texts(store, embed)

    async def _new_texts(self, store: VectorStore, embed: Letters) -> None:
        rows = [{"id": f"r{n}", "body": "wool", "year": n} for n in range(100)]
        await filled(store, TEXTS, rows)
        calls = embed.calls
        assert await store.update("notes", [{"id": f"r{n}", "year": 1} for n in range(100)]) == 100
        assert embed.calls == calls  # no text changed
        changes: list[dict[str, Any]] = [
            {"id": "r1", "body": "dada"},
            {"id": "r2", "body": None},
            {"id": "r3", "body": "refused", "embedding": [1.0] * DIM},
            {"id": "absent", "body": "refused"},
        ]
        assert await store.update("notes", changes) == 3
        now = {row.id: row.vector for row in await store.get("notes", ["r1", "r2", "r3", "r4"])}
        assert now["r2"] is None
        wool, dada = (await embed(["wool", "dada"]))[:2]
        for id, vector in {"r1": dada, "r3": [1.0] * DIM, "r4": wool}.items():
            assert np.allclose(now[id], vector)
        before = await _content(store)
        with pytest.raises(EmbeddingError) as caught:
            await store.update("notes", [{"id": "r5", "year": 5}, {"id": "r6", "body": "refused"}])
        assert caught.value.id == "r6"
        assert await _content(store) == before
        if store.supports("text"):
            assert ids_of(await store.search_text("notes", "dada")) == ["r1"]
            assert len(await store.search_text("notes", "wool", limit=200)) == 97
        await filled(store, PHOTOS, [{"id": "r1", "body": "wool"}], name="photos")
        for row in ({"id": "r1", "body": ""}, {"id": "r1", "embedding": None}):
            with pytest.raises(InvalidRowError, match="text"):
                await store.update("photos", [row])

    async def test_an_update_of_rows_is_seen_whole(self, store: VectorStore) -> None:
        rows = [{"id": f"r{n:04}", "embedding": [1.0] * DIM, "year": 0} for n in range(2_000)]
        await filled(store, SMALL, rows)
        ids = [row["id"] for row in rows]

        async def write() -> None:
            for year in range(1, 6):
                changes: Any = {"id": ids, "year": [year] * len(ids)}
                if year % 2:
                    changes = [{"id": id, "year": year, "name": "odd"} for id in ids[::2]]
                    changes += [{"id": id, "year": year, "payload.n": year} for id in ids[1::2]]
                await store.update("notes", changes)

        writer = asyncio.create_task(write())
        while not writer.done():
            counts = await store.distinct("notes", "year")
            assert list(counts.values()) == [2_000], counts
        await writer
        assert dict(await store.distinct("notes", "year")) == {5: 2_000}

    async def test_records_without_their_vectors_keep_them(self, notes: VectorStore) -> None:
        before = await _content(notes)
        assert await notes.update("notes", await notes.find("notes")) == 10
        assert await _content(notes) == before


async def _dicts(store: VectorStore, ids: list[str]) -> list[dict[str, Any]]:
    return [row.to_dict() for row in await store.get("whole", ids)]
