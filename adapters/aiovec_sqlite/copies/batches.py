"""Batches: a free reader answers the waiting searches of a table together.

The reader takes about 32 searches of the table whose first search has waited longest. A scan uses
all cores, so a table has one scan at a time, and the searches that arrive during a scan are
answered together after it. A lone search never waits for other searches. Each caller gets its
result as soon as its rows are read; the rows of small results are read first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from aiovec.backend.contract import Found, FromEach, Query
from aiovec.backend.limits import copy_of_error
from aiovec.errors import StoreBusyError, StoreClosedError

from ..connection import Read, ReaderPool
from .scan import LARGE, MOST_TOGETHER

_T = TypeVar("_T")

# The most searches that wait: each holds its query and its caller.
_MOST_WAITING = 10_000


class Searched(Protocol):
    """A searched table, whose state decides when a batch may begin."""

    @property
    def ready(self) -> bool:
        """True if the table can answer searches now; if not, searches wait."""

    @property
    def by_file(self) -> bool:
        """True if searches read the file, so several batches can run at the same time."""


# Answers queries from one snapshot. The arguments are a function that reads, the queries, a
# function to call when the scan ends, and a function that a reader's thread calls with the rows
# found, by the queries' positions, to make the result.
AnswerQueries = Callable[
    [
        Read,
        Sequence[Query],
        Callable[[], None],
        Callable[[Iterator[dict[int, Found]]], Any],
    ],
    Awaitable[Any],
]


class _WaitingCall:
    """A call's queries, and the function that makes its result."""

    __slots__ = tuple("came finish future large queries size task together".split())

    def __init__(self, queries: Sequence[Query], finish: FromEach[Any]) -> None:
        self.queries = queries
        self.finish = finish
        self.size = len(queries)
        self.large = any(query.limit > LARGE and not query.by_both for query in queries)
        self.came = time.monotonic()
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # The calls answered together with this one, and the task that answers them.
        self.together: Sequence[_WaitingCall] | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def refused(self) -> bool:
        """True if the call's rows exceed the limit in bytes."""
        meter = self.queries[0].columns.meter
        return meter is not None and meter.refused

    def succeed(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(copy_of_error(error))


class _Batch:
    """Calls that are being answered together."""

    __slots__ = ("calls", "needed_beside", "scanned")

    def __init__(self, calls: int, queries: int, large: int, *, by_file: bool) -> None:
        self.calls = calls
        # A call with many queries takes several scans, and other batches can run meanwhile.
        many = queries > MOST_TOGETHER
        # True once the rows are known and only their fields are still read.
        self.scanned = many or by_file
        # The next scan begins before this batch has ended if this many queries wait. Large queries
        # are not counted, because their callers get their results late.
        self.needed_beside = 1 if many else max(1, queries - large)


class Queue:
    """The waiting calls and the batches of one table."""

    def __init__(self, table: Searched, answer: AnswerQueries) -> None:
        self.table = table
        self.answer = answer
        self.waiting: deque[_WaitingCall] = deque()
        # The newest batch in progress, and the number of calls in the last one that ended.
        self.batch: _Batch | None = None
        self.last_calls = 1

    @property
    def ready(self) -> bool:
        """True if a batch may begin.

        After a scan, the next scan begins immediately if at least as many queries wait as the last
        scan had. Otherwise the last scan's callers are likely to search again soon, and can join
        the batch.
        """
        batch = self.batch
        if batch is None:
            return self.table.ready
        return batch.scanned and sum(call.size for call in self.waiting) >= batch.needed_beside

    @property
    def is_free(self) -> bool:
        """True if a call need not wait for other calls.

        Callers that were answered together tend to search again at the same time, so they wait
        for each other.
        """
        return not (self.batch or self.waiting) and self.last_calls == 1 and self.table.ready

    def take(self, share: int) -> list[_WaitingCall]:
        """Take the calls that have waited longest, until ``share`` queries or more are taken."""
        calls: list[_WaitingCall] = []
        queries = 0
        while self.waiting and queries < share:
            call = self.waiting.popleft()
            if not call.future.done():  # otherwise it was cancelled
                calls.append(call)
                queries += call.size
        return calls


class Batches:
    """Answers the calls of all tables, in at most ``workers`` batches at a time."""

    def __init__(
        self,
        target: str,
        readers: ReaderPool,
        *,
        check_file: Callable[[], None],
        workers: int,
    ) -> None:
        self._target = target
        self._readers = readers
        self._check_file = check_file
        self._workers = workers
        # The queues with waiting calls.
        self._waiting: dict[Queue, None] = {}
        self._in_line = 0
        self._at_work = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def search(self, queue: Queue, queries: Sequence[Query], finish: FromEach[_T]) -> _T:
        """Answer queries; return the result of ``finish``, which a reader's thread calls."""
        if not (queue.is_free and self._at_work < self._workers):
            return await self._in_turn(queue, queries, finish)
        batch = self._begin(queue, 1, len(queries))

        def all_of(parts: Iterator[dict[int, Found]]) -> _T:
            answers: dict[int, Found] = {}
            for part in parts:
                answers |= part
            return finish([answers[place] for place in range(len(queries))])

        try:
            on_scanned = self._on_scanned(queue, batch)
            return cast("_T", await queue.answer(self._readers.read, queries, on_scanned, all_of))
        finally:
            self._end(queue, batch)

    async def _in_turn(self, queue: Queue, queries: Sequence[Query], finish: FromEach[_T]) -> _T:
        """Answer queries in a batch with other callers' queries.

        Raises StoreBusyError if too many calls wait. If the caller is cancelled, the batch
        continues for the other callers.
        """
        if self._closed:
            raise StoreClosedError(self._target)
        if self._in_line >= _MOST_WAITING:
            raise StoreBusyError(f"{_MOST_WAITING:,} searches of this process wait already", 0.0)
        call = _WaitingCall(queries, finish)
        queue.waiting.append(call)
        self._waiting[queue] = None
        # Begin later, so that calls from one iteration of the event loop are answered together.
        asyncio.get_running_loop().call_soon(self.begin)
        self._in_line += 1
        try:
            return cast("_T", await call.future)
        except asyncio.CancelledError:
            together = call.together or ()
            if call.task is not None and all(other.future.done() for other in together):
                call.task.cancel()
            raise
        finally:
            self._in_line -= 1

    def begin(self) -> None:
        """Begin batches of waiting calls while there are free workers."""
        while self._at_work < self._workers and (queue := self._longest_waiting()) is not None:
            calls = queue.take(MOST_TOGETHER)
            if not queue.waiting:
                del self._waiting[queue]
            queries = sum(call.size for call in calls)
            large = sum(call.size for call in calls if call.large)
            batch = self._begin(queue, len(calls), queries, large)
            task = asyncio.create_task(self._answer(queue, calls, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _longest_waiting(self) -> Queue | None:
        """Return the ready queue whose first call has waited longest, or None."""
        ready = [queue for queue in self._waiting if queue.ready]
        return min(ready, key=lambda queue: queue.waiting[0].came, default=None)

    def _begin(self, queue: Queue, calls: int, queries: int, large: int = 0) -> _Batch:
        self._at_work += 1
        queue.batch = batch = _Batch(calls, queries, large, by_file=queue.table.by_file)
        return batch

    def _end(self, queue: Queue, batch: _Batch) -> None:
        self._at_work -= 1
        queue.last_calls = batch.calls
        if queue.batch is batch:
            queue.batch = None
        if self._waiting:
            # Begin later, so that callers that have just got results can join the next batch.
            asyncio.get_running_loop().call_soon(self.begin)

    def _on_scanned(self, queue: Queue, batch: _Batch) -> Callable[[], None]:
        """Return the function that a reader's thread calls when the batch has been scanned."""
        loop = asyncio.get_running_loop()

        def on_scanned() -> None:
            batch.scanned = True
            if queue.waiting:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self.begin)

        return on_scanned

    async def _answer(self, queue: Queue, calls: Sequence[_WaitingCall], batch: _Batch) -> None:
        try:
            async with self._readers.reader() as reader:
                if calls := [call for call in calls if not call.future.done()]:
                    for call in calls:
                        call.together, call.task = calls, asyncio.current_task()
                    await self._answer_calls(reader.read, queue, calls, batch)
        except asyncio.CancelledError:
            for call in calls:
                call.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - for example, no reader could be opened
            for call in calls:
                call.fail(error)
        finally:
            self._end(queue, batch)

    async def _answer_calls(
        self,
        read: Read,
        queue: Queue,
        calls: Sequence[_WaitingCall],
        batch: _Batch,
        *,
        again: bool = False,
    ) -> None:
        calls = [call for call in calls if not call.future.done()]  # without cancelled calls
        queries = [query for call in calls for query in call.queries]
        if not queries:
            return
        restart(queries)
        deliver = partial(self._deliver, asyncio.get_running_loop(), calls)
        try:
            results = await queue.answer(read, queries, self._on_scanned(queue, batch), deliver)
        except Exception as error:  # noqa: BLE001 - the waiting callers get the error
            if isinstance(error, StoreBusyError):
                for call in calls:
                    call.fail(StoreBusyError(error.reason, time.monotonic() - call.came))
                return
            refused = calls if len(calls) == 1 else [call for call in calls if call.refused]
            for call in refused:
                call.fail(error)
            # If it is known which calls failed, answer the rest together; otherwise one by one.
            for group in [calls] if refused and not again else [[call] for call in calls]:
                await self._answer_calls(read, queue, group, batch, again=True)
            return
        for call, result in results:
            call.succeed(result)

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        calls: Sequence[_WaitingCall],
        parts: Iterator[dict[int, Found]],
    ) -> list[tuple[_WaitingCall, Any]]:
        """Finish the calls in the reader's thread, each as soon as all its rows are read.

        Return the calls that finish last, with their results; other calls already have theirs.
        """
        answers: dict[int, Found] = {}
        places = iter(range(sum(len(call.queries) for call in calls)))
        left = {call: [next(places) for _ in call.queries] for call in calls}
        for part in parts:
            answers |= part
            ready = [call for call, needed in left.items() if answers.keys() >= set(needed)]
            results = [
                (call, call.finish([answers.pop(place) for place in left.pop(call)]))
                for call in ready
            ]
            if not left:
                return results
            self._check_file()
            for call, result in results:
                loop.call_soon_threadsafe(call.succeed, result)
        return []

    def close(self) -> None:
        """Fail the waiting calls."""
        self._closed = True
        for queue in self._waiting:
            for call in queue.waiting:
                call.fail(StoreClosedError(self._target))


def restart(queries: Sequence[Query]) -> None:
    """Reset the byte counts of these queries' rows, because the rows will be read again."""
    for query in queries:
        if query.columns.meter is not None:
            query.columns.meter.restart()
