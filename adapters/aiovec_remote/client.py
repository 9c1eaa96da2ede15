"""Requests to a server: their tries, their cancellation, and what their answers mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from aiovec.backend import (
    BATCH_FRAME,
    FAILED_FRAME,
    FRAME_HEAD,
    PROTOCOL,
    PROTOCOL_HEADER,
    STORE_HEADER,
    Admission,
    Message,
    Patience,
    PerLoop,
    StaleTableError,
    WireError,
    effort_of_body,
    effort_of_message,
    error_of,
    frame_of,
    off_loop,
    pack,
    redacted,
    to_its_end,
    unpack,
)
from aiovec.errors import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    InvalidArgumentError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
)

from .connections import Connections
from .settings import SCHEME, RemoteSettings
from .sidecar import Sidecar

# Seconds before another try: the first wait, and the longest. A server may ask for others.
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
# Seconds that a cancelled write waits for the server to say that it has ended.
_REVOKING = 10.0
# Bytes that are handed to a connection at once.
_PART = 256 * 1024
_BUSY = frozenset({429, 503})
_GATEWAY = frozenset({502, 504})
_LONGEST_PROBLEM = 1_000_000
_PROBLEM = "application/problem+json"


class _LostError(Exception):
    """A request without an answer. ``sent`` tells whether the server may have got it."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(reason)


class _RefusedError(Exception):
    """An answer by which the server did nothing and may do it later."""

    def __init__(self, reason: str, after: float | None) -> None:
        self.after = after
        super().__init__(reason)


class Client:
    """The calls that a store makes of one server."""

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self.target = redacted(url)
        self._url = url.rstrip("/")
        self._sidecar: Sidecar | None = None
        if url.startswith(f"{SCHEME}://"):
            self._sidecar = Sidecar(Path(url.removeprefix(f"{SCHEME}://")))
        self._settings = settings
        self._headers = {PROTOCOL_HEADER: PROTOCOL}
        if settings.api_key:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"
        self._connections = PerLoop(lambda: Connections(settings), Connections.abandon)
        self._turns = Admission("too many calls are under way", calls=settings.connections)
        self._writes = PerLoop(_Count)
        self._closed = False
        self.repeats_writes = False
        """Whether the server's store does a write with a key once, however often it is asked."""
        self.store_mark = ""
        """Of the newest answer: which store the server serves."""

    def __del__(self) -> None:
        connections = getattr(self, "_connections", None)
        if connections is not None and (left := connections.drop()) is not None:
            left.abandon()

    # Calls

    async def ask(
        self, call: str, message: Message, *,
        once: bool = False, size: int = 0, long: bool = False, tries: bool = True,
    ) -> Message:  # fmt: skip
        """Return the answer to a call that reads; to one that writes with ``once``.

        ``size`` is the number of values in the facts. ``long`` calls may take any time. Without
        ``tries`` a server that cannot be reached is an error at once.
        """
        self._check_open()
        key = uuid.uuid4().hex if once else None
        kind, body = await off_loop(size + effort_of_message(message), pack, message)
        async with self._turns.share(0, Patience(self._settings.busy_timeout)):
            self._check_open()
            if key is None:
                return await self._answered(call, kind, body, None, long=long, tries=tries)
            count = self._writes()
            with count:
                try:
                    return await self._answered(call, kind, body, key, long=long, tries=tries)
                except asyncio.CancelledError:
                    await to_its_end(self._revoke(key))
                    raise

    async def _answered(
        self, call: str, kind: str, body: memoryview, key: str | None, *, long: bool, tries: bool
    ) -> Message:
        began = time.monotonic()
        waits = _waits()
        retried = False
        while True:
            patience = self._settings.reconnect_timeout if tries else 0.0
            try:
                return await self._try(call, kind, body, key, long=long, retried=retried)
            except _RefusedError as exc:
                wait = next(waits) if exc.after is None else exc.after
                limit = self._settings.busy_timeout
                failure: Exception = exc
                error: AiovecError = StoreBusyError(str(exc), time.monotonic() - began)
            except _LostError as exc:
                self._look_again()
                if self._closed:
                    raise StoreClosedError(self.target) from exc
                if key is not None and exc.sent and not self.repeats_writes:
                    raise OutcomeUnknownError(self.target, str(exc)) from exc
                retried |= exc.sent
                wait, limit, failure = next(waits), patience, exc
                error = self._lost(exc, key)
            if time.monotonic() - began + wait > limit:
                raise error from failure
            await asyncio.sleep(wait)
            self._check_open()

    def _lost(self, exc: _LostError, key: str | None) -> AiovecError:
        if exc.sent and key is not None:
            return OutcomeUnknownError(self.target, str(exc))
        if exc.sent:
            return AiovecError(f"the server at {self.target} did not answer: {exc}")
        return AiovecError(
            f"no server answers at {self.target}: {exc}; is it running? (aiovec serve)"
        )

    async def _try(
        self, call: str, kind: str, body: memoryview, key: str | None, *, long: bool,
        retried: bool = False,
    ) -> Message:  # fmt: skip
        async with self._response(call, kind, body, key, long=long, retried=retried) as response:
            if response.status != 200:
                await self._refuse(response, call, len(body))
            content_type = response.headers.get("Content-Type", "")
            data = await _read(response)
        self.store_mark = response.headers.get(STORE_HEADER, "")[:100]
        try:
            return await off_loop(effort_of_body(data), unpack, content_type, data)
        except WireError as exc:
            raise self.unreadable(exc, writes=key is not None) from exc

    def unreadable(self, exc: WireError, *, writes: bool = False) -> AiovecError:
        """Return the error for an answer that does not fit the call."""
        reason = f"the server's answer cannot be used: {exc}"
        if writes:
            return OutcomeUnknownError(self.target, reason)
        return CorruptStoreError(self.target, reason)

    async def _place(self) -> tuple[str, dict[str, str]]:
        """Return the server's URL, and the header for the key of one that was started."""
        if self._sidecar is None:
            return self._url, {}
        server = await self._sidecar.server()
        return server.url, {"Authorization": f"Bearer {server.key}"}

    def _look_again(self) -> None:
        """After a lost request: the server may have died, and another one been started."""
        if self._sidecar is not None:
            self._sidecar.lost()

    @contextlib.asynccontextmanager
    async def _response(
        self, call: str, kind: str, body: memoryview, key: str | None, *, long: bool,
        retried: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        url, key_header = await self._place()
        headers = {**self._headers, **key_header, "Content-Type": kind}
        if key is not None:
            headers["Idempotency-Key"] = key
            if retried:
                headers["Idempotency-Retry"] = "1"
        session = await self._connections().begin()
        begun = False
        try:
            async with session.post(
                f"{url}/backend/{call}",
                data=bytes(body) if len(body) <= _PART else _Parts(body),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=self._settings.connect_timeout,
                    sock_read=None if long else self._settings.idle_timeout,
                ),
            ) as response:
                begun = True
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise _LostError(_reason(exc), sent=False) from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise _LostError(_reason(exc), sent=True) from exc
        except RuntimeError as exc:  # "Session is closed"
            if begun or not session.closed:
                raise
            raise _LostError(_reason(exc), sent=False) from exc

    async def _revoke(self, key: str) -> None:
        """Cancel a write at the server, and wait until it has ended there."""
        kind, body = pack(Message({"key": key}))
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_REVOKING):
                await self._try("cancel", kind, body, None, long=False)

    # An export

    async def stream(self, message: Message) -> AsyncGenerator[Message, None]:
        """Yield the parts of an export as they come; the server waits for who reads slowly."""
        self._check_open()
        kind, body = pack(message)
        began, waits = time.monotonic(), _waits()
        while True:
            parts = self._parts(kind, body)
            try:
                first = await anext(parts, None)
            except (_RefusedError, _LostError) as exc:
                self._look_again()
                if self._closed:
                    raise StoreClosedError(self.target) from exc
                busy = isinstance(exc, _RefusedError)
                waited = time.monotonic() - began
                error = (
                    StoreBusyError(str(exc), waited) if busy else self._lost(exc, None)  # type: ignore[arg-type]  # it is one of two
                )
                wait = (exc.after if isinstance(exc, _RefusedError) else None) or next(waits)
                limit = self._settings.busy_timeout if busy else self._settings.reconnect_timeout
                if waited + wait > limit:
                    raise error from exc
                await asyncio.sleep(wait)
                self._check_open()
                continue
            break
        async with contextlib.aclosing(parts):
            while first is not None:
                yield first
                del first
                try:
                    first = await anext(parts, None)
                except _LostError as exc:
                    if self._closed:
                        raise StoreClosedError(self.target) from exc
                    raise AiovecError(
                        f"the export from {self.target} broke off: {exc}; go on from the last "
                        "batch's cursor"
                    ) from exc
                if self._closed:
                    raise StoreClosedError(self.target)

    async def _parts(self, kind: str, body: memoryview) -> AsyncGenerator[Message, None]:
        async with self._response("export", kind, body, None, long=False) as response:
            if response.status != 200:
                await self._refuse(response, "export", len(body))
            self.store_mark = response.headers.get(STORE_HEADER, "")[:100]
            try:
                while True:
                    what, length = frame_of(await response.content.readexactly(FRAME_HEAD))
                    data = await _read_length(response, length)
                    if what == FAILED_FRAME:
                        raise error_of(_json(data), target=self.target)
                    if what != BATCH_FRAME:
                        return
                    yield await off_loop(
                        effort_of_body(data), unpack, "application/vnd.apache.arrow.stream", data
                    )
            except asyncio.IncompleteReadError as exc:
                raise _LostError("the answer was cut off", sent=True) from exc
            except WireError as exc:
                raise self.unreadable(exc) from exc
            finally:
                if not response.content.at_eof():
                    response.close()  # the server stops reading the table

    # Answers that are none

    async def _refuse(self, response: aiohttp.ClientResponse, call: str, size: int) -> None:
        """Raise what an answer with another status than 200 means."""
        status = response.status
        content_type = response.content_type
        data = await _read(response, _LONGEST_PROBLEM)
        if 300 <= status < 400:
            raise ConfigError(
                f"{self.target} answers with a redirect (HTTP {status}), which is not followed; "
                "use the address of the aiovec server itself",
                key="target",
            )
        if content_type != _PROBLEM:
            text = f"HTTP {status} with {content_type}"
            if status in _GATEWAY or status in _BUSY:
                raise _LostError(f"a proxy says {text}", sent=True)
            raise ConfigError(
                f"what answers at {self.target} is no aiovec server of this version ({text})",
                key="target",
            )
        problem = _json(data)
        error = error_of(problem, target=self.target)
        if status == 412:
            raise StaleTableError
        if status in _BUSY and _is_passing(problem):
            raise _RefusedError(str(error), _retry_after(response))
        if status == 401 and self._sidecar is not None:
            raise _LostError("another server has taken the place of the one", sent=False)
        if status == 504:
            raise _LostError(str(error), sent=True)
        if not problem.get("error"):
            raise self._plain(status, str(error), size)
        raise error

    def _plain(self, status: int, detail: str, size: int) -> AiovecError:
        """Return the error for a problem of HTTP alone."""
        if status in (401, 403):
            return ConfigError(
                f"the server at {self.target} refuses the call: {detail}; set api_key in "
                "[retrieval.remote], or AIOVEC_RETRIEVAL__REMOTE__API_KEY",
                key="retrieval.remote.api_key",
            )
        if status == 413:
            return InvalidArgumentError(
                "the call", f"{size:,} bytes", f"smaller, for the server at {self.target}: {detail}"
            )
        return AiovecError(f"the server at {self.target} says HTTP {status}: {detail}")

    # The end

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.target)

    async def close(self) -> None:
        """Wait for the writes that are under way, then end everything else."""
        self._closed = True
        self._turns.close(StoreClosedError(self.target))
        await self._writes().idle.wait()
        await self._connections().close()
        if self._sidecar is not None:
            self._sidecar.close()


