"""Requests with ``Idempotency-Key``: repeated, they are done once.

The key travels with the write to the store, which commits it together with the write. Here are the
header, the digest of the request, and the requests of this process that have the same key at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from aiovec._http.problems import problem_of
from aiovec.backend.context import CallContext, WriteKey, calling
from aiovec.errors import AiovecError, EmbeddingError, StoreBusyError

from .call import Call
from .problems import RequestError

_T = TypeVar("_T")

HEADER = "Idempotency-Key"
RETRY_HEADER = "Idempotency-Retry"
_KEY = re.compile(r"[!-~]{1,200}")
# Errors of the server that ask for the same request again, with which no write was done.
_UNDONE = (EmbeddingError, StoreBusyError)
# Keys that are remembered of requests that may have been done.
_MOST_SEEN = 100_000


def key_name(values: Sequence[str]) -> str | None:
    """Return the key among the values of the header; None where there is none."""
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise RequestError(
            422, f"the header {HEADER} has to be one value of 1 to 200 visible ASCII characters"
        )
    return values[0]


def is_retry(value: str) -> bool:
    """Return whether the header says that the request may have been made before."""
    if value not in ("0", "1"):
        raise RequestError(422, f"the header {RETRY_HEADER} has to be 0 or 1")
    return value == "1"


class WriteKeys:
    """The keys of the requests that came to one app."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[None]] = {}
        # Those that were done, or may have been: a cut-over may since have led to a store that does
        # not know them.
        self._seen: OrderedDict[str, None] = OrderedDict()

    def once(self, handler: Callable[[Call], Awaitable[_T]]) -> Callable[[Call], Awaitable[_T]]:
        """Return the handler of an endpoint as one that heeds the key of its request."""

        async def answer(call: Call) -> _T:
            def act(request: Request) -> Awaitable[_T]:
                call.request = request
                return handler(call)

            return await self.answer(call.request, act)

        return answer

    async def answer(self, request: Request, act: Callable[[Request], Awaitable[_T]]) -> _T:
        """Return what ``act`` answers to the request, whose writes it makes under its key."""
        name = key_name(request.headers.getlist(HEADER))
        if name is None:
            return await act(request)
        while (running := self._running.get(name)) is not None:
            await asyncio.wait([running])
        retried = name in self._seen or is_retry(request.headers.get(RETRY_HEADER, "0"))
        ended = self._running[name] = asyncio.get_running_loop().create_future()
        maybe_done = True
        try:
            digested = _Digested(name, request)
            with calling(CallContext(key=digested.key, retried=retried)):
                return await act(Request(request.scope, digested.receive))
        except (AiovecError, RequestError) as exc:
            status = exc.status if isinstance(exc, RequestError) else problem_of(exc).status
            maybe_done = retried or (status >= 500 and not isinstance(exc, _UNDONE))
            raise
        finally:
            if maybe_done:
                self._note(name)
            del self._running[name]
            ended.set_result(None)

    def _note(self, name: str) -> None:
        self._seen[name] = None
        self._seen.move_to_end(name)
        while len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)


class _Digested:
    """A request whose body is hashed while it is read."""

    def __init__(self, name: str, request: Request) -> None:
        scope = request.scope
        self._name = name
        self._receive = request.receive
        self._digest = hashlib.blake2b(digest_size=16)
        path = scope.get("raw_path") or scope["path"].encode()
        for part in (scope["method"].encode(), path, scope["query_string"]):
            self._digest.update(len(part).to_bytes(8, "big") + part)

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self._digest.update(message.get("body", b""))
        return message

    def key(self) -> WriteKey:
        return WriteKey(self._name, self._digest.digest())
