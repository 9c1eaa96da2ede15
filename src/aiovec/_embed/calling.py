"""Calls of an embedder: awaited on the event loop, or in a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from ..backend.threads import hop, in_daemon_thread, in_thread
from .protocol import Purpose

_T = TypeVar("_T")


class Caller:
    """Calls one embedder, with ``kind`` if it takes that.

    A plain one runs in a thread, one call at a time.
    """

    def __init__(self, embedder: Callable[..., Any]) -> None:
        self._embedder = embedder
        self.is_async = is_async(embedder)
        self._takes_kind = takes_kind(embedder)
        self._places = asyncio.Semaphore(1)

    async def __call__(
        self, texts: list[str], kind: Purpose, finish: Callable[[Any], _T], weight: int
    ) -> _T:
        """Return what ``finish``, work of this ``weight``, makes of the embedder's answer.

        The list of texts becomes the embedder's own.
        """
        call = partial(self._embedder, texts, **({"kind": kind} if self._takes_kind else {}))
        if not self.is_async:
            return await in_daemon_thread(lambda: finish(call()), self._places)
        answer = await call()
        if isinstance(answer, Iterator):  # which may compute its vectors when it is read
            return await in_thread(finish, answer)
        return await hop(weight, finish, answer)


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
