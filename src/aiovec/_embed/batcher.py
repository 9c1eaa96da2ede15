"""One embedder of a store: requests shared by the calls that wait, retried, checked and cached.

All that waits and flies belongs to one event loop. A request takes texts of several calls by
turns, so a call of one text does not wait for one of ten thousand. Requests start at once while
none is under way; others wait a few milliseconds for more texts.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._model.arrays import Float32Array
from .._model.schema import Schema
from ..backend.pool import LITTLE, NUMBERS_A_VALUE, off_loop
from ..backend.threads import PerLoop, in_idle_thread
from ..errors import (
    AiovecError,
    DimensionMismatchError,
    EmbeddingError,
    ModelMismatchError,
)
from .answers import checked_matrix
from .cache import Cache
from .calling import Caller, is_async
from .failures import Failure, failure_of
from .local import LocalModel
from .protocol import AnyEmbedder, Purpose

# A request that is not full waits for more texts while another is under way: for so many seconds
# after the last text came, and at most so many in all. Services take 20 ms and more for one, so it
# costs little, and 64 tasks that insert at once make a handful, not 64.
_QUIET: dict[Purpose, float] = {"query": 0.005, "document": 0.02}
_LONGEST_GATHERING: dict[Purpose, float] = {"query": 0.01, "document": 0.1}
# Texts of one call in a row, before another call that waits has its turn.
_TURN = 16
LARGEST_BATCH = 2048
"""Texts in a request, at most: the event loop puts them together."""
# Seconds between tries: doubled each time, and up to half less at random, so that the clients that
# a busy service refused do not come back at the same moment.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_NUMBERS_OF_AN_ARRAY_A_VALUE = 256
_CHARACTERS_A_VALUE = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the requests to one embedder."""

    batch_size: int = 64
    batch_bytes: int = 1024 * 1024
    concurrency: int = 4
    timeout: float = 30.0
    total_timeout: float = 120.0
    retries: int = 4
    cache_bytes: int = 16 * 1024 * 1024
    query_prefix: str = ""
    document_prefix: str = ""

    def prefix(self, kind: Purpose) -> str:
        """Return the text that stands before each text of this kind."""
        return self.query_prefix if kind == "query" else self.document_prefix


