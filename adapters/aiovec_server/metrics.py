"""Figures for Prometheus: of requests, by the template of their route and status, and the store's.

Labels are bounded: no path, no id and no name that a client chose is one, but the names of the
store's first tables.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.responses import Response

from aiovec import VectorStore
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError, TableNotFoundError

from .call import Call
from .endpoints.declaring import answering
from .endpoints.document import PROBLEMS
from .observing import Observed

# Seconds. Searches in memory take a millisecond, index builds minutes.
_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
)  # fmt: skip
STATE = "aiovec_metrics"
"""Under which name a request's state has the figures."""

_MOST_TABLES = 100
_STORE_SECONDS = 10.0
"""Age of the store's figures at which they are read again: some of them take a scan."""
_STORE_PATIENCE = 2.0


class _Route:
    """The requests to one route by one method that ended."""

    __slots__ = ("buckets", "by_status", "seconds")

    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.buckets = [0] * (len(_BUCKETS) + 1)
        """Each with the requests whose time lies between its bound and the one before."""
        self.seconds = 0.0


class Metrics(Collector):
    """The figures of one app, in a registry of their own.

    Requests are counted in plain numbers, since they end on one event loop: Prometheus' own
    counters take a lock each, ten for one request.
    """

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], _Route] = {}
        self._running = self._received = self._sent = 0
        self.registry = CollectorRegistry(auto_describe=True)
        self.registry.register(self)
        self._store = _StoreFigures(self.registry)

    def begun(self) -> None:
        self._running += 1

    def ended(self, observed: Observed) -> None:
        self._running -= 1
        key = (observed.method, observed.route)
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = _Route()
        route.by_status[observed.status] = route.by_status.get(observed.status, 0) + 1
        route.buckets[bisect_left(_BUCKETS, observed.seconds)] += 1
        route.seconds += observed.seconds
        self._received += observed.received
        self._sent += observed.sent

    def collect(self) -> Iterable[Metric]:
        """Give the figures of the requests to the registry. Runs in a thread."""
        requests = CounterMetricFamily(
            "aiovec_http_requests",
            "Requests that ended. Status 499: the client disconnected first.",
            labels=["method", "route", "status"],
        )
        times = HistogramMetricFamily(
            "aiovec_http_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            labels=["method", "route"],
        )
        for (method, path), route in list(self._routes.items()):
            for status, count in list(route.by_status.items()):
                requests.add_metric([method, path, str(status)], count)
            bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
            sums = accumulate(list(route.buckets))
            times.add_metric([method, path], list(zip(bounds, sums, strict=True)), route.seconds)
        yield requests
        yield times
        yield GaugeMetricFamily(
            "aiovec_http_requests_in_progress", "Requests in progress.", self._running
        )
        yield CounterMetricFamily(
            "aiovec_http_received_bytes", "Bytes of requests' bodies.", self._received
        )
        yield CounterMetricFamily("aiovec_http_sent_bytes", "Bytes of answers' bodies.", self._sent)

    async def text(self, store: VectorStore) -> bytes:
        """Return all figures in Prometheus' text format."""
        await self._store.refresh(store)
        text: bytes = await in_thread(generate_latest, self.registry)
        return text


class _StoreFigures:
    """Rows, bytes and unindexed rows of the store's tables."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str, labels: list[str]) -> Gauge:
            return Gauge(name, about, labels, registry=registry)

        self._up = gauge("aiovec_store_up", "1 if the store answered.", ["backend"])
        self._tables = Gauge("aiovec_tables", "Tables of the store.", registry=registry)
        self._rows = gauge("aiovec_table_rows", "Rows of a table.", ["table"])
        self._bytes = gauge("aiovec_table_bytes", "Bytes that a table takes.", ["table"])
        self._unindexed = gauge(
            "aiovec_table_unindexed_rows",
            "Rows that the table's index does not hold yet.",
            ["table"],
        )
        self._read = 0.0
        self._lock = asyncio.Lock()

    async def refresh(self, store: VectorStore) -> None:
        """Read the store's figures, unless they are fresh. They stay if it does not answer."""
        async with self._lock:
            if self._read and time.monotonic() - self._read < _STORE_SECONDS:
                return
            up = 0
            with suppress(AiovecError, TimeoutError):
                async with asyncio.timeout(_STORE_PATIENCE):
                    names = await store.tables()
                    up = 1
                    self._tables.set(len(names))
                    await self._refresh(store, names[:_MOST_TABLES])
            self._up.clear()
            self._up.labels(store.backend_name).set(up)
            self._read = time.monotonic()

    async def _refresh(self, store: VectorStore, names: Sequence[str]) -> None:
        found = []
        for name in names:
            with suppress(TableNotFoundError):  # dropped meanwhile
                found.append((name, await store.stats(name)))
        for gauge in (self._rows, self._bytes, self._unindexed):
            gauge.clear()
        for name, stats in found:
            self._rows.labels(name).set(stats.rows)
            self._bytes.labels(name).set(stats.bytes)
            self._unindexed.labels(name).set(stats.unindexed_rows or 0)


def metrics_router(store: VectorStore | None, *, enabled: bool) -> APIRouter:
    """Return the router of ``/metrics``."""
    made = APIRouter(redirect_slashes=False)
    if not enabled:
        return made

    async def read(call: Call) -> Response:
        metrics: Metrics = call.request.scope["state"][STATE]
        return Response(await metrics.text(call.store), media_type=CONTENT_TYPE_LATEST)

    answer = answering(read, store)
    made.add_api_route(
        "/metrics",
        answer,
        name="read",
        response_class=Response,
        response_model=None,
        summary="Figures for Prometheus",
        responses={200: {"content": {"text/plain": {}}}, 422: PROBLEMS[422]},
    )
    made.add_api_route("/metrics", answer, methods=["HEAD"], include_in_schema=False)
    return made
