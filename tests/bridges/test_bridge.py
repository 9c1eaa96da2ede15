"""``aiovec.bridge``, the base of all bridges."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial, reduce
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.cases import case

import aiovec
from aiovec import AiovecError, F, FilterError, InvalidArgumentError, Schema, StoreClosedError, sync
from aiovec.bridge import (
    Bridge,
    Closable,
    DocumentBridge,
    blocking,
    in_store,
    metadata_filter,
    relevance,
    storable,
    table_name,
)


def test_each_collection_name_becomes_its_own_table_name() -> None:
    assert table_name("notes-2_x") == "notes-2_x"
    odd = ["Notes", "notes ", "My.Col-2", "1st", "été", "日本", "_", "x" * 64, "x" * 63 + "y", "-"]
    made = [table_name(name) for name in odd]
    assert len(set(made)) == len(odd)
    assert all(re.fullmatch("[a-z][a-z0-9_-]{0,62}", name) for name in made)
    assert table_name("My.Col-2").startswith("my-col-2-")
    assert made == [table_name(name) for name in odd]
    for bad in ("", None, 3):
        with pytest.raises(InvalidArgumentError, match="table must be a name"):
            table_name(bad)  # type: ignore[arg-type]


class Color(Enum):
    RED = "red"


KEPT: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    ("text", "text"),
    (2**63 - 1, 2**63 - 1),
    (1.5, 1.5),
    (math.nan, None),
    (-math.inf, None),
    (Decimal("1.25"), 1.25),
    (Path("a") / "b", str(Path("a") / "b")),
    (datetime.fromisoformat("2024-01-02T03:00"), "2024-01-02T03:00:00"),
    (datetime(2024, 1, 2, 3, tzinfo=UTC), "2024-01-02T03:00:00.000000Z"),
    (date(2024, 1, 2), "2024-01-02"),
    (Color.RED, "red"),
    ((1, (2, {3})), [1, [2, [3]]]),
    ({"a": {1: Path("x")}}, {"a": {"1": "x"}}),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3),
    (np.array([[1.0, np.nan]]), [[1.0, None]]),
]


async def test_metadata_of_any_type_is_stored() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", Schema(dim=1))
        rows = [
            {"id": n, "embedding": [1], "m": storable(value)} for n, (value, _) in enumerate(KEPT)
        ]
        await store.insert("t", rows)
        matches = await store.get("t", range(len(KEPT)))
        assert [row["m"] for row in matches] == [expected for _, expected in KEPT]


@pytest.mark.parametrize("value", [b"bytes", object(), [{"deep": len}]])
def test_a_value_that_cannot_be_stored_is_named(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"metadata\.file"):
        storable({"file": value})


def test_metadata_without_end_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with pytest.raises(InvalidArgumentError, match="metadata is nested too deeply"):
        storable(endless)


def test_an_integer_beyond_64_bits_is_refused_with_the_fix() -> None:
    for value in (2**63, -(2**63) - 1, np.uint64(2**64 - 5), 10**5000):
        with pytest.raises(InvalidArgumentError, match=r"metadata\.hash .* as text, str\(value\)"):
            storable({"hash": value})
    assert storable({"hash": [2**64 - 5]}, large=str) == {"hash": [str(2**64 - 5)]}  # for imports


ROWS: dict[str, dict[str, Any]] = {
    "a": {"n": 1, "lang": "en", "tags": ["x", "y"], "in": {"deep": True}},
    "b": {"n": 2, "lang": "de", "tags": [], "at": datetime.fromisoformat("2024-01-01")},
    "c": {"n": 3.5, "lang": None, "text": "hello world"},
    "d": {"id": "own", "n": "2", "a.b": 1, "in.deep": "flat"},
}
FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "abcd"),
    ({"n": 2}, "b"),
    ({"n": {"$eq": "2"}}, "d"),
    ({"n": {"$ne": 2}}, "acd"),
    ({"n": {"$gt": 1, "$lte": 3.5}}, "bc"),
    ({"n": {"$gte": 2}, "lang": "de"}, "b"),
    ({"n": {"$lt": 2}}, "a"),
    ({"n": {"$between": [2, 4]}}, "bc"),
    ({"lang": {"$in": ["en", "fr"]}}, "a"),
    ({"lang": {"$nin": ["en", "fr"]}}, "bcd"),
    ({"lang": {"$in": []}}, ""),
    ({"lang": None}, "cd"),
    ({"lang": {"$ne": None}}, "ab"),
    ({"lang": {"$exists": True}}, "ab"),
    ({"lang": {"$exists": False}}, "cd"),
    ({"lang": {"$like": "e%"}}, "a"),
    ({"lang": {"$ilike": "DE"}}, "b"),
    ({"tags": {"$contains": "x"}}, "a"),
    ({"text": {"$contains": "lo w"}}, "c"),
    ({"text": {"$not_contains": "lo w"}}, "abd"),
    ({"tags": ["x", "y"]}, "a"),
    ({"in.deep": True}, "a"),
    ({"a.b": 1}, "d"),
    ({"in.deep": {"$in": [True, "flat"]}}, "ad"),
    ({"in.deep": {"$ne": True}}, "bcd"),
    ({"in.deep": {"$nin": [True, "flat"]}}, "bc"),
    ({"in.deep": {"$exists": False}}, "bc"),
    ({"in.deep": None}, "bc"),
    ({"in.deep": {"$not": {"$eq": "flat"}}}, "abc"),
    ({"id": "own"}, "d"),
    ({"at": datetime.fromisoformat("2024-01-01")}, "b"),
    ({"$or": [{"n": 1}, {"$and": [{"n": 2}, {"lang": "de"}]}]}, "ab"),
    ({"$not": {"n": 2}}, "acd"),
    ({"$nor": [{"n": 1}, {"lang": "de"}]}, "cd"),
    ({"n": {"$not": {"$gte": 2}}}, "ad"),
    # No value is above or below None, and no value equals NaN.
    ({"n": {"$lte": None}}, ""),
    ({"n": {"$between": [None, 2]}}, ""),
    ({"n": {"$in": [1, math.nan]}}, "a"),
    ({"lang": {"$in": ["en", None]}}, "acd"),
    ({"lang": {"$nin": ["en", None]}}, "b"),
    ({"tags": {"$contains": None}}, ""),
    # Numbers beyond 64 bits and infinities; the test below has the comparisons.
    ({"n": {"$in": [2, 2**64, math.inf]}}, "b"),
    ({"n": {"$between": [2, 2**64]}}, "bc"),
    ({"n": {"$between": [2, math.inf]}}, "bc"),
    ({"n": {"$between": [math.inf, 2]}}, ""),
    ({"in.deep": {"$lt": math.inf}}, ""),
]


def test_filters_select_as_in_mongodb(store: sync.VectorStore) -> None:
    bridge = DocumentBridge(store, "t")

    rows = [bridge.row(id, None, [1, 0], metadata) for id, metadata in ROWS.items()]
    bridge.run(lambda _: bridge.write(2, lambda table: table.insert(rows)))
    for wanted, expected in FILTERS:
        with case(wanted):
            matches = store.find("t", bridge.where(wanted))
            assert "".join(row.id for row in matches) == expected
    true: list[dict[str, Any]] = [{}, {"$and": [{}, {"$and": [{}]}]}, {"n": {"$nin": []}}]
    true += [{"$or": [{"n": 1}, each]} for each in true]
    true += [{"$not": {"$nor": [each, {"n": 1}]}} for each in true]
    for each in true:  # it deletes nothing
        assert bridge.where(each) is None
    assert bridge.where({"$and": [{}, {"n": 1}]}) is not None
    back = {row.id: bridge.metadata(row) for row in store.find("t")}
    assert back == {**ROWS, "b": {**ROWS["b"], "at": "2024-01-01T00:00:00"}}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("n = 1", "a filter must be a mapping"),
        ({"n": {"$near": 1}}, r"\$near.*expected one of \$eq"),
        ({"n": {}}, "expected one of"),
        ({"$where": []}, r"expected \$and"),
        ({"$or": {"n": 1}}, "takes a list"),
        ({"$and": []}, "one filter or more"),
        ({"$nor": []}, "one filter or more"),
        (reduce(lambda inner, _: {"$not": inner}, range(5000), {"n": 1}), "nested too deeply"),
        ({"n": {"$in": "abc"}}, "takes a list"),
        ({"n": {"$between": [1]}}, "two values"),
        ({3: 1}, "no operator 3"),
        ({"n": {"$eq": {"a": 1}}}, "n"),
    ],
)
def test_a_bad_filter_says_what_is_expected(wanted: Any, reason: str) -> None:
    with pytest.raises(FilterError, match=reason):
        metadata_filter(wanted)


COMPARISONS = {"$eq": eq, "$ne": ne, "$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
EXTREMES = [math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1, 2**64, 10**30, -(10**400)]
NUMBERS: list[dict[str, Any]] = [
    {"i": 10, "f": 10.0, "payload.n": 2.5}, {"i": 2**63 - 1, "f": 2.0**64, "payload.n": -1},
    {"i": None, "f": None, "payload.n": None},
]  # fmt: skip


def test_numbers_compare_with_nan_and_beyond_64_bits_as_in_python(store: sync.VectorStore) -> None:
    store.create_table("t", Schema(1, fields={"i": int, "f": float}))
    rows = [{"id": n, "embedding": [1], **row} for n, row in enumerate(NUMBERS)]
    store.insert("t", [{key.removeprefix("payload."): row[key] for key in row} for row in rows])
    for name, operator, extreme in itertools.product(NUMBERS[0], COMPARISONS, EXTREMES):
        with case((name, operator, extreme)):
            where = metadata_filter({name: {operator: extreme}}, lambda key: F[key])
            expected = [
                str(n)
                for n, row in enumerate(NUMBERS)
                if (COMPARISONS[operator](row[name], extreme) if row[name] else operator == "$ne")
            ]
            assert [row.id for row in store.find("t", where)] == expected


def test_a_filter_is_built_over_an_apps_own_fields() -> None:
    assert str(metadata_filter({"year": {"$gte": 3}}, lambda key: F[key])) == "year >= 3"


def test_relevance_keeps_the_order_and_ends_at_0_and_1() -> None:
    assert [relevance(score, "cosine") for score in (-1, 0, 0.3, 1)] == [0, 0, 0.3, 1]
    assert [relevance(score, "l2") for score in (0.1, 1.0)] == [0.1, 1]
    products = [relevance(score, "dot") for score in (-1e6, -1, 0, 1, 1e6)]
    assert products == sorted(products)
    assert (products[0], products[2], products[-1]) == (0, 0.5, 1)


class Counted(Closable):
    def __init__(self, store: Any) -> None:
        self._bridge = Bridge(store, "counted", lambda dim: Schema(dim=dim))

    async def acount(self, plus: int = 1, *, times: int = 1) -> int:
        """Return the number of rows."""
        return (await self._bridge.read(aiovec.Table.count, 0) + plus) * times

    @blocking(acount)
    def count(self) -> Any:
        """Like ``acount``."""

    @in_store
    async def awrite(self) -> str:
        """Add a row, and return the name of the thread that did it."""
        await self._bridge.write(1, lambda table: table.insert([{"embedding": [1.0]}]))
        await self.acount()
        return threading.current_thread().name

    @blocking(awrite)
    def write(self) -> Any:
        """Like ``awrite``."""


async def test_a_blocking_method_looks_like_its_coroutine_method(store: sync.VectorStore) -> None:
    counted = Counted(store)
    assert await counted.acount(2, times=3) == 6
    assert await asyncio.to_thread(counted.count, times=2) == 2
    for method in (Counted.count, Counted.acount):
        assert list(inspect.signature(method).parameters) == ["self", "plus", "times"]
        assert method.__doc__ == "Return the number of rows."
    assert (Counted.count.__name__, Counted.count.__qualname__) == ("count", "Counted.count")
    assert not inspect.iscoroutinefunction(Counted.count)
    assert inspect.iscoroutinefunction(Counted.acount)
    assert inspect.iscoroutinefunction(Counted.awrite)
    with pytest.raises(TypeError, match="other"):
        await asyncio.to_thread(counted.count, other=1)  # type: ignore[call-arg]


async def test_a_method_runs_in_the_thread_of_the_store_that_it_awaits(tmp_path: Path) -> None:
    """This holds even if it calls another method of this kind."""
    mine = threading.current_thread().name
    async with Counted(tmp_path / "x.db") as counted:
        assert await counted.awrite() == await asyncio.to_thread(counted.write) != mine
        assert await counted.acount(0) == 2
    async with aiovec.connect(tmp_path / "x.db") as store:
        assert await Counted(store).awrite() == mine
        with pytest.raises(AiovecError, match="methods with await only"):
            Counted(store).count()


async def test_one_store_serves_both_faces(store: sync.VectorStore) -> None:
    counted = Counted(store)
    assert await counted.acount() == 1
    await asyncio.gather(*(counted.awrite() for _ in range(8)))
    await asyncio.to_thread(counted.write)
    assert await counted.acount(0) == await asyncio.to_thread(counted.count, 0) == 9
    await counted._bridge.drop()
    assert await counted.acount(0) == 0
    await counted.awrite()
    counted.close()  # this leaves the app's store open
    assert await counted.acount(0) == 1


async def test_a_target_is_opened_by_the_first_call_and_closed(tmp_path: Path) -> None:
    log = tmp_path / "x.db-wal"
    async with Counted(tmp_path / "x.db") as counted:
        for close in (counted.aclose, partial(asyncio.to_thread, counted.close), counted.aclose):
            await asyncio.gather(*(counted.awrite() for _ in range(8)))
            assert log.exists()
            await close()
            assert not log.exists()
        await counted.awrite()
    assert not log.exists()

    def without_await() -> None:
        with Counted(tmp_path / "x.db") as counted:
            counted.write()
        assert not log.exists()

    await asyncio.to_thread(without_await)


def test_a_bridge_that_is_closed_during_a_call_ends_both(tmp_path: Path) -> None:
    """This holds even if the call begins another call while the bridge closes."""
    begun = threading.Event()

    class Held(Counted):
        @in_store
        async def acount_slowly(self) -> int:
            begun.set()
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                pass  # the close begins, and waits for this thread
            return await self.acount()

        @blocking(acount_slowly)
        def count_slowly(self) -> Any:
            """Like ``acount_slowly``."""

    with Held(tmp_path / "x.db") as held, ThreadPoolExecutor() as threads:
        held.write()
        call = threads.submit(held.count_slowly)
        assert begun.wait(60)
        held.close()
        with suppress(StoreClosedError):
            assert call.result(60) == 2
        assert held.count() == 2
    assert not (tmp_path / "x.db-wal").exists()


# A bridge, its first arguments, a call with await and the same without, its arguments and result.
BRIDGES: list[tuple[str, list[Any], tuple[str, str], list[Any], Any]] = [
    ("aiovec_crewai.AiovecStorage", [], ("asearch", "search"), [[1.0, 0.0]], []),
    (
        "aiovec_haystack.AiovecDocumentStore",
        [],
        ("count_documents_async", "count_documents"),
        [],
        0,
    ),
    ("aiovec_langchain.AiovecByteStore", [], ("amget", "mget"), [["a"]], [None]),
    ("aiovec_langchain.AiovecRecordManager", ["names"], ("alist_keys", "list_keys"), [], []),
    ("aiovec_langchain.AiovecVectorStore", [None], ("aget_by_ids", "get_by_ids"), [["a"]], []),
    ("aiovec_langgraph.AiovecStore", [], ("asearch", "search"), [()], []),
    ("aiovec_llamaindex.AiovecVectorStore", [], ("aget_nodes", "get_nodes"), [["a"]], []),
]


@pytest.mark.parametrize(("name", "first", "calls", "arguments", "result"), BRIDGES)
async def test_each_bridge_closes_and_serves_an_apps_own_store_with_await_alone(
    name: str, first: list[Any], calls: tuple[str, str], arguments: list[Any], result: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    module, _, name = name.partition(".")
    made = getattr(pytest.importorskip(module, exc_type=ImportError), name)
    async with made(*first, store=str(tmp_path / "x.db")) as bridge:
        assert await getattr(bridge, calls[0])(*arguments) == result
        await bridge.aclose()
        bridge.close()
    async with aiovec.connect(tmp_path / "app.db") as store:
        bridge = made(*first, store=store)
        assert await getattr(bridge, calls[0])(*arguments) == result
        with pytest.raises(AiovecError, match=r"methods with await only.*aiovec\.sync\.connect"):
            getattr(bridge, calls[1])(*arguments)


@pytest.mark.parametrize(
    ("module", "ours"),
    [
        ("haystack_integrations.components.retrievers.aiovec", "aiovec_haystack"),
        ("haystack_integrations.document_stores.aiovec", "aiovec_haystack"),
        ("langchain_aiovec", "aiovec_langchain"),
        ("llama_index.vector_stores.aiovec", "aiovec_llamaindex"),
    ],
)
def test_the_modules_that_frameworks_expect_hold_the_bridges(module: str, ours: str) -> None:
    expected = pytest.importorskip(module, reason="needs the wheels of distributions/")
    assert expected.__all__
    for name in expected.__all__:
        assert getattr(expected, name) is getattr(importlib.import_module(ours), name)