class _Count:
    """The writes of one event loop that are under way."""

    def __init__(self) -> None:
        self._number = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def __enter__(self) -> None:
        self._number += 1
        self.idle.clear()

    def __exit__(self, *_: object) -> None:
        self._number -= 1
        if not self._number:
            self.idle.set()


class _Parts(aiohttp.Payload):
    """A body that is sent in parts, so that a large one does not hold the event loop."""

    def __init__(self, body: memoryview) -> None:
        super().__init__(body)
        self._size = len(body)
        self._body = body

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._body).decode(encoding, errors)

    async def write(self, writer: Any) -> None:
        for start in range(0, len(self._body), _PART):
            await writer.write(bytes(self._body[start : start + _PART]))


async def _read(response: aiohttp.ClientResponse, most: int | None = None) -> bytearray:
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if most is not None and len(data) > most:
            response.close()
            break
    return data


async def _read_length(response: aiohttp.ClientResponse, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        part = await response.content.read(min(length - len(data), _PART))
        if not part:
            raise _LostError("the answer was cut off", sent=True)
        data += part
    return data


def _json(data: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        return {}
    return found if type(found) is dict else {}


def _is_passing(problem: dict[str, Any]) -> bool:
    """Return whether a refusal is one of the moment: limits, and a store that is busy or closes."""
    return problem.get("error", "") in ("", "StoreBusyError", "StoreClosedError")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _waits() -> Any:
    """Yield growing waits, each with a share of chance, so that many clients spread out."""
    wait = _FIRST_WAIT
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(2 * wait, _LONGEST_WAIT)


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error))[:300].lower()
    return f"{type(error).__name__}: {error}"[:300] if str(error) else type(error).__name__
