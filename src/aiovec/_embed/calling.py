"""Calls of an embedder: awaited on the event loop, or in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import Any, cast

import anyio

from ..backend.threads import PerLoop, in_idle_thread
from .protocol import AnyEmbedder, Purpose

# Held while a thread calls a plain embedder, which several stores may share.
_locks: weakref.WeakKeyDictionary[object, threading.Lock] = weakref.WeakKeyDictionary()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)  # whoever held one is not there


class Caller:
    """Calls one embedder, with ``kind`` if it takes that.

    A plain one gets ``at_once`` calls at once, each in a thread; further ones wait for a place.
    """

    def __init__(self, embedder: AnyEmbedder | Callable[..., Any], *, at_once: int = 1) -> None:
        self._embedder = cast("Callable[..., Any]", embedder)
        self._is_async = is_async(embedder)
        self._at_once = at_once
        # A plain one whose calls return awaitables: they have a place only for a moment.
        self._gives_awaitables = False
        self._takes_kind = takes_kind(embedder)
        self._place: PerLoop[anyio.CapacityLimiter] = PerLoop(
            lambda: anyio.CapacityLimiter(at_once)
        )
        self._lock: AbstractContextManager[object] = nullcontext()
        if at_once == 1:  # a model is seldom made for calls from several threads
            lock = threading.Lock()
            self._lock = lock
            with contextlib.suppress(TypeError):  # one without a hash, or a weak reference
                self._lock = _locks.setdefault(embedder, lock)

    @property
    def places(self) -> int | None:
        """The number of calls that can run at once; None is no bound."""
        return None if self._is_async or self._gives_awaitables else self._at_once

    async def __call__(
        self, texts: list[str], kind: Purpose, begun: Callable[[], None] | None = None
    ) -> object:
        """Return what the embedder gives for the texts. The list of texts is its own.

        ``begun`` is called, on the event loop, when the embedder begins: a plain one waits for its
        place before, for as long as its other calls take.
        """
        call = partial(self._embedder, texts, **({"kind": kind} if self._takes_kind else {}))
        most = len(texts) + 1
        if self._is_async:
            if begun is not None:
                begun()
            given: object = await cast("Awaitable[object]", call())
        else:
            given = await self._in_thread(lambda: _read(call(), most), begun)
        # A lambda that calls a coroutine function, for example, is none itself.
        if inspect.isawaitable(given):
            self._gives_awaitables = True
            given = await given
        if isinstance(given, Iterator):
            lazy = given
            given = await self._in_thread(lambda: _read(lazy, most))
        return given

    async def _in_thread(
        self, call: Callable[[], object], begun: Callable[[], None] | None = None
    ) -> object:
        """Return the result of a plain function.

        When cancelled it returns at once, but keeps its place until the function has ended. One
        that has not begun by then never does.
        """
        loop = asyncio.get_running_loop()
        limit = self._place()
        place = object()
        context = copy_context()
        is_wanted = True

        def tell() -> None:
            if is_wanted and begun is not None:
                begun()

        def work() -> tuple[object, BaseException | None]:
            try:
                with self._lock:
                    if not is_wanted:
                        return None, None
                    loop.call_soon_threadsafe(tell)
                    return context.run(call), None
            except BaseException as exc:  # noqa: BLE001 - it belongs to the one who waits
                return None, exc
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(limit.release_on_behalf_of, place)

        await limit.acquire_on_behalf_of(place)
        try:
            outcome, error = await in_idle_thread(work)
        except Exception:  # no thread was begun
            limit.release_on_behalf_of(place)
            raise
        finally:
            is_wanted = False
        if error is not None:
            raise error
        return outcome


def _read(given: object, most: int) -> object:
    """Return the vectors of a generator, at most so many: it computes them while it is read."""
    return list(islice(given, most)) if isinstance(given, Iterator) else given


def is_async(embedder: object) -> bool:
    """Return whether calling it gives a coroutine."""
    call = getattr(embedder, "__call__", embedder)  # noqa: B004 - an async __call__ counts too
    return inspect.iscoroutinefunction(embedder) or inspect.iscoroutinefunction(call)


def takes_kind(embedder: object) -> bool:
    """Return whether it has a parameter ``kind``; one that cannot be inspected gets none."""
    try:
        parameters = inspect.signature(cast("Callable[..., Any]", embedder)).parameters
    except (TypeError, ValueError):
        return False
    named = parameters.get("kind")
    if named is not None and named.kind is not inspect.Parameter.POSITIONAL_ONLY:
        return True
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
