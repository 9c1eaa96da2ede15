"""How the searches of one store that come at once are put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.waiting import Clock

from aiovec.backend import Columns, Found, StoredRows, TableHandle, VectorQuery
from aiovec.errors import StoreBusyError
from aiovec_sqlite.copies.batches import Call, Pipeline

TABLE: Any = object()
OTHER: Any = object()
QUERY = VectorQuery(np.ones(4, dtype=np.float32), 1, None, Columns(()))


def found() -> Found:
    return Found(StoredRows([], {}, None, None), [])


class Answers:
    """Answers a batch when it is let, and knows the sizes of those that were asked."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.ended = 0
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, _: TableHandle, calls: Sequence[Call]) -> list[list[Found]]:
        self.sizes.append(len(calls))
        self.asked.set()
        try:
            await self.go_on.wait()
        finally:
            self.ended += 1
        return [[found()] for _ in calls]


async def test_many_are_shared_by_the_workers() -> None:
    answers = Answers()
    pipeline = Pipeline(answers, 2, busy_timeout=60)
    calls = [asyncio.ensure_future(pipeline.search(TABLE, [QUERY])) for _ in range(32)]
    await answers.asked.wait()
    answers.go_on.set()
    await asyncio.gather(*calls)
    assert answers.sizes == [16, 16]
    await pipeline.close()


async def test_few_are_one_batch() -> None:
    answers = Answers()
    pipeline = Pipeline(answers, 2, busy_timeout=60)
    calls = [asyncio.ensure_future(pipeline.search(TABLE, [QUERY])) for _ in range(6)]
    await answers.asked.wait()
    answers.go_on.set()
    await asyncio.gather(*calls)
    assert answers.sizes == [6]
    await pipeline.close()


async def test_a_slow_batch_does_not_keep_a_free_worker_from_the_next_search() -> None:
    answers = Answers()
    pipeline = Pipeline(answers, 2, busy_timeout=60)
    slow = asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))
    await answers.asked.wait()
    answers.asked.clear()
    late = asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))
    async with asyncio.timeout(30):
        await answers.asked.wait()
    assert answers.sizes == [1, 1]
    assert not slow.done()
    answers.go_on.set()
    await asyncio.gather(slow, late)
    await pipeline.close()


async def test_a_search_of_another_table_waits_for_no_batch() -> None:
    answers = Answers()
    pipeline = Pipeline(answers, 2, busy_timeout=60)
    slow = asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))
    await answers.asked.wait()
    other = asyncio.ensure_future(pipeline.search(OTHER, [QUERY]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert answers.sizes == [1, 1]
    answers.go_on.set()
    await asyncio.gather(slow, other)
    await pipeline.close()


async def test_a_batch_ends_when_all_its_callers_have_gone_and_the_worker_goes_on() -> None:
    answers = Answers()
    pipeline = Pipeline(answers, 1, busy_timeout=60)
    calls = [asyncio.ensure_future(pipeline.search(TABLE, [QUERY])) for _ in range(2)]
    await answers.asked.wait()
    next_one = asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    answers.go_on.set()
    async with asyncio.timeout(30):
        assert len(await next_one) == 1
    assert all(call.cancelled() for call in calls)
    assert (answers.sizes, answers.ended) == ([2, 1], 2)
    await pipeline.close()


async def test_the_worker_goes_on_behind_an_answer_that_was_cancelled() -> None:
    answers = Answers()

    async def answer(table: TableHandle, calls: Sequence[Call]) -> list[list[Found]]:
        found = await answers(table, calls)
        if len(answers.sizes) == 1:
            raise asyncio.CancelledError
        return found

    pipeline = Pipeline(answer, 1, busy_timeout=60)
    first = asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))
    await answers.asked.wait()
    next_one = asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))
    await asyncio.sleep(0)
    answers.go_on.set()
    async with asyncio.timeout(30):
        assert len(await next_one) == 1
    assert first.cancelled()
    await pipeline.close()


async def test_who_is_in_no_batch_in_time_fails() -> None:
    answers = Answers()
    pipeline = Pipeline(answers, 1, busy_timeout=0.3)
    first = asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))
    await answers.asked.wait()
    with pytest.raises(StoreBusyError):
        await pipeline.search(TABLE, [QUERY])
    answers.go_on.set()
    await first
    await pipeline.close()


async def test_of_a_batch_that_cannot_read_those_fail_whose_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    answers = Answers()

    async def answer(table: TableHandle, calls: Sequence[Call]) -> list[list[Found]]:
        found = await answers(table, calls)
        if answers.sizes == [1, 3]:
            clock.advance(300)
            raise StoreBusyError("all connections are in use", 1)
        return found

    pipeline = Pipeline(answer, 1, busy_timeout=600)
    calls = [asyncio.ensure_future(pipeline.search(TABLE, [QUERY]))]
    await answers.asked.wait()
    for _ in range(3):
        calls.append(asyncio.ensure_future(pipeline.search(TABLE, [QUERY])))
        await asyncio.sleep(0)
        clock.advance(200)
    answers.go_on.set()
    # At 900 s: they came at 0, 200 and 400.
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    waited = [round(exc.waited, -2) for exc in outcomes if isinstance(exc, StoreBusyError)]
    assert waited == [900, 700]
    assert [isinstance(outcome, list) for outcome in outcomes] == [True, False, False, True]
    assert answers.sizes == [1, 3, 1]
    await pipeline.close()


async def test_a_batch_that_is_refused_before_the_time_of_its_calls_fails() -> None:
    answers = Answers()

    async def answer(table: TableHandle, calls: Sequence[Call]) -> list[list[Found]]:
        await answers(table, calls)
        raise StoreBusyError("the file is locked", 0)

    pipeline = Pipeline(answer, 1, busy_timeout=600)
    answers.go_on.set()
    calls = [pipeline.search(TABLE, [QUERY]) for _ in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, StoreBusyError) for outcome in outcomes)
    assert answers.sizes == [3]
    await pipeline.close()
