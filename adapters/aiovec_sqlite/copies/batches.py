"""Searches that wait are answered together; a lone one never waits for company.

A few that come while others on the same table are being answered wait for these, some milliseconds
at most: both batches would read all codes, and the one under way has all cores for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from aiovec.backend import (
    Alarm,
    Found,
    Outcome,
    Patience,
    PerLoop,
    TableHandle,
    VectorQuery,
    copy_of_error,
)
from aiovec.errors import StoreBusyError

# Queries scanned together. More share the reading of the codes a little better, and let the first
# of them wait longer (``python -m bench search``).
MOST_TOGETHER = 32
# So many queries are one batch, on which all cores work: reading the codes for two batches of fewer
# would take longer. And so few do not keep a worker busy beside another one.
_ONE_BATCH, _FEW = 16, 4
# Seconds that few queries wait for the batch under way, which may be a slow one.
_WAIT_FOR_OTHERS = 0.005
# Callers that go on in the same round of the event loop; its other tasks have their turn between.
# Those of a small batch ask again together then. Of a large one each goes on by itself.
_AT_ONCE = 8
_BUSY = "the searches of this process take too long"


class Call(Outcome[list[Found]]):
    """The queries of one caller, who may have gone meanwhile."""

    __slots__ = ("batch", "future", "patience", "queries", "since", "table")

    def __init__(
        self,
        table: TableHandle,
        queries: Sequence[VectorQuery],
        future: asyncio.Future[None],
        patience: Patience,
    ) -> None:
        super().__init__()
        self.table = table
        self.queries = queries
        self.future = future
        self.patience = patience
        self.since = time.perf_counter()
        self.batch: _Batch | None = None

    def succeed(self, found: list[Found]) -> None:
        if not self.future.done():
            self._result = found
            self.future.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self._error = error
            self.future.set_result(None)


class _Batch:
    """Calls that are answered together. The worker lets go of one that nobody waits for."""

    __slots__ = ("_worker", "abandoned", "answered", "calls")

    def __init__(self, calls: Sequence[Call], worker: asyncio.Task[Any] | None) -> None:
        self.calls = calls
        self.abandoned = self.answered = False
        self._worker = worker
        for call in calls:
            call.batch = self

    def look(self) -> None:
        if self.answered or self.abandoned or self._worker is None:
            return
        if all(call.future.done() for call in self.calls):
            self.abandoned = True
            self._worker.cancel()


Answer = Callable[[TableHandle, Sequence[Call]], Awaitable[list[list[Found]]]]


class _State:
    """The calls of one event loop: those that wait, and the workers that answer others."""

    __slots__ = (
        "alarm", "at_work", "beginning", "queries", "tables", "waiting", "working",
    )  # fmt: skip

    def __init__(self, look: Callable[[_State], None]) -> None:
        self.waiting: deque[Call] = deque()
        self.queries = 0  # of the calls that wait
        self.working: set[asyncio.Task[Any]] = set()
        self.at_work = 0
        self.beginning = 0  # of those, that have no batch yet
        self.tables: list[TableHandle] = []  # one for each batch under way
        self.alarm = Alarm(partial(look, self))

    def pop(self) -> Call:
        call = self.waiting.popleft()
        self.queries -= len(call.queries)
        return call

    def may_join(self, table: TableHandle) -> bool:
        """Return whether a search may gain by waiting for those under way, or about to be."""
        return bool(self.beginning) or any(one is table for one in self.tables)


class Pipeline:
    """Has calls answered in batches, at most ``workers`` at once.

    A call that is in no batch within ``busy_timeout`` fails, and so does one whose batch cannot
    read by then. A batch waits for that no longer than the first of its calls may.
    """

    def __init__(self, answer: Answer, workers: int, busy_timeout: float) -> None:
        self._answer = answer
        self._workers = workers
        self._busy_timeout = busy_timeout
        self._state = PerLoop(lambda: _State(self._look))

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        """The answers. A cancelled caller leaves its batch, which goes on without it."""
        patience = Patience(self._busy_timeout)
        state = self._state()
        call = Call(table, queries, asyncio.get_running_loop().create_future(), patience)
        state.waiting.append(call)
        state.queries += len(queries)
        begins = state.queries > _ONE_BATCH or not (state.at_work and state.may_join(table))
        if not (begins and self._add_worker(state)):
            self._look_within(state, patience.left())
        try:
            await call.future
        except asyncio.CancelledError:
            if call.batch is not None:
                call.batch.look()
            raise
        return call.outcome()

    @property
    def idle(self) -> bool:
        """True while no call waits or is being answered."""
        state = self._state()
        return not (state.waiting or state.at_work)

    async def close(self) -> None:
        """Wait until every call has its answer, or the error that there is none any more."""
        state = self._state()
        while state.working:
            await asyncio.wait(state.working)
        state.alarm.cancel()

    def _add_worker(self, state: _State) -> bool:
        """Begin to work on the calls that wait, if a worker is free."""
        if state.at_work >= self._workers:
            return False
        state.at_work += 1
        state.beginning += 1
        # Not at once, as the loop may begin tasks: it shall find those that call in the same round.
        state.working.add(asyncio.Task(self._work(state)))
        return True

    async def _work(self, state: _State) -> None:
        own = asyncio.current_task()
        state.beginning -= 1
        try:
            while batch := self._next_batch(state):
                state.tables.append(table := batch[0].table)
                try:
                    self._put_back(state, await self._settle(batch, own))
                    # Let those who got answers ask again first: a batch of the few that came
                    # meanwhile would read all codes for less (``python -m bench search``).
                    await asyncio.sleep(0)
                finally:
                    state.tables.remove(table)
                if not state.waiting:
                    break
                if state.queries <= _FEW and state.may_join(state.waiting[0].table):
                    self._look_within(state, _WAIT_FOR_OTHERS)
                    break
        finally:
            # At once: a call that comes before the loop's next round must find a worker, or none.
            state.at_work -= 1
            if own is not None:
                state.working.discard(own)

    def _next_batch(self, state: _State) -> list[Call]:
        """The calls that waited longest, on one table; other idle workers get their share."""
        idle = self._workers - state.at_work + state.beginning
        share = state.queries
        if share > _ONE_BATCH:
            share = min(MOST_TOGETHER, -(-share // (idle + 1)))
        batch: list[Call] = []
        queries = 0
        while state.waiting and queries < share:
            call = state.waiting[0]
            if call.future.done():  # its caller has gone
                state.pop()
            elif batch and call.table is not batch[0].table:
                break
            else:
                batch.append(state.pop())
                queries += len(call.queries)
        if state.waiting and not (state.queries > _FEW and self._add_worker(state)):
            self._look_within(state, state.waiting[0].patience.left())
        return batch

    # Calls that wait

    def _look_within(self, state: _State, seconds: float) -> None:
        """Look after the calls that wait in so many seconds; sooner, where a worker is free."""
        if state.at_work < self._workers:
            seconds = min(seconds, _WAIT_FOR_OTHERS)
        state.alarm.within(seconds)

    def _look(self, state: _State) -> None:
        """Have calls whose time is over fail, and give the others a worker that is free."""
        least = self._busy_timeout
        for call in state.waiting:
            if not call.future.done():
                left = call.patience.left()
                if left > 0:
                    least = min(least, left)
                else:
                    call.fail(call.patience.error(_BUSY))
        while state.waiting and state.waiting[0].future.done():
            state.pop()
        if state.waiting:
            self._add_worker(state)
            self._look_within(state, max(least, _WAIT_FOR_OTHERS))

    @staticmethod
    def _put_back(state: _State, calls: list[Call]) -> None:
        state.waiting.extendleft(reversed(calls))
        state.queries += sum(len(call.queries) for call in calls)

    async def _settle(self, calls: list[Call], worker: asyncio.Task[Any] | None) -> list[Call]:
        """Answer the calls; return those that were refused for the time of others, not theirs."""
        batch = _Batch(calls, worker)
        try:
            answers = await self._answer(calls[0].table, calls)
        except asyncio.CancelledError:
            if worker is not None and batch.abandoned:
                worker.uncancel()
                return []
            batch.answered = True
            for call in calls:
                call.future.cancel()
            if worker is None or worker.cancelling():
                raise
            return []  # the answer was cancelled, and not the worker: others wait for it
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            batch.answered = True
            if isinstance(error, StoreBusyError):
                return _refused(calls, error)
            if len(calls) > 1:
                # Whose it is shows when each is asked alone.
                for call in calls:
                    if not call.future.done():
                        await self._settle([call], worker)
            else:
                calls[0].fail(error)
            return []
        batch.answered = True
        at_once = 1 if len(calls) > _ONE_BATCH else _AT_ONCE
        for place, (call, answer) in enumerate(zip(calls, answers, strict=True)):
            if place and place % at_once == 0:
                await asyncio.sleep(0)
            call.succeed(answer)
        return []


def _refused(calls: list[Call], error: StoreBusyError) -> list[Call]:
    """Have the calls fail whose time is over; return the others. Without any such, all fail."""
    waiting = [call for call in calls if not call.future.done()]
    over = [call for call in waiting if call.patience.left() <= 0]
    for call in over or waiting:
        call.fail(call.patience.error(error.reason) if over else copy_of_error(error))
    return [call for call in waiting if not call.future.done()]