class Batcher:
    """An embedder by its name in a store."""

    def __init__(
        self,
        name: str,
        embedder: AnyEmbedder,
        limits: Limits,
        *,
        pause: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.model = embedder.model
        self.dim = embedder.dim
        self.limits = limits
        self.pause = pause
        self._embedder = embedder
        self.caller = Caller(embedder)
        self._loading: PerLoop[_Loading] = PerLoop(_Loading)
        self._cache = Cache(limits.cache_bytes, self.dim)
        self._desk: PerLoop[_Desk] = PerLoop(lambda: _Desk(self))
        self._closed: Callable[[], AiovecError] | None = None

    def __repr__(self) -> str:
        return f"<embedder {self.name!r} ({self.model})>"

    def check_fits(self, table: str, schema: Schema) -> None:
        """Raise ModelMismatchError or DimensionMismatchError if it makes other vectors."""
        if schema.model is not None and schema.model != self.model:
            raise ModelMismatchError(table, schema.model, self.model)
        if schema.dim != self.dim:
            raise DimensionMismatchError(schema.dim, self.dim)

    async def embed(self, texts: Sequence[str], kind: Purpose) -> Float32Array:
        """Return one row for each text, or raise EmbeddingError with the text's place as ``row``.

        Cancelled, its texts are dropped; what is under way for others goes on.
        """
        self._check_open()
        if isinstance(self._embedder, LocalModel):
            await self._get_ready(self._embedder)
        effort = len(texts)
        if effort <= LITTLE:
            effort += sum(map(len, texts)) // _CHARACTERS_A_VALUE
        wanted = await off_loop(effort, self._look_up, texts, kind)
        if wanted.missing:
            self._check_open()
            job = _Job(wanted.missing, wanted.first_places, kind)
            found = await self._desk().do(job)
            return await off_loop(effort, self._put_together, wanted, found)
        return await off_loop(effort, self._put_together, wanted, [])

    async def _get_ready(self, model: LocalModel) -> None:
        """Load a local model, which takes its own time; once for all that wait."""
        loading = self._loading()
        task = loading.task
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            # Not in the pool, whose work keeps a loop from ending: it may take minutes.
            task = loading.task = asyncio.ensure_future(in_idle_thread(model.prepare))
            task.add_done_callback(_retrieved)
        await asyncio.wait([task, loading.closed], return_when=asyncio.FIRST_COMPLETED)
        self._check_open()
        if task.cancelled():
            raise self.error_of(Failure("its loading was cancelled", retryable=True), None)
        error = task.exception()
        if isinstance(error, Exception):
            raise self.error_of(failure_of(error), None)
        if error is not None:
            raise error

    def close(self, error: Callable[[], AiovecError]) -> None:
        """End what is under way on the running loop with an error; later calls raise it too."""
        self._closed = error
        loading = self._loading()
        if not loading.closed.done():
            loading.closed.set_result(None)
        self._desk().close(error)

    async def close_service(self) -> None:
        """Let go of the connections of an embedder that the settings describe."""
        close = getattr(self._embedder, "close", None)
        if close is not None and is_async(close):
            await close()

    def check_same_model(self) -> None:
        """Raise Failure if the app has given its embedder another model or length meanwhile."""
        found = (self._embedder.model, self._embedder.dim)
        if found != (self.model, self.dim):
            raise Failure(
                f"its model is now {found[0]!r:.80} with {found[1]!r:.20} dimensions; the vectors "
                "of two models cannot be compared, so open a store with a new embedder for it"
            )

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed()

    def _look_up(self, texts: Sequence[str], kind: Purpose) -> _Wanted:
        keys = self._cache.keys(texts, kind)
        vectors = self._cache.get_all(keys)
        missing: dict[str, int] = {}
        first_places: list[int] = []
        sources: list[int] = []  # for each text, its place among the missing ones, or -1
        for place, text in enumerate(texts):
            if vectors[place] is not None:
                sources.append(-1)
                continue
            at = missing.setdefault(text, len(missing))
            if at == len(first_places):
                first_places.append(place)
            sources.append(at)
        return _Wanted(keys, vectors, list(missing), first_places, sources)

    def _put_together(self, wanted: _Wanted, found: Sequence[Float32Array]) -> Float32Array:
        keys = wanted.keys
        places = wanted.first_places
        # Tables may refuse a zero vector; then the embedder is asked again, whose fault may pass.
        self._cache.put_all(
            (keys[place], found[n]) for n, place in enumerate(places) if found[n].any()
        )
        matrix = np.empty((len(keys), self.dim), dtype=np.float32)
        for place, (source, held) in enumerate(zip(wanted.sources, wanted.vectors, strict=True)):
            matrix[place] = held if source < 0 else found[source]
        return matrix

    def error_of(self, failure: Failure, row: int | None) -> EmbeddingError:
        """Return the error that a user gets for a failure."""
        error = EmbeddingError(
            self.name, failure.reason, model=self.model, row=row, status=failure.status,
            retryable=failure.retryable,
        )  # fmt: skip
        error.__cause__ = failure.cause
        return error


class _Loading:
    """The loading of a model on one event loop, and the end of whoever waits for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def _retrieved(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # those who waited have it


@dataclass(slots=True)
class _Wanted:
    """The texts of a call: what the cache has, and the others, each once."""

    keys: list[bytes]
    vectors: list[Float32Array | None]
    missing: list[str]
    first_places: list[int]
    sources: list[int]


class _Job:
    """One call's texts, each of which gets its vector."""

    def __init__(self, texts: list[str], places: list[int], kind: Purpose) -> None:
        self.texts = texts
        self.kind = kind
        self.next = 0
        self.vectors: list[Any] = [None] * len(texts)
        self.left = len(texts)
        self.flights: set[_Flight] = set()
        self.done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._places = places

    @property
    def is_over(self) -> bool:
        return self.done.done()

    @property
    def waiting(self) -> int:
        """The number of texts that are in no request yet."""
        return len(self.texts) - self.next

    def settle(self, place: int, vector: Float32Array) -> None:
        self.vectors[place] = vector
        self.left -= 1
        if not self.left and not self.is_over:
            self.done.set_result(self.vectors)

    def fail(self, error: Callable[[int], BaseException], place: int) -> None:
        if not self.is_over:
            self.done.set_exception(error(self._places[place]))


class _Flight:
    """The texts of one request that have no vector yet, and where it goes."""

    def __init__(self, kind: Purpose) -> None:
        self.kind = kind
        self.goals: dict[str, list[tuple[_Job, int]]] = {}
        self.jobs: set[_Job] = set()
        self.size = 0
        self.until = 0.0
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.last_failure: Failure | None = None

    def is_wanted(self, text: str) -> bool:
        return any(not job.is_over for job, _ in self.goals.get(text, ()))

    def leave(self, job: _Job) -> None:
        """Give the request up if every call behind it is over, as this one is."""
        self.jobs.discard(job)
        if not self.jobs and self.task is not None:
            self.task.cancel()

    def fail(self, texts: Sequence[str], error: Callable[[int], BaseException]) -> None:
        for text in texts:
            for job, place in self.goals.pop(text, ()):
                job.fail(error, place)

    def settle(self, text: str, vector: Float32Array) -> None:
        for job, place in self.goals.pop(text, ()):
            job.settle(place, vector)


class _Desk:
    """The jobs that wait and the requests under way on one event loop."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._limits = batcher.limits
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Purpose, OrderedDict[_Job, None]] = {
            "query": OrderedDict(), "document": OrderedDict(),
        }  # fmt: skip
        self._waiting: dict[Purpose, int] = {"query": 0, "document": 0}
        # When the first of the texts that wait came, and the last one.
        self._since: dict[Purpose, float] = {"query": 0.0, "document": 0.0}
        self._latest: dict[Purpose, float] = {"query": 0.0, "document": 0.0}
        self._last: Purpose = "document"
        self._flights: set[_Flight] = set()
        self._timer: asyncio.Handle | None = None
        self._random = random.Random()

    async def do(self, job: _Job) -> list[Any]:
        """Return the vectors of a job's texts."""
        kind = job.kind
        self._latest[kind] = self._loop.time()
        if not self._queues[kind]:
            self._since[kind] = self._latest[kind]
        self._queues[kind][job] = None
        self._waiting[kind] += job.waiting
        job.done.add_done_callback(lambda _: self._drop(job))
        if self._timer is None:
            # Behind the tasks that are about to run, which may bring more texts.
            self._timer = self._loop.call_soon(self._start)
        elif self._waiting[kind] >= self._limits.batch_size:
            self._start_soon()
        return await job.done

    def close(self, error: Callable[[], AiovecError]) -> None:
        jobs = [job for queue in self._queues.values() for job in queue]
        jobs += [job for flight in self._flights for job in flight.jobs]
        for job in jobs:
            if not job.is_over:
                job.done.set_exception(error())
        for flight in self._flights:
            if flight.task is not None:
                flight.task.cancel()

    def _drop(self, job: _Job) -> None:
        """The job is over: nothing more is asked for it."""
        if not job.done.cancelled():
            job.done.exception()  # its caller may be cancelled in this very moment
        if job in self._queues[job.kind]:
            del self._queues[job.kind][job]
            self._waiting[job.kind] -= job.waiting
        for flight in job.flights:
            flight.leave(job)

    def _start_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_soon(self._start)

    def _start(self) -> None:
        """Begin the requests that are due and have a place."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # More than the embedder's places would only wait for each other.
        places = self._batcher.caller.places
        most = self._limits.concurrency if places is None else min(places, self._limits.concurrency)
        while len(self._flights) < most:
            # By turns, so that an import cannot keep searches waiting, nor they it.
            kinds: list[Purpose] = (
                ["query", "document"] if self._last == "document" else ["document", "query"]
            )
            soonest = None
            for kind in kinds:
                if not self._queues[kind]:
                    continue
                due = min(
                    self._latest[kind] + _QUIET[kind], self._since[kind] + _LONGEST_GATHERING[kind]
                )
                full = self._waiting[kind] >= self._limits.batch_size
                if full or not self._flights or self._loop.time() >= due:
                    self._begin(kind)
                    break
                soonest = due if soonest is None else min(soonest, due)
            else:
                if soonest is not None:
                    self._timer = self._loop.call_at(soonest, self._start)
                return

    def _begin(self, kind: Purpose) -> None:
        flight = self._load(kind)
        self._last = kind
        self._since[kind] = self._loop.time()
        if not flight.goals:
            return
        self._expect_until(flight, self._loop.time() + self._limits.total_timeout)
        self._flights.add(flight)
        flight.task = asyncio.ensure_future(self._ask(flight, list(flight.goals)))
        # Not in the task itself: one that is cancelled before its first step never begins.
        flight.task.add_done_callback(lambda task: self._end(flight, task))

    def _expect_until(self, flight: _Flight, until: float) -> None:
        """Give the request up then. It waits no longer for the embedder's place either, but gets
        that time back when the embedder begins."""
        if flight.timer is not None:
            flight.timer.cancel()
        flight.until = until
        flight.timer = self._loop.call_at(until, self._give_up, flight)

    def _load(self, kind: Purpose) -> _Flight:
        """Take texts of the jobs that wait, by turns, up to the bounds of one request."""
        flight = _Flight(kind)
        queue = self._queues[kind]
        while queue and len(flight.goals) < self._limits.batch_size:
            job = next(iter(queue))
            for _ in range(_TURN):
                if not job.waiting or len(flight.goals) >= self._limits.batch_size:
                    break
                text = job.texts[job.next]
                size = len(text.encode())
                if flight.goals and flight.size + size > self._limits.batch_bytes:
                    return flight
                flight.size += size
                flight.goals.setdefault(text, []).append((job, job.next))
                flight.jobs.add(job)
                job.flights.add(flight)
                job.next += 1
                self._waiting[kind] -= 1
            if job.waiting:
                queue.move_to_end(job)
            else:
                del queue[job]
        return flight

    def _end(self, flight: _Flight, task: asyncio.Task[None]) -> None:
        """The request is over: its place is free, and whoever still waits for it is told."""
        if flight.timer is not None:
            flight.timer.cancel()
        self._flights.discard(flight)
        error = None if task.cancelled() else task.exception()
        left = list(flight.goals)
        if error is not None:  # such as the SystemExit of an embedder
            flight.fail(left, lambda _: error)
        else:
            self._fail(flight, left, Failure("its request was stopped", retryable=True))
        for job in flight.jobs:
            job.flights.discard(flight)
        if not self._loop.is_closed():
            self._start_soon()

    def _give_up(self, flight: _Flight) -> None:
        last = flight.last_failure
        before = f", the last failure was: {last.reason}" if last is not None else ""
        failure = Failure(
            f"there was no answer within {self._limits.total_timeout:g} s{before}",
            retryable=True, status=None if last is None else last.status,
        )  # fmt: skip
        self._fail(flight, list(flight.goals), failure)
        if flight.task is not None:
            flight.task.cancel()

    def _fail(self, flight: _Flight, texts: Sequence[str], failure: Failure) -> None:
        flight.fail(texts, lambda place: self._batcher.error_of(failure, place))

    async def _ask(self, flight: _Flight, texts: list[str]) -> None:
        """Ask for vectors; halves of a request that was refused are asked for one by one."""
        texts = [text for text in texts if flight.is_wanted(text)]
        if not texts:
            return
        try:
            matrix = await self._tried(flight, texts)
        except Failure as failure:
            found = failure
        else:
            finite = np.atleast_1d(np.isfinite(matrix).all(axis=1))
            for n, text in enumerate(texts):
                if finite[n]:
                    flight.settle(text, matrix[n])
                else:
                    holds = Failure("its vector has NaN or infinity in it")
                    self._fail(flight, [text], holds)
            return
        if found.divisible and len(texts) > 1:
            half = len(texts) // 2
            await self._ask(flight, texts[:half])
            await self._ask(flight, texts[half:])
        else:
            self._fail(flight, texts, found)

    async def _tried(self, flight: _Flight, texts: list[str]) -> Float32Array:
        """Return the vectors of one request, tried again where that may help; or raise Failure."""
        pause = _FIRST_PAUSE
        for attempt in itertools.count():
            outcome = await self._once(flight, texts)
            if not isinstance(outcome, Failure):
                return outcome
            flight.last_failure = outcome
            left = flight.until - self._loop.time()
            wait = pause * self._random.uniform(0.5, 1.0)
            if outcome.retry_after is not None:
                wait = max(wait, outcome.retry_after)
            if not outcome.retryable or attempt >= self._limits.retries or wait >= left:
                raise outcome
            await self._batcher.pause(wait)
            pause = min(_LONGEST_PAUSE, 2 * pause)
        raise AssertionError  # the count has no end

    async def _once(self, flight: _Flight, texts: list[str]) -> Float32Array | Failure:
        """Return the vectors of one request, or why there are none."""
        # What is raised is returned, so that no frame that may hold a key stays in a traceback.
        task = asyncio.current_task()
        asked = self._loop.time()

        def begun() -> None:
            now = self._loop.time()
            limit.reschedule(now + self._limits.timeout)
            self._expect_until(flight, flight.until + now - asked)

        try:
            async with asyncio.timeout(None) as limit:
                given = [self._limits.prefix(flight.kind) + text for text in texts]
                answer = await self._batcher.caller(given, flight.kind, begun)
            self._batcher.check_same_model()
            per_value = NUMBERS_A_VALUE
            if isinstance(answer, np.ndarray):
                per_value = _NUMBERS_OF_AN_ARRAY_A_VALUE
            effort = len(texts) * self._batcher.dim // per_value
            return await off_loop(effort, checked_matrix, answer, len(texts), self._batcher.dim)
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            return Failure("it was cancelled from within", retryable=True)
        except TimeoutError as exc:
            if limit.expired():
                seconds = f"{self._limits.timeout:g} s"
                return Failure(f"there was no answer within {seconds}", retryable=True)
            return failure_of(exc)
        except Exception as exc:  # noqa: BLE001 - an embedder may raise anything
            return failure_of(exc)
