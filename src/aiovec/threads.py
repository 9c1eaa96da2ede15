"""Work off the event loop before anything is imported that could do it, and work to its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def in_daemon_thread(work: Callable[[], _T]) -> _T:
    """The result of a function that runs in a thread of its own.

    For what is rare and slow, such as the first import of a driver: it takes no thread from a
    pool that may be exhausted, needs no module that is not loaded yet (anyio loads its backend on
    the event loop at first use), and does not keep the process from ending. When cancelled it
    returns at once, and the function runs on unheard.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error it is the result

    def run() -> None:
        result: _T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - it belongs to the one who waits
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="aiovec-open", daemon=True).start()
    return await done


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that is not cancelled when its caller is.

    The cancellation comes through when the work has ended.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # so that it does not count as never retrieved
        raise cancelled
    return task.result()
