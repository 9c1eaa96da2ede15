"""Reading without a vector: get, find, count, and the records that come out."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from .._core.records import Record
from .._core.schema import Field, Schema
from .._core.store import VectorStore
from .._filters import F
from ..errors import InvalidArgumentError, InvalidNameError
from .base import ContractBase, case
from .loop_time import own_work
from .values import (
    DIM,
    EPOCH,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    flat,
    ids_of,
    rows_of_every_kind,
    small_rows,
    vectors,
)

# Values of each kind in their order, the null last.
ORDERED: dict[str, list[Any]] = {
    "name": ["", " ", "10", "9", "A", "Z", "a", "e\u0301", "z", "é", "日", "\uffff", "😀", None],
    "year": [-(2**63), -5, 0, 3, 20, 2**53, 2**53 + 1, 2**63 - 1, None],
    "score": [float("-inf"), -1e300, -0.5, 0.0, 5e-324, 0.1, 1.0, 1e300, float("inf"), None],
    "live": [False, True, None],
    "seen": [
        EPOCH - timedelta(days=400_000), EPOCH - timedelta(microseconds=1), EPOCH,
        EPOCH + timedelta(microseconds=1), EPOCH + timedelta(days=2_000_000), None,
    ],
}  # fmt: skip


class ReadingContract(ContractBase):
    """``get``, ``find`` and ``count``."""

    async def test_get_gives_the_order_asked(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(20)
        await self.table(store, EVERY_KIND, rows)
        order = [7, 3, 19, 0]
        ids = [rows[n]["id"] for n in order]
        found = await store.get("notes", [ids[0], "absent", *ids[1:], "", "x" * 600, "a\0"])
        assert_same_rows(found, [rows[n] for n in order], EVERY_KIND)
        assert_same_rows(await store.get("notes", "r0003"), [rows[3]], EVERY_KIND)
        assert ids_of(await store.get("notes", iter(["r0001", "r0002", "r0001"]))) == [
            "r0001", "r0002", "r0001",
        ]  # fmt: skip
        assert await store.get("notes", []) == []
        assert await store.get("notes", "absent") == []

    async def test_get_of_many_ids(self, store: VectorStore) -> None:
        rows = small_rows(2_000)
        await self.table(store, SMALL, rows)
        with own_work():
            ids = [row["id"] for row in reversed(rows)]
            asked = [*ids, *(f"absent {n}" for n in range(40_000))]
        found = await store.get("notes", asked)
        with own_work():
            assert ids_of(found) == ids
            del rows, found, asked

    async def test_a_record_tells_its_row(self, store: VectorStore) -> None:
        schema = Schema(DIM, vector="vec", fields={"year": int})
        await self.table(store, schema, [{"id": "x", "vec": [1, 2, 3, 4], "year": 5, "more": "y"}])
        (record,) = await store.get("notes", "x")
        assert isinstance(record, Record)
        assert record["year"] == 5
        with pytest.raises(KeyError):
            record["absent"]
        assert record.to_dict() == {"id": "x", "vec": [1.0, 2.0, 3.0, 4.0], "year": 5, "more": "y"}
        assert record.vector is not None
        assert record.vector.dtype == np.float32
        assert record == (await store.get("notes", "x"))[0]

    async def test_a_records_vector_is_the_callers(self, notes: VectorStore) -> None:
        (record,) = await notes.get("notes", "r0001")
        assert record.vector is not None
        before = record.vector.copy()
        kept = np.array(record.vector)
        kept[:] = 7
        if record.vector.flags.writeable:
            record.vector[:] = 7
        (again,) = await notes.get("notes", "r0001")
        assert again.vector is not None
        assert np.array_equal(again.vector, before)

    # Find

    async def test_find_is_by_id_and_without_vectors(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(120)
        await self.table(store, EVERY_KIND, rows[::-1])
        found = await store.find("notes")
        assert ids_of(found) == [row["id"] for row in rows[:100]]
        assert all(record.vector is None for record in found)
        assert [dict(record.fields) for record in found] == [
            flat(row, EVERY_KIND) for row in rows[:100]
        ]
        assert "embedding" not in found[0].to_dict()
        descending = await store.find("notes", descending=True, limit=3)
        assert ids_of(descending) == ["r0119", "r0118", "r0117"]

    async def test_find_pages(self, notes: VectorStore) -> None:
        ids = [f"r{n:04}" for n in range(10)]
        pages = [ids_of(await notes.find("notes", limit=4, offset=n)) for n in (0, 4, 8, 12)]
        assert pages == [ids[:4], ids[4:8], ids[8:], []]
        assert ids_of(await notes.find("notes", limit=10**20)) == ids
        assert await notes.find("notes", limit=5, offset=10**20) == []
        assert ids_of(await notes.find("notes", "year > 3", limit=2, offset=1)) == ids[5:7]

    @pytest.mark.parametrize("name", ORDERED)
    async def test_find_orders_by_a_field(self, store: VectorStore, name: str) -> None:
        values = ORDERED[name]
        # Each value twice, the later id first, so that only sorting by id can order equals.
        rows = [
            {"id": f"{place:02}{twin}", "embedding": [1.0] * DIM, name: value}
            for twin in "ba"
            for place, value in enumerate(values)
        ]
        await self.table(store, EVERY_KIND, rows)
        places = range(len(values))
        rising = [f"{place:02}{twin}" for place in places for twin in "ab"]
        assert ids_of(await store.find("notes", order_by=name)) == rising
        nulls = rising[-2:]
        falling = [f"{p:02}{twin}" for p in reversed(places[:-1]) for twin in "ab"] + nulls
        assert ids_of(await store.find("notes", order_by=name, descending=True)) == falling
        page = await store.find("notes", order_by=name, descending=True, limit=3, offset=2)
        assert ids_of(page) == falling[2:5]
        found = await store.find("notes", order_by=name, select=[name])
        assert [record[name] for record in found] == [v for v in values for _ in "ab"]

    async def test_find_orders_selects_and_filters_in_every_combination(
        self, store: VectorStore
    ) -> None:
        """B15: an order by a field that is not selected, with and without a filter."""
        fields: dict[str, type | Field] = {
            "year": int,
            "rank": Field(int, index="btree"),
            "lang": Field(str, index="bitmap"),
        }
        schema = Schema(dim=DIM, fields=fields)
        rows: list[dict[str, Any]] = [
            {
                "id": f"r{n:03}", "embedding": [1.0 + n, 1.0, 0.0, 2.0], "year": n * 7 % 5,
                "rank": n * 3 % 8 or None, "lang": "deen"[n % 2 * 2 :][:2], "extra": n,
            }
            for n in range(40)
        ]  # fmt: skip
        await store.create_table("notes", schema)
        await store.insert("notes", rows[:25])
        await store.insert("notes", rows[25:])
        filters = {
            None: rows,
            "year > 1": [row for row in rows if row["year"] > 1],
            "lang = 'de'": [row for row in rows if row["lang"] == "de"],
            "rank = 6 OR rank IS NULL": [row for row in rows if row["rank"] in (6, None)],
            "payload.extra < 9": rows[:9],
            "year > 99": [],
        }
        selections: tuple[list[str] | None, ...] = (
            None, [], ["id"], ["year"], ["rank"], ["lang"], ["embedding"], ["payload"],
            ["rank", "lang"], ["payload.extra", "embedding", "year"],
        )  # fmt: skip
        pages = itertools.cycle(((100, 0), (3, 0), (5, 4), (100, 38), (1, 99), (2, 7), (9, 1)))
        for (where, wanted), order, descending in itertools.product(
            filters.items(), (None, "id", "year", "rank", "lang"), (False, True)
        ):
            key = order or "id"
            there = [row for row in wanted if row[key] is not None]
            there.sort(key=lambda row: row["id"])
            there.sort(key=lambda row: row[key], reverse=descending)
            ranked = there + [row for row in wanted if row[key] is None]
            for select, (limit, offset) in zip(selections, pages, strict=False):
                case = (where, order, descending, select, limit, offset)
                found = await store.find(
                    "notes", where, order_by=order, descending=descending, limit=limit,
                    offset=offset, select=select,
                )  # fmt: skip
                page = ranked[offset : offset + limit]
                assert ids_of(found) == [row["id"] for row in page], case
                for record, row in zip(found, page, strict=True):
                    assert all(record[name] == row[name] for name in record.fields), case
                    asked = select is not None and "embedding" in select
                    assert (record.vector is not None) is asked, case
                    if record.vector is not None:
                        assert record.vector.tolist() == row["embedding"], case

    async def test_find_orders_only_by_what_has_an_order(self, notes: VectorStore) -> None:
        await notes.add_field("notes", "tags", list[str])
        for name in ("tags", "embedding", "payload", "payload.x", "absent", "NAME", ""):
            with pytest.raises(InvalidArgumentError) as caught:
                await notes.find("notes", order_by=name)
            assert caught.value.argument == "order_by"
            assert "year" in caught.value.expected
        assert len(await notes.find("notes", order_by="id")) == 10

    async def test_find_selects(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(6)
        await self.table(store, EVERY_KIND, rows)
        row = rows[3]

        async def third(*select: str) -> tuple[set[str], bool]:
            record = (await store.find("notes", select=select))[3]
            assert record.id == row["id"]
            for name, value in record.fields.items():
                assert value == row[name]
            if record.vector is not None:
                assert np.array_equal(record.vector, row["embedding"])
            return set(record.fields), record.vector is not None

        assert await third() == (set(), False)
        assert await third("id") == (set(), False)
        assert await third("year") == ({"year"}, False)
        assert await third("tags", "year", "year") == ({"tags", "year"}, False)
        assert await third("embedding") == (set(), True)
        assert await third("name", "embedding") == ({"name"}, True)
        assert await third("payload") == ({"kind", "nested"}, False)
        assert await third("payload.kind") == ({"kind"}, False)
        assert await third("payload.kind", "payload.absent", "live") == ({"kind", "live"}, False)
        assert await third("payload", "payload.kind") == ({"kind", "nested"}, False)

    async def test_a_path_selects_what_it_means_in_filters(self, store: VectorStore) -> None:
        """19c: with dots, ``select`` meant the flat key and a filter the nested one."""
        payload = {
            "a": {"b": 1, "c": {"d": None, "e": 2}}, "a.b": 3, 'say "x"': 4, "odd key": 5, "l": [1],
        }  # fmt: skip
        await self.table(store, SMALL, [{"id": "x", "embedding": [1.0] * DIM, **payload}])
        for select, expected, where in (
            (["payload.a.b"], {"a": {"b": 1}}, "payload.a.b = 1"),
            (["payload.a.c.e", "payload.a.b"], {"a": {"b": 1, "c": {"e": 2}}}, "payload.a.c.e = 2"),
            (["payload.a.c"], {"a": {"c": {"d": None, "e": 2}}}, "payload.a.c.e = 2"),
            (["payload.a.c.d"], {"a": {"c": {"d": None}}}, "payload.a.c.d IS NULL"),
            (["payload.a", "payload.a.b"], {"a": payload["a"]}, "payload.a.b = 1"),
            (["payload.a.b", "payload.a"], {"a": payload["a"]}, "payload.a.b = 1"),
            (['payload."a.b"'], {"a.b": 3}, 'payload."a.b" = 3'),
            (['payload."say ""x"""'], {'say "x"': 4}, 'payload."say ""x""" = 4'),
            (["payload.odd key"], {"odd key": 5}, F["payload.odd key"] == 5),
            (['payload."a"."b"'], {"a": {"b": 1}}, 'payload."a"."b" = 1'),
            (["payload.l.x"], {}, "payload.l.x IS NULL"),
            (["payload.absent.x", "payload.a.b.c"], {}, "payload.a.b.c IS NULL"),
        ):
            with case(select):
                (record,) = await store.find("notes", where, select=select)
                assert record.fields == expected
                (hit,) = await store.search("notes", [1.0] * DIM, where=where, select=select)
                assert hit.fields == expected
        for wrong in (
            "payload.",
            "payload..a",
            "payload.a.",
            'payload."a',
            'payload."a"b',
            "payloa",
        ):
            with case(wrong), pytest.raises(InvalidNameError):
                await store.find("notes", select=[wrong])
        for name in ("absent", "kind", "payloads", "NAME", "", "*"):
            with pytest.raises(InvalidNameError) as caught:
                await store.find("notes", select=["year", name])
            assert caught.value.name == name

    async def test_limits_are_positive_whole_numbers(self, notes: VectorStore) -> None:
        wrong: Any
        for wrong in (0, -1, 1.5, "3", None, True):
            with pytest.raises(InvalidArgumentError) as caught:
                await notes.find("notes", limit=wrong)
            assert caught.value.argument == "limit"
            with pytest.raises(InvalidArgumentError) as caught:
                await notes.search("notes", vectors(1)[0], limit=wrong)
            assert caught.value.argument == "limit"
        for wrong in (-1, 1.5, "3", None):
            with pytest.raises(InvalidArgumentError) as caught:
                await notes.find("notes", offset=wrong)
            assert caught.value.argument == "offset"

    # Count

    async def test_count(self, notes: VectorStore) -> None:
        assert await notes.count("notes") == 10
        assert await notes.count("notes", "year >= 4") == 6
        assert await notes.count("notes", F.year >= 4) == 6
        assert await notes.count("notes", "FALSE") == 0
        assert await notes.count("notes", "TRUE") == 10
        await notes.create_table("empty", SMALL)
        assert await notes.count("empty") == 0
        assert await notes.count("empty", "year > 0") == 0
