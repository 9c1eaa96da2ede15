"""Do each write with an ``Idempotency-Key`` only once, and cancel writes by their keys.

The store commits the key together with the write. This module has the headers, the digest of a
request, and the coordination of simultaneous requests with the same key in this process.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import Request

from aiovec._http.problems import problem_of
from aiovec.backend.context import WriteKey, call_context, calling
from aiovec.backend.threads import wait_out
from aiovec.errors import AiovecError, EmbeddingError, StoreBusyError

from .problems import RequestError

_T = TypeVar("_T")

HEADER = "Idempotency-Key"
RETRY_HEADER = "Idempotency-Retry"
STATE_HEADER = "If-Match"
_KEY = re.compile(r"[!-~]{1,200}")
# Errors that mean that no write was done, so the client may send the same request again.
_UNDONE = (EmbeddingError, StoreBusyError)
# The most keys to remember: of requests that may have been done, and of cancelled requests.
_MOST_SEEN, _MOST_CANCELLED = 100_000, 10_000
_CANCELLED = "the write of this key was cancelled; repeat it under a new key"


def key_name(values: Sequence[str]) -> str | None:
    """Return the key from the values of Idempotency-Key; None if there is no value."""
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise RequestError(
            422, f"the header {HEADER} must be one value of 1 to 200 visible ASCII characters"
        )
    return values[0]


def _states_in(values: Sequence[str]) -> frozenset[str] | None:
    """Return the states that If-Match lists; None if it accepts every state."""
    tags = [tag.strip() for tag in ",".join(values).split(",")]
    return None if not values or tags == ["*"] else frozenset(tag.strip('"') for tag in tags)


class WriteKeys:
    """The idempotency keys of the requests to one app."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[Any]] = {}
        # Keys of requests that were done, or may have been: after a cut-over, the new store does
        # not know them.
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._cancelled: OrderedDict[str, None] = OrderedDict()

    async def answer(
        self, request: Request, act: Callable[[Request], Awaitable[_T]], *, writes: bool
    ) -> _T:
        """Return the response of ``act``, if the table is in the state that If-Match names.

        If the request ``writes`` and has a key, the write is done only once for this key.
        """
        states = _states_in(request.headers.getlist(STATE_HEADER))
        name = key_name(request.headers.getlist(HEADER)) if writes else None
        if name is None:
            with calling(replace(call_context(), states=states)):
                return await act(request)
        while (running := self._running.get(name)) is not None:
            await asyncio.wait([running])
        if name in self._cancelled:
            raise RequestError(409, _CANCELLED)
        retried = name in self._seen or request.headers.get(RETRY_HEADER) == "1"
        digest = _digest_of(request)

        async def receive() -> MutableMapping[str, Any]:
            message = await request.receive()
            digest.update(message.get("body", b""))
            return message

        def key() -> WriteKey:
            return WriteKey(name, digest.digest())

        async def write() -> _T:
            with calling(replace(call_context(), states=states, key=key, retried=retried)):
                return await act(Request(request.scope, receive))

        # A separate task, which ``cancel`` can cancel without cancelling the request's task.
        work = asyncio.ensure_future(write())
        self._running[name] = work
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            work.cancel()
            await wait_out(work)
            raise
        finally:
            del self._running[name]
            if retried or _maybe_done(work):
                _note(self._seen, name, _MOST_SEEN)
        if work.cancelled():
            raise RequestError(409, _CANCELLED)
        return work.result()

    async def cancel(self, name: str) -> None:
        """Cancel a write, and wait until it has ended: it was done completely or not at all.

        A write that has not arrived yet will not begin.
        """
        _note(self._cancelled, name, _MOST_CANCELLED)
        while (running := self._running.get(name)) is not None:
            running.cancel()
            await asyncio.wait([running])


def _maybe_done(work: asyncio.Future[_T]) -> bool:
    if not work.done() or work.cancelled():
        return True
    error = work.exception()
    if isinstance(error, RequestError):
        return error.status >= 500
    if isinstance(error, AiovecError):
        return problem_of(error).status >= 500 and not isinstance(error, _UNDONE)
    return True


def _note(names: OrderedDict[str, None], name: str, most: int) -> None:
    names[name] = None
    names.move_to_end(name)
    while len(names) > most:
        names.popitem(last=False)


def _digest_of(request: Request) -> hashlib.blake2b:
    """Return the digest of a request without its body; the caller adds the body as it is read."""
    scope = request.scope
    digest = hashlib.blake2b(digest_size=16)
    path = scope.get("raw_path") or scope["path"].encode()
    for part in (scope["method"].encode(), path, scope["query_string"]):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest
