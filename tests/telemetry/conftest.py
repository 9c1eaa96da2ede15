"""The real SDK with in-memory exporters, set up after the import of aiovec, as in an app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

# A process can have only one of each.
_EXPORTER = InMemorySpanExporter()
_READER = InMemoryMetricReader()


class Spans:
    """The spans exported since the test began, in the order of their ends."""

    def all(self) -> list[ReadableSpan]:
        return list(_EXPORTER.get_finished_spans())

    def from_aiovec(self) -> list[ReadableSpan]:
        return [span for span in self.all() if span.instrumentation_scope.name == "aiovec"]

    def only(self) -> ReadableSpan:
        (span,) = self.from_aiovec()
        return span

    def forget(self) -> None:
        _EXPORTER.clear()


class Metrics:
    """The values of the instruments, summed since the first test; select those of one store."""

    def points(self, name: str, **attributes: object) -> list[Any]:
        """Return the points of a metric with at least these attributes; ``__`` stands for a dot."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            point
            for metric in self.all()
            if metric.name == name
            for point in metric.data.data_points
            if wanted.items() <= point.attributes.items()
        ]

    def all(self) -> list[Any]:
        data = _READER.get_metrics_data()
        return [
            metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]


@pytest.fixture(scope="session")
def _sdk() -> Iterator[None]:
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(_EXPORTER))
    meters = MeterProvider([_READER], shutdown_on_exit=False)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    assert trace.get_tracer_provider() is tracers
    yield
    tracers.shutdown()
    meters.shutdown()


@pytest.fixture
def spans(_sdk: None) -> Spans:
    exported = Spans()
    exported.forget()
    return exported


@pytest.fixture
def measured(_sdk: None) -> Metrics:
    return Metrics()
