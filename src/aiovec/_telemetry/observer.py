"""Spans and metrics by OpenTelemetry's conventions for database clients.

The only module that imports OpenTelemetry, and only its API: what becomes of spans and metrics is
up to the app. Both follow a provider that the app sets later.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from .events import Attributes, Embedding, HttpRequest, MemorySource, Operation, Place

_T = TypeVar("_T")

# As the conventions say for ``db.client.operation.duration``.
_DURATIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
# As they say for ``http.server.request.duration``.
_REQUEST_DURATIONS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
)  # fmt: skip
_SERVER_ERROR = 500
# Stages are shorter than calls by far.
_STAGE_DURATIONS = (
    0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
    0.5, 1,
)  # fmt: skip
_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

# More does not go into a span.
_LARGEST = 2**63 - 1

# Not the global propagator: to load that fails where the environment names one that is missing.
_CALLERS = TraceContextTextMapPropagator()

# A context that is not empty, since an empty one would count as none.
_NO_CALLER = trace.set_span_in_context(trace.INVALID_SPAN, context.Context())


class Observer:
    """Makes the spans and holds the instruments, of which there is one set for each process."""

    def __init__(self) -> None:
        release = version("aiovec")
        self._tracer = trace.get_tracer("aiovec", release)
        meter = metrics.get_meter("aiovec", release)
        self.durations = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self.returned_rows = meter.create_histogram(
            "db.client.response.returned_rows",
            unit="{row}",
            description="The actual number of records returned by the database operation.",
            explicit_bucket_boundaries_advisory=_ROWS,
        )
        self.stages = meter.create_histogram(
            "aiovec.search.stage.duration",
            unit="s",
            description="What a batch of searches spent in a stage, and each search in the queue.",
            explicit_bucket_boundaries_advisory=_STAGE_DURATIONS,
        )
        self.candidates = meter.create_histogram(
            "aiovec.search.candidates",
            unit="{row}",
            description="Rows scored with their stored vectors, for each search of a batch.",
            explicit_bucket_boundaries_advisory=_ROWS,
        )
        self.batch_sizes = meter.create_histogram(
            "aiovec.search.batch.size",
            unit="{search}",
            description="Searches that were answered together.",
            explicit_bucket_boundaries_advisory=_BATCHES,
        )
        self.embeddings = meter.create_histogram(
            "aiovec.embedding.duration",
            unit="s",
            description="Duration of the calls of an embedder that a call of the store waited for.",
            explicit_bucket_boundaries_advisory=_REQUEST_DURATIONS,
        )
        self.embedded_texts = meter.create_histogram(
            "aiovec.embedding.texts",
            unit="{text}",
            description="Texts of a call of the store that an embedder made vectors of.",
            explicit_bucket_boundaries_advisory=_ROWS,
        )
        meter.create_observable_up_down_counter(
            "aiovec.search.memory.usage",
            callbacks=[self._observe_memory],
            unit="By",
            description="Bytes of the copies that searches scan.",
        )
        self.requests = meter.create_histogram(
            "http.server.request.duration",
            unit="s",
            description="Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=_REQUEST_DURATIONS,
        )
        # By their ids, since they need not be hashable.
        self._memories: dict[int, tuple[Place, weakref.ref[MemorySource]]] = {}

    @staticmethod
    def is_heard() -> bool:
        """Return whether the app listens: the providers of the API itself do nothing."""
        return not (
            type(trace.get_tracer_provider()).__module__.startswith("opentelemetry.trace")
            and type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")
        )

    def watch(self, operation: Operation, place: Place) -> Watch:
        return Watch(self, self._tracer, operation, place)

    @contextmanager
    def watch_embedding(self, embedding: Embedding, place: Place) -> Iterator[None]:
        attributes: dict[str, str | int | float | bool] = {
            **place.attributes,
            "db.collection.name": embedding.table,
            "aiovec.embedding.name": embedding.embedder,
            "aiovec.embedding.kind": embedding.kind,
        }
        span = self._tracer.start_span(
            f"embed {embedding.table}",
            attributes={**attributes, "aiovec.embedding.texts": embedding.texts},
        )
        within = trace.set_span_in_context(span)
        began = time.perf_counter()
        task, token = _task(), context.attach(within)
        error: BaseException | None = None
        try:
            yield
        except BaseException as exc:
            error = exc
            raise
        finally:
            took = time.perf_counter() - began
            if task is _task():  # as in Watch
                context.detach(token)
            late = _failed(error, span)
            error = None  # it refers to this frame
            span.set_attributes(late)
            span.end()
            attributes.update(late)
            self.embeddings.record(took, attributes, within)
            self.embedded_texts.record(embedding.texts, attributes, within)

    @contextmanager
    def watch_request(self, request: HttpRequest) -> Iterator[None]:
        """Make the span of a request to the server.

        Neither its path nor its query is told, since ids and words stand there: its route is.
        """
        attributes: dict[str, str | int] = {
            "http.request.method": request.method,
            "url.scheme": request.scheme,
        }
        caller = _CALLERS.extract(request.caller) if request.caller else None
        span = self._tracer.start_span(
            request.method, caller, trace.SpanKind.SERVER, attributes=attributes
        )
        within = trace.set_span_in_context(span, caller)
        began = time.perf_counter()
        token = context.attach(within)
        try:
            yield
        finally:
            context.detach(token)
            took = time.perf_counter() - began
            attributes.update(_answered(request))
            if request.status is None or request.status >= _SERVER_ERROR:
                span.set_status(trace.StatusCode.ERROR)
            if request.route is not None:
                span.update_name(f"{request.method} {request.route}")
            span.set_attributes(attributes)
            span.end()
            self.requests.record(took, attributes, within)

    async def watch_batches(
        self, operation: Operation, place: Place, batches: AsyncGenerator[_T, None]
    ) -> AsyncGenerator[_T, None]:
        span = Watch(self, self._tracer, operation, place)
        span.start()
        error: BaseException | None = None
        try:
            while True:
                # Never across a yield: what the consumer does is no part of the export, and it
                # may go on in another task.
                span.attach()
                try:
                    batch = await anext(batches)
                except StopAsyncIteration:
                    return
                except BaseException as exc:
                    error = exc
                    raise
                finally:
                    span.detach()
                yield batch
        finally:
            try:
                await batches.aclose()
            finally:
                span.end(error)
                error = None  # it refers to this frame

    def of_searches(self, place: Place, table: str) -> SearchObserver:
        return SearchObserver(self, {**place.attributes, "db.collection.name": table})

    def watch_memory(self, place: Place, source: MemorySource) -> None:
        key = id(source)
        gone = weakref.ref(source, lambda _: self._memories.pop(key, None))
        self._memories[key] = (place, gone)

    def _observe_memory(self, _: CallbackOptions) -> Iterable[Observation]:
        return list(self._memory())

    def _memory(self) -> Iterator[Observation]:
        for place, reference in list(self._memories.values()):
            source = reference()
            if source is not None:
                for table, nbytes in source.memory_by_table():
                    yield Observation(nbytes, {**place.attributes, "db.collection.name": table})


class Watch:
    """The span of one operation. As a context manager it is the current span within."""

    __slots__ = (
        "_attributes", "_began", "_context", "_observer", "_operation", "_place", "_span",
        "_task", "_token", "_tracer",
    )  # fmt: skip

    def __init__(
        self, observer: Observer, tracer: trace.Tracer, operation: Operation, place: Place
    ) -> None:
        self._observer = observer
        self._tracer = tracer
        self._operation = operation
        self._place = place

    def __enter__(self) -> None:
        self.start()
        self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()
        self.end(error)

    def start(self) -> None:
        operation = self._operation
        attributes = self._attributes = dict(self._place.attributes)
        attributes["db.operation.name"] = name = operation.name
        if operation.table is not None:
            attributes["db.collection.name"] = operation.table
            name = f"{name} {operation.table}"
        waited = 0.0
        if operation.began is not None:
            waited = max(waited, time.monotonic() - operation.began)
        self._span = self._tracer.start_span(
            name,
            kind=trace.SpanKind.CLIENT,
            attributes={**attributes, **_asked(operation)},
            start_time=time.time_ns() - round(waited * 1e9) if waited else None,
        )
        self._context = trace.set_span_in_context(self._span)
        # Behind the span's own start, so that a call never took longer than its span tells.
        self._began = time.perf_counter() - waited

    def attach(self) -> None:
        self._task = _task()
        self._token = context.attach(self._context)

    def detach(self) -> None:
        # A call is collected elsewhere when its loop was closed under it; its context is gone.
        if self._task is _task():
            context.detach(self._token)

    def end(self, error: BaseException | None) -> None:
        took = time.perf_counter() - self._began
        operation, attributes, span = self._operation, self._attributes, self._span
        late: dict[str, str | int | float | bool] = {}
        if operation.place is not None and operation.place is not self._place:
            late.update(operation.place.attributes)
        late.update(_failed(error, span))
        attributes.update(late)
        self._observer.durations.record(took, attributes, self._context)
        if operation.returned is not None:
            self._observer.returned_rows.record(operation.returned, attributes, self._context)
        if span.is_recording():
            span.set_attributes({**late, **_came_of(operation)})
        span.end()


class SearchObserver:
    """Is told of one table's searches by the threads that answer them.

    A batch belongs to several callers, so nothing is linked to the span of one.
    """

    __slots__ = ("_attributes", "_observer", "_of_stages")

    def __init__(self, observer: Observer, attributes: Attributes) -> None:
        self._observer = observer
        self._attributes = attributes
        self._of_stages: dict[str, Attributes] = {}

    def add_stage(self, name: str, seconds: float) -> None:
        attributes = self._of_stages.get(name)
        if attributes is None:
            attributes = {**self._attributes, "aiovec.search.stage": name}
            self._of_stages[name] = attributes
        self._observer.stages.record(seconds, attributes, _NO_CALLER)

    def add_batch(self, searches: int, candidates: int) -> None:
        self._observer.batch_sizes.record(searches, self._attributes, _NO_CALLER)
        self._observer.candidates.record(candidates / searches, self._attributes, _NO_CALLER)


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop is running
        return None


def _failed(error: BaseException | None, span: trace.Span) -> dict[str, str | bool]:
    """Return the attributes of what ended with an error; the span gets its status."""
    if error is None:
        return {}
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return {"aiovec.cancelled": True}
    span.set_status(trace.StatusCode.ERROR)
    # Its class alone: a message may name ids and quote filters.
    return {"error.type": type(error).__qualname__}


def _asked(operation: Operation) -> dict[str, int | bool]:
    """Return the attributes known from the start, so that a sampler sees them."""
    found: dict[str, int | bool] = {}
    if operation.limit is not None:
        found["aiovec.limit"] = min(operation.limit, _LARGEST)
    if operation.exact is not None:
        found["aiovec.exact"] = operation.exact
    if operation.filtered is not None:
        found["aiovec.filtered"] = operation.filtered
    return found


def _answered(request: HttpRequest) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    if request.route is not None:
        found["http.route"] = request.route
    if request.status is None:
        found["error.type"] = "disconnect"  # the client went before its answer
    else:
        found["http.response.status_code"] = request.status
        if request.status >= _SERVER_ERROR:
            found["error.type"] = str(request.status)
    return found


def _came_of(operation: Operation) -> dict[str, int]:
    found: dict[str, int] = {}
    if operation.batch is not None and operation.batch > 1:  # one is no batch by the conventions
        found["db.operation.batch.size"] = operation.batch
    if operation.returned is not None:
        found["db.response.returned_rows"] = operation.returned
    if operation.affected is not None:
        found["aiovec.affected_rows"] = operation.affected
    return found
