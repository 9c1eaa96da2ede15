"""Contract tests for reading without a vector: get, find, count, and the records they return."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.oracle import Oracle
from tests.harness.values import (
    DIM,
    EPOCH,
    EVERY_KIND,
    SMALL,
    assert_same_fields,
    assert_same_rows,
    ids_of,
    rows_of_every_kind,
)
from tests.harness.vec0 import needs_recent_sqlite

from aiovec import F, Field, Schema, VectorStore
from aiovec.backend.context import CallContext, calling
from aiovec.errors import InvalidArgumentError

SORTED = Schema(
    DIM,
    fields={
        "name": str, "year": int, "score": float, "seen": Field(datetime, index="btree"),
        "live": Field(bool, index="bitmap"), "group": Field(int, index="btree"), "tags": list[str],
    },
)  # fmt: skip
# The values in the rows of this table, each in two rows; "mixed" is a key of the payload.
VALUES: dict[str, list[Any]] = {
    "name": ["", " ", "10", "9", "A", "Z", "a", "a\0b", "e\u0301", "z", "é", "日", "\uffff", "😀"],
    "year": [-(2**63), -5, 0, 3, 20, 2**53, 2**53 + 1, 2**63 - 1],
    "score": [
        float("-inf"), -1e300, -0.5, -0.0, 0.0, 5e-324, 0.1, 1 / 3, 1.0, 1e300, float("inf"),
    ],
    "live": [False, True],
    "seen": [
        EPOCH - timedelta(days=400_000), EPOCH - timedelta(microseconds=1), EPOCH,
        EPOCH + timedelta(microseconds=1), EPOCH + timedelta(days=2_000_000),
    ],
    "group": [0, 1, 2, 1, 2, 0, 2, 2, 0, 1],
    "tags": [["b", "a"], ["a", "a"], [], ["x", "\0", "😀"], ["b"]],
    "mixed": [
        -1e300, -(2**63), -1.5, -1, 0, -0.0, 0.5, 1, 1.0, 2**53, float(2**53), 2**53 + 1, 2**62,
        2**63 - 513, 2**63 - 1, 1e300, "", "\0", "!", "1", "A", "a", "a\0b", "ab", "é", "日",
        "\uffff", "😀", "null", "[]", "true", False, True, None, [], [[1]], {}, {"mixed": 1},
    ],
}  # fmt: skip
WHERES = (None, F.group > 0, ~F.live, F.payload["mixed"] < 2, F.group.is_null(), F.id < "0")

# Calls that read many rows.
READS: dict[str, Callable[[VectorStore], Awaitable[Any]]] = {
    "get": lambda s: s.get("notes", [f"{n:03}" for n in range(100)]),
    "find": lambda s: s.find("notes", include_vector=True),
    "find, by a field": lambda s: s.find("notes", order_by="-n"),
    "find, by the payload": lambda s: s.find("notes", order_by="payload.m", select=["body"]),
    "search": lambda s: s.search("notes", [1.0] * DIM, limit=90, offset=5),
    "search, exact": lambda s: s.search(
        "notes", [1.0] * DIM, limit=90, exact=True, include_vector=True, where="n > 2"
    ),
    "search by groups": lambda s: s.search("notes", [1.0] * DIM, limit=9, group_by="payload.m"),
    "search for rows unlike each other": lambda s: s.search(
        "notes", [1.0] * DIM, limit=40, diversity=0.5
    ),
    "search_many": lambda s: s.search_many("notes", np.eye(3, DIM), limit=30),
    "search_like": lambda s: s.search_like("notes", ["007"], limit=40),
    "search_text": lambda s: s.search_text("notes", "walk", limit=90),
    "search_hybrid": lambda s: s.search_hybrid("notes", "walk", [1.0] * DIM, limit=60),
}


async def _values_in(store: VectorStore) -> Oracle:
    """Fill the table ``notes`` and an oracle with the same rows, and return the oracle."""
    chance = random.Random(3)
    shuffled = {name: chance.sample(values, len(values)) for name, values in VALUES.items()}
    rows: list[dict[str, Any]] = []
    for place in range(40):
        values = {name: column[place] for name, column in shuffled.items() if place < len(column)}
        deep = {"0": {"a.b": values.get("mixed")}}
        row = {"embedding": [1.0 + place, 1.0, 0.0, 2.0], **values, "deep": deep}
        # The higher id comes first, so that equal rows are in order only if they are sorted by id.
        rows += [{"id": f"{place:02}{twin}", **row} for twin in "ba"]
    await filled(store, SORTED, rows[:45])
    await store.insert("notes", rows[45:])
    oracle = Oracle()
    oracle.create_table("notes", SORTED)
    oracle.insert("notes", rows)
    return oracle


class ReadingContract(ContractBase):
    """``get``, ``find`` and ``count``."""

    @pytest.mark.core
    async def test_get_returns_rows_in_the_requested_order(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(20)
        await filled(store, EVERY_KIND, rows)
        order = [7, 3, 19, 0]
        ids = [rows[n]["id"] for n in order]
        records = await store.get("notes", [ids[0], "absent", *ids[1:], "", "x" * 600, "a\0"])
        assert_same_rows(records, [rows[n] for n in order], EVERY_KIND)
        assert_same_rows(await store.get("notes", "r0003"), [rows[3]], EVERY_KIND)
        assert ids_of(await store.get("notes", iter(["r0001", "r0002", "r0001"]))) == [
            "r0001", "r0002", "r0001",
        ]  # fmt: skip
        assert await store.get("notes", []) == []
        assert await store.get("notes", "absent") == []

    # Find

    @needs_recent_sqlite
    async def test_find_orders_selects_and_filters_in_every_combination(
        self, store: VectorStore
    ) -> None:
        """Nulls are last. In a payload, numbers come first, then texts, then booleans; all other
        values count as null. Rows can be sorted by a field that is not selected."""
        oracle = await _values_in(store)
        orders: tuple[str | list[str] | None, ...] = (
            None, "id", "-id", *(sign + name for name in SORTED.fields if name != "tags"
            for sign in ("", "-")), "payload.mixed", "-payload.mixed", 'payload.deep.0."a.b"',
            ["group", "-id"], ["-group", "name"], ["live", "-group", "seen"], ["-live", "-name"],
            ["group", "-group", "year"], ["payload.mixed", "-group"], ["-group", "-payload.mixed"],
            ["payload.absent", "-group", "live"],
        )  # fmt: skip
        pages = itertools.cycle(
            ((100, 0), (3, 0), (5, 4), (100, 38), (1, 99), (2, 7), (9, 1), (5, 50_000), (10**5, 2))
        )
        selections: itertools.cycle[list[str] | None] = itertools.cycle((
            None, [], ["id"], ["year"], ["group"], ["embedding"], ["name", "group"], ["mixed"],
            ["score", "embedding", "mixed"], ["tags", "seen", "live"], None,
        ))  # fmt: skip
        for order, turned, where in itertools.product(orders, (False, True), WHERES):
            (limit, offset), select = next(pages), next(selections)
            options: dict[str, Any] = {
                "order_by": order, "descending": turned, "limit": limit, "offset": offset,
            }  # fmt: skip
            names = select and [f"payload.{n}" if n == "mixed" else n for n in select]
            records = await store.find("notes", where, select=names, **options)
            expected = oracle.find("notes", where, **options)
            with case((where, select, options)):
                assert ids_of(records) == [row.id for row in expected]
                for record, row in zip(records, expected, strict=True):
                    fields = row.flat()
                    if select is not None:
                        fields = {name: fields[name] for name in select if name in fields}
                    assert_same_fields(record.fields, fields)
                    assert (record.vector is None) is ("embedding" not in (select or ()))
                    if record.vector is not None:
                        assert np.array_equal(record.vector, row.vector)  # type: ignore[arg-type]
        assert len(await store.find("notes", limit=None, offset=3)) == 77
        kinds = {int: "number", float: "number", str: "text", bool: "truth"}
        records = await store.find("notes", order_by="payload.mixed")
        met = [kinds.get(type(record.get("mixed")), "null") for record in records]
        assert [kind for kind, _ in itertools.groupby(met)] == ["number", "text", "truth", "null"]

    @pytest.mark.core
    @needs_recent_sqlite
    async def test_distinct_values_and_bounds_of_every_kind(self, store: VectorStore) -> None:
        """Items of a list count once per row, and an int and an equal float are one value."""

        def typed(values: Iterable[Any]) -> list[Any]:
            return [(value, type(value)) for value in values]

        oracle = await _values_in(store)
        await store.create_table("empty", SORTED)
        for name in ("id", *SORTED.fields, "payload.mixed", 'payload.deep.0."a.b"', "payload.no"):
            assert await store.distinct("empty", name) == {}
            for where in WHERES:
                with case((name, where)):
                    for limit in (None, 3):
                        records = await store.distinct("notes", name, where, limit)
                        wanted = oracle.distinct("notes", name, where, limit)
                        assert list(records.values()) == list(wanted.values())
                        assert typed(records) == typed(wanted)
                    if name != "tags":
                        assert await store.bounds("empty", name) is None
                        ends = await store.bounds("notes", name, where)
                        wanted_ends = oracle.bounds("notes", name, where)
                        assert ends == wanted_ends  # 1 or 1.0, depending on the row read first
                        assert [type(end) is bool for end in ends or ()] == [
                            type(end) is bool for end in wanted_ends or ()
                        ]
        assert await store.distinct("notes", "tags") == {"b": 4, "a": 4, "\0": 2, "x": 2, "😀": 2}
        counts = await store.distinct("notes", "payload.mixed")
        assert (counts[0], counts[False], counts[1], counts[True]) == (4, 2, 4, 2)
        for value, count in counts.items():
            assert await store.count("notes", F.payload["mixed"] == value) == count

    async def test_a_negative_zero_is_counted_as_zero(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"f": float, "l": list[float]})
        zeros = [
            {
                "id": f"r{n}",
                "embedding": [1.0] * DIM,
                "f": zero,
                "l": [zero],
                "p": zero,
                "q": [zero],
            }
            for n, zero in enumerate((-0.0, 0.0, -0.0))
        ]
        await filled(store, schema, zeros)
        for name in ("f", "l", "payload.p", "payload.q"):
            with case(name):
                counts = await store.distinct("notes", name)
                assert repr(counts) == "Counts({0.0: 3})"
                assert repr(await store.distinct("notes", name, "id = 'r0'")) == "Counts({0.0: 1})"

    @needs_recent_sqlite
    async def test_items_of_lists_in_payload_are_counted_once_row(self, store: VectorStore) -> None:
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
                records = await store.distinct("notes", name, limit=limit)
                assert list(records.items()) == expected[:limit]
                assert [type(value) for value in records] == [type(v) for v, _ in expected[:limit]]
        records = await store.distinct("notes", "payload.tags", "id <= 'r01'")
        assert dict(records) == {"b": 2, "a": 1, "é\0": 1, True: 1}

    async def test_fields_info_counts_types_of_fields_and_payload_keys(
        self, store: VectorStore
    ) -> None:
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

    @pytest.mark.core
    async def test_find_and_search_select_fields_keys_and_vector(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(6)
        await filled(store, EVERY_KIND, rows)
        row = rows[3]
        for select, fields in (
            ([], set()), (["id"], set()), (["year"], {"year"}),
            (["tags", "year", "year"], {"tags", "year"}), (["embedding"], set()),
            (["name", "embedding"], {"name"}), (["payload"], {"kind", "nested"}),
            (["payload.kind", "payload.absent", "live"], {"kind", "live"}),
            (["payload", "payload.kind"], {"kind", "nested"}),
        ):  # fmt: skip
            with case(select):
                (record,) = await store.find("notes", F.id == row["id"], select=iter(select))
                (hit,) = await store.search("notes", row["embedding"], limit=1, select=select)
                for result in (record, hit):
                    assert (result.id, {*result.fields}) == (row["id"], fields)
                    assert all(result[name] == row[name] for name in fields)
                    assert (result.vector is not None) == ("embedding" in select)
                    assert result.vector is None or np.array_equal(result.vector, row["embedding"])

    async def test_a_path_means_in_a_selection_the_key_that_it_means_in_a_filter(
        self, store: VectorStore
    ) -> None:
        """A dot leads to a nested key; in quotes, it is a part of the name."""
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

    # Bytes

    async def test_a_read_of_many_rows_ends_when_their_bytes_are_too_many(
        self, store: VectorStore
    ) -> None:
        """A server limits the size of its answers this way. Concurrent reads are not affected."""
        schema = Schema(DIM, fields={"n": int, "tags": list[int], "body": Field(str, text=True)})
        rows = [
            {
                "id": f"{n:03}", "embedding": [1.0, n, 0.0, n % 7], "n": n, "tags": [n] * 9,
                "body": f"walk {n} " + "x" * 990, "m": n % 30,
            }
            for n in range(100)
        ]  # fmt: skip
        await filled(store, schema, rows)
        await store.optimize("notes")
        counted: list[int] = []

        class TooManyError(Exception):
            pass

        def refuse(nbytes: int) -> None:
            counted.append(nbytes)
            raise TooManyError

        async def bounded(read: Awaitable[Any], check: Callable[[int], None]) -> Any:
            with calling(CallContext(check_bytes=check)):
                return await read

        for name, read in READS.items():
            if name in ("search_text", "search_hybrid") and not store.supports("text"):
                continue
            with case(name):
                plain = await read(store)
                counted.clear()
                assert await bounded(read(store), counted.append) == plain
                assert counted == sorted(counted)
                assert 20_000 < counted[-1] < 250_000
                total, again = counted[-1], list[int]()
                counted.clear()
                *others, refused = await asyncio.gather(
                    read(store), bounded(read(store), again.append), bounded(read(store), refuse),
                    return_exceptions=True,
                )  # fmt: skip
                assert isinstance(refused, TooManyError)
                assert others == [plain, plain]
                assert max(again) == total
                assert 20_000 < max(counted) < 50_000  # the bytes of 32 rows
        few = store.find("notes", limit=32), store.find("notes", limit=100, select=[])
        counted.clear()
        assert [len(await bounded(read, refuse)) for read in few] == [32, 100]
        nested: list[Any] = []
        for _ in range(15):
            nested = [nested, {}]
        await store.update("notes", {"payload.deep": nested}, where="TRUE")
        counted.clear()
        await bounded(store.find("notes", limit=100, select=["payload.deep"]), counted.append)
        assert counted[-1] > 100 * 30 * 60  # an empty list takes about 60 bytes in Python
