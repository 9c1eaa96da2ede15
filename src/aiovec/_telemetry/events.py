"""Spans and metrics of the library's work, if OpenTelemetry's API is installed.

Told are names, counts and times: never a row, an id, a vector, a filter or an error's message.

``VectorStore`` imports this module, and ``connect`` imports ``VectorStore`` in a thread. So
OpenTelemetry is not loaded by ``import aiovec`` and not on the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

from .._model.redaction import redacted

if TYPE_CHECKING:
    from .observer import Observer, SearchObserver

_T = TypeVar("_T")

Attributes = Mapping[str, str | int | float | bool]


class Place:
    """A backend as it is named to observers."""

    __slots__ = ("attributes",)

    def __init__(self, backend: str, target: str) -> None:
        self.attributes: Attributes = {
            "db.system.name": backend,
            # A backend of others may leave a secret in its target, and a path may be no text.
            "db.namespace": redacted(target).encode("utf-8", "replace").decode("utf-8"),
        }


class Operation:
    """One call of a user. What is None is not told."""

    __slots__ = (
        "affected", "batch", "began", "exact", "filtered", "limit", "name", "place", "returned",
        "table",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        table: str | None = None,
        *,
        limit: int | None = None,
        filtered: bool | None = None,
        exact: bool | None = None,
    ) -> None:
        self.name = name
        self.table = table
        self.limit = limit
        self.filtered = filtered
        self.exact = exact
        self.began: float | None = None
        """When it was called, by ``time.monotonic``, where that was before it is watched."""
        self.place: Place | None = None
        """Where it went; the store may have followed its TOML meanwhile."""
        self.batch: int | None = None
        """The number of rows, ids or vectors it was given."""
        self.returned: int | None = None
        """The number of rows that came back."""
        self.affected: int | None = None
        """The number of rows it wrote or deleted."""


class Embedding:
    """One call's texts that an embedder makes vectors of."""

    __slots__ = ("embedder", "kind", "table", "texts")

    def __init__(self, table: str, embedder: str, kind: str, texts: int) -> None:
        self.table = table
        self.embedder = embedder
        self.kind = kind
        self.texts = texts


class HttpRequest:
    """A request to the server. ``route`` and ``status`` are known at its end.

    ``caller`` are the headers that name the span of who asks.
    """

    __slots__ = ("caller", "method", "route", "scheme", "status")

    def __init__(self, method: str, scheme: str, caller: Mapping[str, str]) -> None:
        self.method = method
        self.scheme = scheme
        self.caller = caller
        self.route: str | None = None
        self.status: int | None = None


class MemorySource(Protocol):
    """An object that holds copies of tables in memory."""

    def memory_by_table(self) -> Iterable[tuple[str, int]]:
        """Each table with the bytes of its copy. Called by any thread."""


def watch(operation: Operation, place: Place) -> AbstractContextManager[object, None]:
    """Tell of what is done within: a span that is the current one, and its metrics."""
    if _OBSERVER is None or not _OBSERVER.is_heard():
        return nullcontext()
    return _OBSERVER.watch(operation, place)


def watch_embedding(embedding: Embedding, place: Place) -> AbstractContextManager[object]:
    """Tell of the vectors that are made within: a span that is the current one, and its metrics."""
    return nullcontext() if _OBSERVER is None else _OBSERVER.watch_embedding(embedding, place)


def watch_request(request: HttpRequest) -> AbstractContextManager[object]:
    """Tell of a request: a span that is the current one, child of the caller's, and its metric."""
    if _OBSERVER is None or not _OBSERVER.is_heard():
        return nullcontext()
    return _OBSERVER.watch_request(request)


def watch_batches(
    operation: Operation, place: Place, batches: AsyncGenerator[_T, None]
) -> AsyncGenerator[_T, None]:
    """The same batches, in a span that lasts until they end and is current within them only."""
    return batches if _OBSERVER is None else _OBSERVER.watch_batches(operation, place, batches)


def watch_searches(place: Place, table: str) -> SearchObserver | None:
    """Return the listener for the stages of one table's searches, or None."""
    return None if _OBSERVER is None else _OBSERVER.of_searches(place, table)


def watch_memory(place: Place, source: MemorySource) -> None:
    """Tell of the source's bytes whenever metrics are collected, for as long as it lives."""
    if _OBSERVER is not None:
        _OBSERVER.watch_memory(place, source)


def _observer() -> Observer | None:
    try:
        from .observer import Observer

        return Observer()
    except (ImportError, AttributeError, TypeError):
        return None  # not installed, or older than the one that the extra "otel" asks for


_OBSERVER = _observer()
