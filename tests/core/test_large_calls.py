"""What no call may do on the event loop, where the contract suite would take too long for it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.harness.loop_time import own_work, watched_loop

import aiovec
from aiovec import AiovecError, F, Hit, InvalidArgumentError, Schema
from aiovec._core import store as store_module
from aiovec._core.ranking import diversify
from aiovec._input.arguments import read_all
from aiovec.backend import Expr, bind, in_thread


@pytest.mark.slow
async def test_very_many_queries() -> None:
    with own_work():
        queries = np.random.default_rng(1).normal(size=(20_000, 4))
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", Schema(4))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0, 0, 0]}])
        with watched_loop() as found:
            hits = await store.search_many("notes", queries)
        assert [len(of_one) for of_one in hits] == [1] * len(queries)
    found.check()


async def test_an_iterable_is_read_with_pauses_whatever_an_item_costs() -> None:
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            await asyncio.sleep(0)
            others += 1

    def slow() -> Iterator[int]:
        for n in range(10):
            sum(range(300_000))
            yield n

    counting = asyncio.ensure_future(count())
    assert await read_all(slow()) == list(range(10))
    counting.cancel()
    assert others >= 5


async def test_work_that_looks_ends_when_its_caller_is_cancelled() -> None:
    stopped: list[bool] = []
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        while not stopped:
            pass

    task = asyncio.ensure_future(in_thread(work, stop=lambda: stopped.append(True)))
    async with asyncio.timeout(60):
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_diversity_that_nobody_waits_for_ends() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    hits = [Hit(str(n), -n, None, {}, vector) for n, vector in enumerate(vectors)]
    assert len(diversify(hits, None, 0.5, 20)) == 20
    assert len(diversify(hits, None, 0.5, 20, [True])) == 1


LONG = "50% of " + "x" * 300_000


@pytest.mark.parametrize(
    "where",
    [
        F.body.like(f"%{LONG}!_", escape="!"),
        F.body.contains_text(LONG),
        F.body.startswith(LONG),
        F.tags.contains(LONG),
        (F.n == 1) | ~(F.body == LONG).is_true(),
        F.body.in_(["short", LONG]) & F.n.is_null(),
    ],
    ids=["like", "contains_text", "startswith", "contains", "inner", "in"],
)
async def test_long_texts_in_a_filter_are_checked_in_a_thread(
    where: Expr, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noted(where: Any, schema: Schema) -> Any:
        if where is not None:
            threads.append(threading.current_thread())
        return bind(where, schema)

    monkeypatch.setattr(store_module, "bind", noted)
    schema = Schema(2, fields={"body": str, "tags": list[str], "n": int})
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", schema)
        assert await store.count("notes", where) == 0
        assert await store.search_many("notes", [[1, 0]] * 2, where=[where, F.n == 2]) == [[], []]
        assert len(threads) == 3
        assert threading.main_thread() not in threads
        del threads[:]
        await store.count("notes", (F.body == "short") & F.tags.contains("x"))
        assert threads == [threading.main_thread()]


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


LOOPY: list[Any] = []
LOOPY.append(LOOPY)


async def test_a_selection_that_never_ends_is_refused() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", Schema(2))
        with pytest.raises(InvalidArgumentError, match="at most 10,000 names"):
            await store.find("notes", select=map(str, itertools.count()))


@pytest.mark.parametrize(
    "value", [-(10**5000), Unreadable(), LOOPY], ids=["a number", "an object", "a list in itself"]
)
async def test_values_that_python_cannot_write_out_are_refused_too(value: Any) -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", Schema(2))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0]}])
        for call in (
            store.search("notes", [1, 0], limit=value),
            store.search("notes", [1, 0], diversity=value),
            store.search("notes", [1, 0], rerank=lambda _: [value, value]),
            store.search("notes", [1, 0], select=[value]),
            store.find("notes", offset=value),
            store.find("notes", order_by=value),
            store.find("notes", where=value),
            store.get("notes", [value]),
            store.delete("notes", [value]),
            store.count(value),
        ):
            with pytest.raises(AiovecError):
                await call
        with pytest.raises(AiovecError):
            store.table(value)


async def test_long_texts_become_arrow_in_parts() -> None:
    """Arrow holds the interpreter's lock while it copies texts, and the loop waits for that."""
    long = "wörter " * 60_000
    texts = [None, "", *(f"{long}{n}" for n in range(9)), None, "last"]
    schema = aiovec.Schema(2, fields={"body": str})
    rows = {
        "id": [f"r{n:02}" for n in range(len(texts))],
        "embedding": [[1.0, 2.0]] * len(texts),
        "body": texts,
    }
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", schema)
        assert await store.insert("notes", rows) == len(texts)
        found = await store.find("notes", order_by="id")
        assert [row["body"] for row in found] == texts
        rows["body"] = [*texts[:7], "lone \ud800", *texts[8:]]
        with pytest.raises(aiovec.InvalidRowError) as caught:
            await store.upsert("notes", rows)
        assert (caught.value.row, caught.value.id, caught.value.field) == (7, "r07", "body")
        long_ids = {**rows, "id": ["x" * 400_000 + str(n) for n in range(len(texts))]}
        with pytest.raises(aiovec.InvalidRowError, match="512 bytes"):
            await store.upsert("notes", long_ids)
