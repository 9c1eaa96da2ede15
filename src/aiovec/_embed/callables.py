"""How a callable, such as an embedder, wants to be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any


def is_async(embedder: object) -> bool:
    """Return whether calling it gives a coroutine."""
    while isinstance(embedder, partial):
        embedder = embedder.func
    call = getattr(embedder, "__call__", embedder)  # noqa: B004 - an async __call__ counts too
    return inspect.iscoroutinefunction(embedder) or inspect.iscoroutinefunction(call)


def takes_kind(embedder: Callable[..., Any]) -> bool:
    """Return whether it has a parameter ``kind``."""
    try:
        inspect.signature(embedder).bind([], kind="document")
    except (TypeError, ValueError):  # the latter for one that cannot be inspected
        return False
    return True
