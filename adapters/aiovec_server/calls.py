"""``POST /backend/{call}``: the calls of remote backends, as an ASGI app.

A call's body and its answer are messages of ``aiovec.backend``. An answer with rows is sent in
parts that wait for the client. The call of a client that disconnects is cancelled by ``Limits``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request

from aiovec import VectorStore
from aiovec._http.problems import Problem, problem_of
from aiovec._http.serving import ServedCalls, key_of
from aiovec._http.wire import (
    BATCH_FRAME,
    END_FRAME,
    FAILED_FRAME,
    PROTOCOL,
    PROTOCOL_HEADER,
    STORE_HEADER,
    Message,
    WireError,
    frame,
    pack,
    unpack,
)
from aiovec.asgi import get_store
from aiovec.backend.context import TableChangedError
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight
from aiovec.errors import AiovecError

from .bounds import BOUNDS, check_answer, check_rows
from .once import RETRY_HEADER
from .problems import RequestError, problem_of_request

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Bytes that are handed to the connection at once, which then waits for the client.
_PART = 256 * 1024
_LONGEST_KEY = 200
_EXPORT = "application/vnd.aiovec.export"
_PROTOCOL, _RETRY = PROTOCOL_HEADER.lower().encode(), RETRY_HEADER.lower().encode()
_STORE = STORE_HEADER.lower()


class ClientGoneError(Exception):
    """The client closed its connection before its call was answered."""


@dataclass(frozen=True, slots=True)
class CallRoute:
    """A call's name in the log and the metrics: the calls are few, and each is of another kind."""

    path: str


class BackendCalls:
    """An ASGI app that answers the calls of remote backends.

    Without a store, requests find it by ``aiovec.asgi.get_store``.
    """

    def __init__(self, store: VectorStore | None = None) -> None:
        self._store = store
        self._calls: ServedCalls | None = None

    def _served(self, scope: _Scope) -> ServedCalls:
        store = self._store or get_store(Request(scope))
        if self._calls is None or self._calls.store is not store:
            self._calls = ServedCalls(store)
        return self._calls

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        call = str(scope["path_params"]["call"])
        headers = _headers_of(scope)
        served = self._served(scope)
        answer = _Answer(send, served)
        if (asked_for := _text(headers, _PROTOCOL)) != PROTOCOL:
            detail = f"this server speaks version {PROTOCOL} of the calls, not {asked_for!r:.20}"
            await answer.problem(Problem.plain(426, detail))
            return
        if call != "export" and not served.knows(call):
            await answer.problem(Problem.plain(404, f"there is no call {call!r:.60}"))
            return
        scope["route"] = CallRoute(f"/backend/{call}")
        with contextlib.suppress(ClientGoneError):
            body = await _body_of(receive)
            work = self._export if call == "export" else self._run
            await _answered(answer, work(served, answer, call, headers, body))

    async def _run(
        self, served: ServedCalls, answer: _Answer, call: str, headers: Mapping[bytes, bytes],
        body: bytearray,
    ) -> None:  # fmt: skip
        asked = await _asked(headers, body)
        bounds = BOUNDS.get()
        cut = bounds is not None and _cut_limits(asked.facts, bounds.rows)
        key = None
        if name := _text(headers, b"idempotency-key"):
            if len(name) > _LONGEST_KEY:
                raise WireError(f"a write's key has at most {_LONGEST_KEY} characters")
            key = await hop(weight(body), key_of, name, call, body)
        retried = _text(headers, _RETRY, "0") != "0"
        told = await served.run(call, asked, key, retried=retried)
        if cut and told.rows is not None:
            check_rows(told.rows.num_rows, "rows of the answer")
        if told.rows is not None:
            check_answer(told.rows.get_total_buffer_size())
        await answer.message(told)

    async def _export(
        self, served: ServedCalls, answer: _Answer, call: str, headers: Mapping[bytes, bytes],
        body: bytearray,
    ) -> None:  # fmt: skip
        asked = await _asked(headers, body)
        if (bounds := BOUNDS.get()) is not None:
            _cut_limits(asked.facts, bounds.rows)
        await answer.export(served.export(asked))


async def _answered(answer: _Answer, work: Awaitable[None]) -> None:
    """Tell of what cannot be done."""
    try:
        await work
    except TableChangedError:
        await answer.problem(Problem.plain(412, "the table is no longer in the state asked for"))
    except WireError as exc:
        await answer.problem(Problem.plain(exc.status, str(exc)))
    except RequestError as exc:
        await answer.problem(problem_of_request(exc))
    except AiovecError as exc:
        await answer.problem(problem_of(exc))


class _Answer:
    """The answer to one call, which begins once."""

    def __init__(self, send: _Send, served: ServedCalls) -> None:
        self._send = send
        self._served = served
        self._begun = False

    async def problem(self, problem: Problem) -> None:
        if self._begun:  # of an export, whose status has gone out
            await self._frame(FAILED_FRAME, memoryview(problem.body()))
            await self._end()
            return
        headers = problem.headers()
        await self._begin(problem.status, headers, len(problem.body()))
        await self._send({"type": "http.response.body", "body": problem.body()})

    async def message(self, message: Message) -> None:
        kind, data = await hop(weight(message), pack, message)
        await self._begin(200, {"content-type": kind}, len(data))
        if len(data) > _PART:
            await self._parts(data)
            await self._end()
        else:
            await self._send({"type": "http.response.body", "body": bytes(data)})

    async def export(self, batches: AsyncGenerator[Message, None]) -> None:
        async with contextlib.aclosing(batches):
            async for message in batches:
                _, data = await hop(weight(message), pack, message)
                if not self._begun:
                    await self._begin(200, {"content-type": _EXPORT}, None)
                await self._frame(BATCH_FRAME, data)
        if not self._begun:
            await self._begin(200, {"content-type": _EXPORT}, None)
        await self._frame(END_FRAME, memoryview(b""))
        await self._end()

    async def _begin(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self._begun = True
        named = {**headers, _STORE: self._served.store_mark()}
        if length is not None:
            named["content-length"] = str(length)
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _frame(self, kind: int, data: memoryview) -> None:
        head = frame(kind, len(data))
        if len(data) <= _PART:
            await self._part(head + bytes(data))
        else:
            await self._part(head)
            await self._parts(data)

    async def _parts(self, data: memoryview) -> None:
        for start in range(0, len(data), _PART):
            await self._part(bytes(data[start : start + _PART]))

    async def _part(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


async def _asked(headers: Mapping[bytes, bytes], body: bytearray) -> Message:
    read = partial(unpack, _text(headers, b"content-type"), body, bounded=True)
    return await hop(weight(body), read)


def _cut_limits(facts: Mapping[str, Any], most: int) -> bool:
    """Lower the numbers of rows that a call asks for. Return whether it asked for more."""
    cut = False
    kinds = facts.get("kinds")
    for each in (facts, *(kinds if isinstance(kinds, list) else ())):
        for name in ("limit", "batchSize"):
            if isinstance(each, dict) and type(number := each.get(name)) is int and number > most:
                each[name] = most + 1 if name == "limit" else most
                cut = True
    return cut


async def _body_of(receive: _Receive) -> bytearray:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def _headers_of(scope: _Scope) -> dict[bytes, bytes]:
    """Return the headers by their names, which are in lower case."""
    return dict(scope["headers"])


def _text(headers: Mapping[bytes, bytes], name: bytes, default: str = "") -> str:
    value = headers.get(name)
    return default if value is None else value.decode("latin-1")
