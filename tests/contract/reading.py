"""Reading without a vector: get, find, count, and the records that come out."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.values import (
    DIM,
    EPOCH,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    flat,
    ids_of,
    rows_of_every_kind,
)

from aiovec import F, Field, Schema, VectorStore
from aiovec.errors import InvalidArgumentError

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

    @pytest.mark.core
    async def test_get_gives_the_order_asked(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(20)
        await filled(store, EVERY_KIND, rows)
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

    # Find

    @pytest.mark.core
    async def test_find_is_by_id_and_without_vectors(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(120)
        await filled(store, EVERY_KIND, rows[::-1])
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
        assert ids_of(await notes.find("notes", limit=100_000)) == ids
        assert ids_of(await notes.find("notes", limit=None)) == ids
        assert ids_of(await notes.find("notes", "year > 3", limit=None, offset=2)) == ids[6:]
        assert await notes.find("notes", limit=5, offset=50_000) == []
        assert ids_of(await notes.find("notes", "year > 3", limit=2, offset=1)) == ids[5:7]

    async def test_find_orders_by_a_field(self, store: VectorStore) -> None:
        for name, values in ORDERED.items():
            # Each value twice, the later id first, so that only sorting by id can order equals.
            rows = [
                {"id": f"{place:02}{twin}", "embedding": [1.0] * DIM, name: value}
                for twin in "ba"
                for place, value in enumerate(values)
            ]
            await filled(store, EVERY_KIND, rows, name=name)
            places = range(len(values))
            rising = [f"{place:02}{twin}" for place in places for twin in "ab"]
            falling = [f"{p:02}{twin}" for p in reversed(places[:-1]) for twin in "ab"] + rising[
                -2:
            ]
            with case(name):
                assert ids_of(await store.find(name, order_by=name)) == rising
                assert ids_of(await store.find(name, order_by=f"-{name}")) == falling
                page = await store.find(
                    name, order_by=name, descending=True, limit=3, offset=2, select=[name]
                )
                assert ids_of(page) == falling[2:5]
                found = await store.find(name, order_by=name, select=[name])
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
        halves = itertools.cycle((selections[::2], selections[1::2], selections[:5]))
        pages = itertools.cycle(((100, 0), (3, 0), (5, 4), (100, 38), (1, 99), (2, 7), (9, 1)))
        for (where, wanted), order, descending in itertools.product(
            filters.items(), (None, "id", "year", "rank", "lang"), (False, True)
        ):
            key = order or "id"
            there = [row for row in wanted if row[key] is not None]
            there.sort(key=lambda row: row["id"])
            there.sort(key=lambda row: row[key], reverse=descending)
            ranked = there + [row for row in wanted if row[key] is None]
            for select, (limit, offset) in zip(next(halves), pages, strict=False):
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

    async def test_find_orders_by_several_keys(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"year": int, "name": str, "seen": datetime, "live": bool})
        rows: list[dict[str, Any]] = [
            {
                "id": f"r{n:02}", "embedding": [1.0 + n] * DIM, "year": (n * 7 % 3) or None,
                "name": "ab"[n % 2], "seen": datetime(2024, 1, 1 + n % 4, tzinfo=UTC),
                "live": (True, False, None)[n % 3], "rank": n * 5 % 4,
            }
            for n in range(24)
        ]  # fmt: skip
        await filled(store, schema, rows)
        orders: tuple[list[str], ...] = (
            ["year", "-id"], ["-year", "name"], ["name", "-year", "seen"], ["-seen", "-name"],
            ["live", "-year"], ["-live", "id"], ["name", "-name", "year"], ["-id", "year"],
            ["payload.rank", "-year"], ["-name", "-payload.rank"], ["payload.rank", "-id"],
            ["payload.absent", "-payload.rank", "live", "seen"], ["-seen", "payload.rank"],
        )  # fmt: skip
        for keys, turned, where in itertools.product(orders, (False, True), (None, "year = 1")):
            expected = [row for row in rows if where is None or row["year"] == 1]
            for key in reversed(keys):
                name = key.removeprefix("-").removeprefix("payload.")
                there = [row for row in expected if row.get(name) is not None]
                there.sort(key=lambda row: row[name], reverse=key.startswith("-") is not turned)
                expected = there + [row for row in expected if row.get(name) is None]
            for limit, offset in ((100, 0), (5, 3), (1, 30)):
                found = await store.find(
                    "notes", where, order_by=iter(keys), descending=turned, limit=limit,
                    offset=offset, select=["name"],
                )  # fmt: skip
                page = [row["id"] for row in expected[offset : offset + limit]]
                assert ids_of(found) == page, (keys, turned, where, limit, offset)

    @pytest.mark.core
    async def test_distinct_values_of_every_kind(self, store: VectorStore) -> None:
        kinds: dict[str, list[Any]] = {
            "name": ["b", "a", "a", "", "\0", "a\0b", "é", "日", "😀", "'; DROP TABLE notes; --"],
            "year": [3, -(2**63), 2**63 - 1, 0, 0, 3, 3, 2**53 + 1, 2**53, 1],
            "score": [0.1, -0.0, 0.0, 1e300, 5e-324, 0.1, 0.1, -1.5, 1 / 3, 2.0],
            "seen": [datetime(2024, 1, 1 + n % 4, 1, 2, 3, n, UTC) for n in range(10)],
            "live": [True, False, True, True, False, True, True, False, True, True],
        }
        rows: list[dict[str, Any]] = [
            {
                "id": f"r{n:02}", "embedding": [1.0 + n] * DIM,
                **{name: values[n] if n < 10 else None for name, values in kinds.items()},
            }
            for n in range(12)
        ]  # fmt: skip
        await filled(store, EVERY_KIND, rows)
        for name, values in kinds.items():
            expected = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))
            for limit in (None, 1, 3, 1_000):
                found = await store.distinct("notes", name, limit=limit)
                assert list(found.items()) == expected[:limit], (name, limit)
                assert [type(value) for value in found] == [type(v) for v, _ in expected[:limit]]
            assert await store.bounds("notes", name) == (min(values), max(values))
            some = values[2:5]
            chosen = "id >= 'r02' AND id < 'r05'"
            assert await store.distinct("notes", name, chosen) == Counter(some)
            assert await store.bounds("notes", name, chosen) == (min(some), max(some))
            assert await store.distinct("notes", name, "id >= 'r10'") == {}
            assert await store.bounds("notes", name, "id >= 'r10'") is None
        assert await store.bounds("notes", "id") == ("r00", "r11")
        assert list(await store.distinct("notes", "id", limit=2)) == ["r00", "r01"]

    async def test_distinct_items_of_lists_are_counted_once_a_row(self, store: VectorStore) -> None:
        lists = [["b", "a"], ["a", "a"], [], None, ["x", "\0", "😀"], ["b"], ["b"]]
        rows = [
            {"id": f"r{n}", "embedding": [1.0] * DIM, "tags": tags} for n, tags in enumerate(lists)
        ]
        await filled(store, EVERY_KIND, rows)
        found = await store.distinct("notes", "tags")
        assert list(found.items()) == [("b", 3), ("a", 2), ("\0", 1), ("x", 1), ("😀", 1)]
        for item, count in found.items():
            assert await store.count("notes", F.tags.contains(item)) == count
        assert await store.distinct("notes", "tags", "id = 'r1'") == {"a": 1}
        assert await store.distinct("notes", "tags", limit=1) == {"b": 3}

    async def test_distinct_values_of_a_payload(self, store: VectorStore) -> None:
        values: list[Any] = [
            "1", 1, 1.0, -0.0, 0, 2**53, 2**53 + 1, 2**63 - 1, 1e300, 0.5, "", "a", "a", "\0", "é",
            None, [], [[]], {}, {"k": 1}, "null", "[]", "true",
        ]  # fmt: skip
        rows: list[dict[str, Any]] = [
            {"id": f"r{n:02}", "embedding": [1.0] * DIM, "k": value, "in": {"o.p": value}}
            for n, value in enumerate(values)
        ]
        rows += [{"id": "x", "embedding": [1.0] * DIM}]
        await filled(store, SMALL, rows)
        expected = [
            (0, 2), (1, 2), ("a", 2), (0.5, 1), (2**53, 1), (2**53 + 1, 1), (2**63 - 1, 1),
            (1e300, 1), ("", 1), ("\0", 1), ("1", 1), ("[]", 1), ("null", 1), ("true", 1), ("é", 1),
        ]  # fmt: skip
        for name in ("payload.k", 'payload.in."o.p"'):
            for limit in (None, 2, 4):
                found = await store.distinct("notes", name, limit=limit)
                assert list(found.items()) == expected[:limit]
                assert [type(value) for value in found] == [type(v) for v, _ in expected[:limit]]
            assert await store.bounds("notes", name) == (0, "é")
            assert await store.bounds("notes", name, f"{name} >= 1") == (1, 1e300)
        truths = [{"id": f"t{n}", "embedding": [1.0] * DIM, "k": n > 0} for n in range(3)]
        await store.insert("notes", truths)
        least, greatest = await store.bounds("notes", "payload.k") or (None, None)
        assert (least, greatest is True) == (0, True)
        chosen = "id >= 't'"
        found = await store.distinct("notes", "payload.k", chosen)
        assert [(value, type(value), n) for value, n in found.items()] == [
            (True, bool, 2), (False, bool, 1),
        ]  # fmt: skip
        both = await store.distinct("notes", "payload.k")
        assert (both[0], both[False], both[1], both[True]) == (2, 1, 2, 2)
        assert len(both) == len(expected) + 2
        for value, n in both.items():
            assert await store.count("notes", F.payload["k"] == value) == n
        assert await store.distinct("notes", "payload.k", limit=1) == {0: 2}

    async def test_items_of_lists_in_a_payload_are_counted_once_a_row(
        self, store: VectorStore
    ) -> None:
        values: list[Any] = [
            ["a", "b", "a"], ["b", "é\0", True, None, ["c"], {"d": 1}], "b", [1.0, 1, 2.5], 1.0,
            [True, False], [], {"a": 1}, None, [{}], "[]",
        ]  # fmt: skip
        rows = [
            {"id": f"r{n:02}", "embedding": [1.0] * DIM, "tags": value, "in": {"o.p": value}}
            for n, value in enumerate(values)
        ]
        await filled(store, SMALL, [*rows, {"id": "x", "embedding": [1.0] * DIM}])
        expected = [
            ("b", 3), (1, 2), (True, 2), (2.5, 1), ("[]", 1), ("a", 1), ("é\0", 1), (False, 1),
        ]  # fmt: skip
        for name in ("payload.tags", 'payload.in."o.p"'):
            for limit in (None, 3):
                found = await store.distinct("notes", name, limit=limit)
                assert list(found.items()) == expected[:limit]
                assert [type(value) for value in found] == [type(v) for v, _ in expected[:limit]]
        found = await store.distinct("notes", "payload.tags", "id <= 'r01'")
        assert dict(found) == {"b": 2, "a": 1, "é\0": 1, True: 1}

    async def test_types_of_fields_and_payload_keys(self, store: VectorStore) -> None:
        rows: list[dict[str, Any]] = [
            {"id": "a", "embedding": [1.0] * DIM, "year": 1, "k": 1, "o.p": None},
            {"id": "b", "embedding": [1.0] * DIM, "k": "x", "o.p": {"q": 1}, "live": True},
            {"id": "c", "embedding": [1.0] * DIM, "year": 3, "k": 0.5, "flag": False},
            {"id": "d", "embedding": [1.0] * DIM, "year": 4, "tags": ["x"], "list": []},
        ]
        schema = Schema(DIM, fields={"year": int, "tags": list[str], "name": str})
        await filled(store, schema, rows)
        assert await store.fields_info("notes") == {
            "year": {"int": 3}, "tags": {"list[text]": 1}, "name": {"text": 0},
            "payload.k": {"int": 1, "text": 1, "float": 1}, 'payload."o.p"': {"object": 1},
            "payload.live": {"bool": 1}, "payload.flag": {"bool": 1}, "payload.list": {"list": 1},
        }  # fmt: skip
        assert await store.fields_info("notes", "id = 'b'") == {
            "year": {"int": 0}, "tags": {"list[text]": 0}, "name": {"text": 0},
            "payload.k": {"text": 1}, 'payload."o.p"': {"object": 1}, "payload.live": {"bool": 1},
        }  # fmt: skip
        await store.create_table("bare", Schema(DIM, payload=False, fields={"year": int}))
        assert await store.fields_info("bare") == {"year": {"int": 0}}
        wide = {f"k{n}": n for n in range(10_001)}
        await store.insert("notes", [{"id": "wide", "embedding": [1.0] * DIM, **wide}])
        with pytest.raises(InvalidArgumentError, match="10,000"):
            await store.fields_info("notes")

    async def test_distinct_of_what_no_rows_have(self, store: VectorStore) -> None:
        await store.create_table("notes", EVERY_KIND)
        for name in ("id", *EVERY_KIND.fields, "payload.x", "payload.x.y"):
            assert await store.distinct("notes", name) == {}
            if name != "tags":
                assert await store.bounds("notes", name) is None

    async def test_find_orders_values_of_different_types_in_a_payload(
        self, store: VectorStore
    ) -> None:
        """Numbers, then text, then booleans; everything else counts as null."""
        ranked: list[Any] = [
            -1e300, -(2**63), -1.5, -1, 0, 0.5, 1, 2**53, 2**53 + 1, 2**62, 2**63 - 513,
            2**63 - 1, 1e300, "", "\0", "!", "1", "A", "a", "a\0b", "ab", "é", "日", "\uffff",
            "😀", False, True,
        ]  # fmt: skip
        nulls: list[Any] = [None, [], [1], {}, {"rank": 1}]
        placed = list(enumerate([*ranked, *nulls]))
        # Equals, of which the id decides.
        equals = [(4, -0.0), (6, 1.0), (7, float(2**53))]
        rows = [
            {"id": f"{place:02}b", "embedding": [1.0] * DIM, "rank": value, "k": {"0": [value]}}
            for place, value in placed
        ] + [{"id": f"{place:02}c", "embedding": [1.0] * DIM, "rank": v} for place, v in equals]
        for row in rows:
            row["k"] = {"0": {"a.b": row["rank"]}}
        rows.append({"id": "99", "embedding": [1.0] * DIM})
        await filled(store, Schema(DIM), rows[::-1])
        rising = sorted(row["id"] for row in rows)
        last = rising[-len(nulls) - 1 :]
        falling = sorted(rising[: -len(nulls) - 1], key=lambda id: (-int(id[:2]), id)) + last
        for key in ("payload.rank", 'payload.k.0."a.b"'):
            assert ids_of(await store.find("notes", order_by=key)) == rising
            assert ids_of(await store.find("notes", order_by=f"-{key}")) == falling
            assert ids_of(await store.find("notes", order_by=key, descending=True)) == falling
            page = await store.find("notes", order_by=[key, "-id"], limit=4, offset=4, select=[])
            assert ids_of(page) == ["04c", "04b", "05b", "06c"]
        everything = await store.find("notes", "payload.rank < 2", order_by="-payload.rank")
        assert ids_of(everything) == ["06b", "06c", "05b", "04b", "04c", "03b", "02b", "01b", "00b"]
        assert everything[0].vector is None
        (first,) = await store.find(
            "notes", order_by="payload.rank", limit=1, select=["embedding", "payload.rank"]
        )
        assert first.vector is not None
        assert first["rank"] == -1e300

    @pytest.mark.core
    async def test_find_selects(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(6)
        await filled(store, EVERY_KIND, rows)
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
        await filled(store, SMALL, [{"id": "x", "embedding": [1.0] * DIM, **payload}])
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
