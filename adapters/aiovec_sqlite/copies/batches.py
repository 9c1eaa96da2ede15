"""Searches that wait are answered together; a lone one never waits for company."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiovec.backend import Admission, Found, Patience, PerLoop, TableHandle, VectorQuery
from aiovec.errors import StoreBusyError

# Queries scanned together. More share the reading of the codes a little better, and let the first
# of them wait longer (``python -m bench search``).
MOST_TOGETHER = 32
# Callers that go on in the same round of the event loop; its other tasks have their turn between.
_AT_ONCE = 8
# Calls under way at once; further callers wait for a place.
_MOST_CALLS = 1024
_BUSY = "the searches of this process take too long"


class Call:
    """The queries of one caller, who may have gone meanwhile."""

    __slots__ = ("batch", "future", "queries", "since", "table")

    def __init__(
        self,
        table: TableHandle,
        queries: Sequence[VectorQuery],
        future: asyncio.Future[list[Found]],
    ) -> None:
        self.table = table
        self.queries = queries
        self.future = future
        self.since = time.perf_counter()
        self.batch: _Batch | None = None


class _Batch:
    """Calls that are answered together, by a task that ends when none of them waits any more."""

    __slots__ = ("answering", "calls")

    def __init__(self, calls: Sequence[Call], answering: asyncio.Task[list[list[Found]]]) -> None:
        self.calls = calls
        self.answering = answering
        for call in calls:
            call.batch = self

    def look(self) -> None:
        if all(call.future.done() for call in self.calls):
            self.answering.cancel()


Answer = Callable[[TableHandle, Sequence[Call]], Awaitable[list[list[Found]]]]


class _State:
    """The calls of one event loop: those that wait, and the tasks that answer others."""

    __slots__ = ("waiting", "working")

    def __init__(self) -> None:
        self.waiting: deque[Call] = deque()
        self.working: set[asyncio.Task[Any]] = set()


class Pipeline:
    """Has calls answered in batches, at most ``workers`` at once.

    A call that is in no batch within ``busy_timeout`` fails.
    """

    def __init__(self, answer: Answer, workers: int, busy_timeout: float) -> None:
        self._answer = answer
        self._workers = workers
        self._busy_timeout = busy_timeout
        self._state = PerLoop(_State)
        self._places = Admission(_BUSY, calls=_MOST_CALLS)

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        """The answers. A cancelled caller leaves its batch, which goes on without it."""
        patience = Patience(self._busy_timeout)
        async with self._places.share(0, patience):
            state = self._state()
            call = Call(table, queries, asyncio.get_running_loop().create_future())
            state.waiting.append(call)
            if len(state.working) < self._workers:
                state.working.add(asyncio.ensure_future(self._work(state)))
            try:
                with patience.when_over(lambda: _give_up(call, patience)):
                    return await call.future
            except asyncio.CancelledError:
                if call.batch is not None:
                    call.batch.look()
                raise

    async def close(self) -> None:
        """Wait until every call has its answer, or the error that there is none any more."""
        state = self._state()
        while state.working:
            await asyncio.wait(state.working)

    async def _work(self, state: _State) -> None:
        try:
            while batch := self._next_batch(state):
                await self._settle(batch)
                # Let those who got answers ask again first: a batch of the few that came meanwhile
                # would read all codes for less (``python -m bench search``).
                await asyncio.sleep(0)
        finally:
            # At once: a call that comes before the loop's next round must find a worker, or none.
            if (own := asyncio.current_task()) is not None:
                state.working.discard(own)

    def _next_batch(self, state: _State) -> list[Call]:
        """The calls that waited longest, on one table; other idle workers get their share."""
        idle = self._workers - len(state.working) + 1
        share = min(MOST_TOGETHER, -(-len(state.waiting) // idle))
        batch: list[Call] = []
        queries = 0
        while state.waiting and queries < share:
            call = state.waiting[0]
            if call.future.done():  # its caller has gone
                state.waiting.popleft()
            elif batch and call.table is not batch[0].table:
                break
            else:
                batch.append(state.waiting.popleft())
                queries += len(call.queries)
        return batch

    async def _settle(self, calls: list[Call]) -> None:
        answering = asyncio.ensure_future(self._answer(calls[0].table, calls))
        batch = _Batch(calls, answering)
        await asyncio.wait({answering})
        if answering.cancelled():
            for call in calls:
                call.future.cancel()
        elif (error := answering.exception()) is None:
            for place, (call, answer) in enumerate(zip(calls, answering.result(), strict=True)):
                if place and place % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                if not call.future.done():
                    call.future.set_result(answer)
        elif len(calls) > 1 and not isinstance(error, StoreBusyError):
            # Whose it is shows when each is asked alone.
            for call in batch.calls:
                await self._settle([call])
        else:
            for call in calls:
                if not call.future.done():
                    call.future.set_exception(error)


def _give_up(call: Call, patience: Patience) -> None:
    """The call's time is over: it fails, unless it is being answered."""
    if call.batch is None and not call.future.done():
        call.future.set_exception(patience.error(_BUSY))
