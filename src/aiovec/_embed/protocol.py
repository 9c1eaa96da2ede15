"""The protocol that an app's embedder follows, and functions that inspect an embedder."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from .._input.types import Vectors

Purpose = Literal["document", "query"]
"""The purpose of a text: to be stored, or to be a search query. Some models embed queries
differently."""

WEIGHT = 0.65
"""The usual weight of an embedder's vectors in hybrid searches (``bench quality``, ADR 30)."""


class _OfModel(Protocol):
    @property
    def model(self) -> str:
        """The name of the model. A table stores it with the vectors."""
        ...

    @property
    def dim(self) -> int | None:
        """The length of the vectors; None lets the store learn it by embedding a short text."""
        ...


class Embedder(_OfModel, Protocol):
    """A callable that returns a vector for each text, in order.

    An asynchronous embedder is awaited on the event loop; a plain one runs in a thread, one call at
    a time. A call gets at most 64 texts, or ``batch_size`` if the embedder has this attribute. If
    the embedder has a parameter ``kind``, it is passed as ``"document"`` or ``"query"``. If it has
    an attribute ``weight``, from 0 to 1, new tables give its vectors this weight in hybrid searches
    (by default 0.65).

    A call that raises is retried, unless the error is an aiovec error, an ArithmeticError,
    AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError,
    SyntaxError, TypeError or ValueError, or has a ``status_code`` or ``status`` of 4xx other than
    408, 409, 425 and 429. After one of these Python errors, or a status of 400, 413 or 422, the
    batch is tried again in halves, so that one bad text fails only its own call.
    """

    def __call__(self, texts: list[str], /) -> Awaitable[Vectors] | Vectors:
        """Return a vector for each text, directly or as an awaitable."""
        ...


class _EmbedderByPurpose(_OfModel, Protocol):
    """An embedder whose parameter ``kind`` has no default."""

    def __call__(self, texts: list[str], /, *, kind: Purpose) -> Awaitable[Vectors] | Vectors: ...


EmbedderOption = Embedder | _EmbedderByPurpose | Mapping[str, object] | str
"""An embedder, a mapping with the keys of ``[retrieval.embedders.<name>]``, or the name of a kind
that needs no other keys, such as "demo"."""


def is_async(embedder: object) -> bool:
    """Return whether calling the embedder returns a coroutine."""
    while isinstance(embedder, partial):
        embedder = embedder.func
    call = getattr(embedder, "__call__", embedder)  # noqa: B004 - an async __call__ counts too
    return inspect.iscoroutinefunction(embedder) or inspect.iscoroutinefunction(call)


def takes_kind(embedder: Callable[..., Any]) -> bool:
    """Return whether the embedder has a parameter ``kind``."""
    try:
        inspect.signature(embedder).bind([], kind="document")
    except (TypeError, ValueError):  # ValueError if it cannot be inspected
        return False
    return True
