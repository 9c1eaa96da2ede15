"""Searches of a table that wait are answered together; a lone one never waits for company.

A few that come while others on the same table are being answered wait for these, some milliseconds
at most: both batches would read all codes, and the one under way has all cores for itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from aiovec.backend.contract import Found, TableHandle, VectorQuery
from aiovec.backend.limits import Deadline, copy_of_error, current_deadline
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


class Call:
    """The queries of one caller, who may have gone meanwhile."""

    __slots__ = ("batch", "deadline", "future", "queries", "since")

    def __init__(
        self,
        queries: Sequence[VectorQuery],
        future: asyncio.Future[list[Found]],
        deadline: Deadline,
    ) -> None:
        self.queries = queries
        self.future = future
        self.deadline = deadline
        self.since = time.perf_counter()
        self.batch: _Batch | None = None

    def succeed(self, found: list[Found]) -> None:
        if not self.future.done():
            self.future.set_result(found)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


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


class _Queue:
    """The calls on one table that wait, and the count of workers that answer others of them."""

    __slots__ = ("calls", "queries", "table", "workers")

    def __init__(self, table: TableHandle) -> None:
        self.table = table
        self.calls: deque[Call] = deque()
        self.queries = 0  # of the calls that wait
        self.workers = 0

    def add(self, call: Call) -> None:
        self.calls.append(call)
        self.queries += len(call.queries)

    def pop(self) -> Call:
        call = self.calls.popleft()
        self.queries -= len(call.queries)
        return call

    def put_back(self, calls: list[Call]) -> None:
        self.calls.extendleft(reversed(calls))
        self.queries += sum(len(call.queries) for call in calls)


class _Alarm:
    """One timer for all who wait for something: ``look`` is called when the first may be late."""

    __slots__ = ("_look", "_rings_at", "_timer")

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def within(self, seconds: float) -> None:
        """Ring in so many seconds, unless it will ring sooner; never in infinitely many."""
        if seconds == math.inf:
            return
        loop = asyncio.get_running_loop()
        rings_at = loop.time() + max(seconds, 0.0)
        if self._timer is not None:
            if self._rings_at <= rings_at:
                return
            self._timer.cancel()
        self._rings_at = rings_at
        # A context of its own: that of one call may hold whatever its app has put there.
        self._timer = loop.call_at(rings_at, self._ring, context=Context())

    def _ring(self) -> None:
        self._timer = None
        self._look()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _State:
    """The calls by table, and the workers that answer them."""

    __slots__ = ("alarm", "answering", "at_work", "queues", "working")

    def __init__(self, look: Callable[[_State], None]) -> None:
        # Those with a call that waits or a worker, by the identity of their table's handle.
        self.queues: dict[int, _Queue] = {}
        self.working: set[asyncio.Task[Any]] = set()
        self.at_work = 0
        self.answering = 0  # of those, that have a batch
        self.alarm = _Alarm(partial(look, self))

    def queue(self, table: TableHandle) -> _Queue:
        queue = self.queues.get(id(table))
        if queue is None:
            queue = self.queues[id(table)] = _Queue(table)
        return queue

    def remove_if_empty(self, queue: _Queue) -> None:
        if not (queue.calls or queue.workers):
            del self.queues[id(queue.table)]


class Pipeline:
    """Has calls answered in batches, each of one table, at most ``workers`` at once.

    A call that is in no batch within ``busy_timeout`` fails, and so does one whose batch cannot
    read by then. A batch waits for that no longer than the first of its calls may.
    """

    def __init__(self, answer: Answer, workers: int, busy_timeout: float) -> None:
        self._answer = answer
        self._workers = workers
        self._busy_timeout = busy_timeout
        self._state = _State(self._look)

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        """The answers. A cancelled caller leaves its batch, which goes on without it."""
        deadline = current_deadline(self._busy_timeout)
        state = self._state
        queue = state.queue(table)
        call = Call(queries, asyncio.get_running_loop().create_future(), deadline)
        queue.add(call)
        begins = queue.queries > _ONE_BATCH or not queue.workers
        if not (begins and self._add_worker(state, queue)):
            self._look_within(state, deadline.left())
        try:
            return await call.future
        except asyncio.CancelledError:
            if call.batch is not None:
                call.batch.look()
            raise

    @property
    def idle(self) -> bool:
        """True while no call waits or is being answered."""
        return not self._state.queues

    async def close(self) -> None:
        """Wait until every call has its answer, or the error that there is none any more."""
        state = self._state
        while state.working:
            await asyncio.wait(state.working)
        state.alarm.cancel()

    def _add_worker(self, state: _State, queue: _Queue) -> bool:
        """Begin to work on the calls of a queue, if a worker is free."""
        if state.at_work >= self._workers:
            return False
        state.at_work += 1
        queue.workers += 1
        # Not at once, as the loop may begin tasks: it shall find those that call in the same round.
        state.working.add(asyncio.Task(self._work(state, queue)))
        return True

    async def _work(self, state: _State, first: _Queue) -> None:
        own = asyncio.current_task()
        queue: _Queue | None = first
        try:
            while queue is not None:
                try:
                    await self._answer_some(state, queue, own)
                finally:
                    queue.workers -= 1
                    state.remove_if_empty(queue)
                queue = self._next_queue(state)
                if queue is not None:
                    queue.workers += 1
        finally:
            # At once: a call that comes before the loop's next round must find a worker, or none.
            state.at_work -= 1
            if own is not None:
                state.working.discard(own)

    async def _answer_some(
        self, state: _State, queue: _Queue, worker: asyncio.Task[Any] | None
    ) -> None:
        batch = self._next_batch(state, queue)
        if not batch:
            return
        state.answering += 1
        try:
            queue.put_back(await self._settle(queue.table, batch, worker))
            # Let those who got answers ask again first: a batch of the few that came meanwhile
            # would read all codes for less (``python -m bench search``).
            await asyncio.sleep(0)
        finally:
            state.answering -= 1

    def _next_batch(self, state: _State, queue: _Queue) -> list[Call]:
        """The calls of a queue that waited longest; other idle workers get their share."""
        share = queue.queries
        if share > _ONE_BATCH:
            share = min(MOST_TOGETHER, -(-share // (self._workers - state.answering)))
        batch: list[Call] = []
        queries = 0
        while queue.calls and queries < share:
            call = queue.pop()
            if not call.future.done():  # else its caller has gone
                batch.append(call)
                queries += len(call.queries)
        if queue.calls and not (queue.queries > _FEW and self._add_worker(state, queue)):
            self._look_within(state, queue.calls[0].deadline.left())
        return batch

    def _next_queue(self, state: _State) -> _Queue | None:
        """The queue whose first call waited longest, but for those that better wait for others."""
        waiting = [queue for queue in state.queues.values() if queue.calls]
        ready = [queue for queue in waiting if queue.queries > _FEW or not queue.workers]
        if waiting and not ready:
            self._look_within(state, _WAIT_FOR_OTHERS)
        return min(ready, key=lambda queue: queue.calls[0].since, default=None)

    # Calls that wait

    def _look_within(self, state: _State, seconds: float) -> None:
        """Look after the calls that wait in so many seconds; sooner, where a worker is free."""
        if state.at_work < self._workers:
            seconds = min(seconds, _WAIT_FOR_OTHERS)
        state.alarm.within(seconds)

    def _look(self, state: _State) -> None:
        """Have calls whose time is over fail, and give the others a worker that is free."""
        least = self._busy_timeout
        for queue in list(state.queues.values()):
            for call in queue.calls:
                if not call.future.done():
                    left = call.deadline.left()
                    if left > 0:
                        least = min(least, left)
                    else:
                        call.fail(call.deadline.error(_BUSY))
            while queue.calls and queue.calls[0].future.done():
                queue.pop()
            state.remove_if_empty(queue)
        waiting = [queue for queue in state.queues.values() if queue.calls]
        for queue in sorted(waiting, key=lambda queue: queue.calls[0].since):
            self._add_worker(state, queue)
        if waiting:
            self._look_within(state, max(least, _WAIT_FOR_OTHERS))

    async def _settle(
        self, table: TableHandle, calls: list[Call], worker: asyncio.Task[Any] | None
    ) -> list[Call]:
        """Answer the calls; return those that were refused for the time of others, not theirs."""
        batch = _Batch(calls, worker)
        try:
            answers = await self._answer(table, calls)
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
                        await self._settle(table, [call], worker)
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
    over = [call for call in waiting if call.deadline.left() <= 0]
    for call in over or waiting:
        call.fail(call.deadline.error(error.reason) if over else copy_of_error(error))
    return [call for call in waiting if not call.future.done()]
