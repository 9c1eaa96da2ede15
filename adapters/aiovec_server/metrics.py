"""Figures for Prometheus: of requests, by the template of their route and status, and the store's.

Labels are bounded: no path, no id and no name that a client chose is one, but the names of the
store's first tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from aiovec import VectorStore
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError, TableNotFoundError

from .call import Call
from .endpoints.declaring import Endpoint

# Seconds. Searches in memory take a millisecond, index builds minutes.
_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
)  # fmt: skip
_OF_TABLES = {
    "rows": "Rows of a table.",
    "bytes": "Bytes that a table takes.",
    "unindexed_rows": "Rows that the table's index does not hold yet.",
}
_MOST_TABLES = 100
_STORE_SECONDS = 10.0
"""Age of the store's figures at which they are read again: some of them take a scan."""
_STORE_PATIENCE = 2.0


class Metrics:
    """The figures of one app, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "aiovec_http_requests",
            "Requests that ended. Status 499: the client disconnected first.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._times = Histogram(
            "aiovec_http_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.running = Gauge(
            "aiovec_http_requests_in_progress", "Requests in progress.", registry=registry
        )
        self._received = Counter(
            "aiovec_http_received_bytes", "Bytes of requests' bodies.", registry=registry
        )
        self._sent = Counter(
            "aiovec_http_sent_bytes", "Bytes of answers' bodies.", registry=registry
        )
        self._up = Gauge(
            "aiovec_store_up", "1 if the store answered.", ["backend"], registry=registry
        )
        self._tables = Gauge("aiovec_tables", "Tables of the store.", registry=registry)
        self._of_tables = {
            name: Gauge(f"aiovec_table_{name}", about, ["table"], registry=registry)
            for name, about in _OF_TABLES.items()
        }
        self._read = -_STORE_SECONDS
        self._lock = asyncio.Lock()

    def ended(
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """Count a request that ended."""
        self.running.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._times.labels(method, route).observe(seconds)
        self._received.inc(received)
        self._sent.inc(sent)

    async def text(self, store: VectorStore) -> bytes:
        """Return all figures in Prometheus' text format, those of the store if it answers."""
        async with self._lock:
            if time.monotonic() - self._read >= _STORE_SECONDS:
                up = self._up.labels(store.backend_name)
                up.set(0)
                with suppress(AiovecError, TimeoutError):
                    async with asyncio.timeout(_STORE_PATIENCE):
                        names = await store.tables()
                        up.set(1)
                        await self._read_tables(store, names)
                self._read = time.monotonic()
        text: bytes = await in_thread(generate_latest, self._registry)
        return text

    async def _read_tables(self, store: VectorStore, names: Sequence[str]) -> None:
        self._tables.set(len(names))
        found = []
        for name in names[:_MOST_TABLES]:
            with suppress(TableNotFoundError):  # dropped meanwhile
                found.append(await store.stats(name))
        for name, gauge in self._of_tables.items():
            gauge.clear()
            for stats in found:
                gauge.labels(stats.table).set(getattr(stats, name) or 0)


def metrics_endpoint(metrics: Metrics) -> Endpoint:
    """Return the endpoint ``/metrics``."""

    async def read_metrics(call: Call, options: dict[str, Any]) -> Response:
        """Figures for Prometheus."""
        return Response(await metrics.text(call.store), media_type=CONTENT_TYPE_LATEST)

    return Endpoint("GET", "/metrics", read_metrics, kinds=("text/plain",))
