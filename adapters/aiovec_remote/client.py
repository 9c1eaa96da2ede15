"""Requests to a server: retries, cancellation, and the meaning of responses."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import socket
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import pyarrow as pa

from aiovec._http.ipc import ARROW, cost_of_body
from aiovec.backend import redacted
from aiovec.backend.contract import StaleTableError
from aiovec.backend.cost import cost_of
from aiovec.backend.limits import Gate, current_deadline
from aiovec.backend.threads import hop, to_its_end
from aiovec.errors import (
    AiovecError,
    ConfigError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreUnreachableError,
)

from .autostart import Autostart
from .codec import JSON, WireError, decode, encode, read_body, read_message
from .refusals import Again, NoAnswerError, not_a_server, refuse
from .settings import SCHEME, RemoteSettings

# Seconds to wait before a retry: the first wait and the longest wait. The server may ask for other
# times.
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
# Seconds that a cancelled write waits for the server to confirm that the write has ended.
_REVOKING = 10.0
# The most attempts to cancel a write. More attempts would not help if a gateway cannot reach a
# server.
_REVOKES = 3
# The most bytes that are passed to a connection in one piece.
_PART = 256 * 1024
# Servers close idle connections, uvicorn after 5 s. A request sent at that moment is lost, and the
# client cannot know whether the server read it.
_KEEP_ALIVE = 4.0
# The timeout of a call grows by one second per this many bytes of the request and of the
# response.
_PACE = 16 * 1024
# Unread bytes of a response at which the connection pauses. With aiohttp's default of 64 KiB, each
# batch of an export takes dozens of iterations of the event loop.
_BUFFER = 512 * 1024
_DONE = frozenset({200, 201, 204})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Request:
    """A request. ``body`` is sent as a JSON object. ``rows`` is a table, sent with ``body`` as
    Arrow, or a list of rows, sent as lines of JSON."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    rows: pa.Table | list[Any] | None = None
    state: str | None = None
    """The state that the table must be in; otherwise the server refuses the call."""
    writes: bool = False
    long: bool = False
    """True if the response may take arbitrarily long to begin."""
    once: bool = False
    """True to fail without a retry if the server cannot be reached."""


class Client:
    """Makes a store's calls to one server, over connections that it keeps open."""

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self.target = redacted(url)
        self.settings = settings
        self.autostart: Autostart | None = None
        if url.startswith(f"{SCHEME}://"):
            self.autostart = Autostart(Path(url.removeprefix(f"{SCHEME}://")))
        self.headers = {"Accept": f"{ARROW}, {JSON};q=0.9"}
        if key := _key_of(settings):
            self.headers["Authorization"] = f"Bearer {key}"
        self.closed = False
        self._url = url.rstrip("/")
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}
        self._turns = Gate("too many calls are under way", calls=settings.connections)
        self._writes: set[asyncio.Future[None]] = set()

    async def ask(self, request: Request, read: Callable[[Any], _T]) -> tuple[_T, str]:
        """Call the server; return the result of ``read`` for its response, and the table's state.

        ``read`` gets JSON, rows or None. A write has a key, so that the server does the write once.
        """
        self.check_open()
        call = _Call(self, request)
        await call.encode()
        async with self._turns.enter(call.deadline if request.writes else None):
            self.check_open()
            if not request.writes:
                call.deadline.renew()  # the wait for other calls of this process has no limit
                return await call.answer(read)
            ended = asyncio.get_running_loop().create_future()
            self._writes.add(ended)
            try:
                return await call.answer(read)
            except asyncio.CancelledError:
                await to_its_end(self._revoke(call.key))
                raise
            finally:
                self._writes.discard(ended)
                ended.set_result(None)

    async def _revoke(self, key: str) -> None:
        """Cancel a write on the server, and wait until it has ended there.

        The client retries if the response is lost or the server is busy, but not if no server is
        running, because then the write has ended too.
        """
        call = _Call(self, Request("DELETE", f"/writes/{key}"))
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_REVOKING):
                for _ in range(_REVOKES):
                    try:
                        await call.read(bool)
                        return
                    except NoAnswerError as exc:
                        if exc.again == "reachable" and not exc.sent:
                            return
                    await asyncio.sleep(_FIRST_WAIT)

    async def stream(self, request: Request) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """Yield the batches of an export as they arrive, each with the stream's first message.

        The server waits for a slow reader.
        """
        self.check_open()
        call = _Call(self, request)
        await call.encode()
        given = False
        while True:
            try:
                async with self.response(call) as response:
                    call.time.reschedule(None)  # a slow reader has no deadline
                    head = await read_message(response.content)
                    while data := await read_message(response.content):
                        given = True
                        yield head, data
                    await response.read()  # read the end, so that the connection can be reused
                    return
            except WireError as exc:
                raise self.unreadable(exc) from exc
            except NoAnswerError as exc:
                if not given:
                    await call.wait_after(exc)
                    continue
                self.check_open()
                raise AiovecError(
                    f"the export from {self.target} broke off: {exc}; continue from the last "
                    "batch's cursor"
                ) from exc

    @contextlib.asynccontextmanager
    async def response(self, call: _Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and yield its response; raise an error if it is not successful."""
        url, path, headers, request = self._url, None, call.headers, call.request
        if self.autostart is not None:
            server = await self.autostart.server()
            url, path = server.url, server.socket
            if server.key:
                headers = {**headers, "Authorization": f"Bearer {server.key}"}
        if path not in self._sessions:
            self._sessions[path] = _new_session(path)
        # A large body is sent in parts, so that it does not block the event loop.
        data = io.BytesIO(call.body) if len(call.body) > _PART else bytes(call.body) or None
        query = f"?{urlencode(request.query)}" if request.query else ""
        idle = None if request.long else self.settings.idle_timeout
        timeout = aiohttp.ClientTimeout(sock_connect=self.settings.connect_timeout, sock_read=idle)
        try:
            async with (
                asyncio.timeout(idle and idle + len(call.body) / _PACE) as call.time,
                self._sessions[path].request(
                    request.method, f"{url}{request.path}{query}", data=data, headers=headers,
                    allow_redirects=False, timeout=timeout,
                ) as response,
            ):  # fmt: skip
                if response.status not in _DONE:
                    call.go_on()
                    await refuse(response, self.target, len(call.body), writes=request.writes)
                yield response
        except aiohttp.ClientConnectorCertificateError as exc:
            reason = str(exc.certificate_error)[:300]
            raise ConfigError(
                f"the certificate of {self.target} is not trusted: {reason}; for a certificate of "
                "your own CA, set the environment variable SSL_CERT_FILE to the CA's file",
                key="SSL_CERT_FILE",
            ) from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            unsent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
            slow = call.time.expired()
            late = slow or isinstance(exc, aiohttp.SocketTimeoutError)
            reason = "its answer came too slowly" if slow else _reason(exc)
            again: Again = "never" if late else "reachable"
            raise NoAnswerError(reason, again, sent=not isinstance(exc, unsent)) from exc

    def unreadable(self, exc: Exception, *, writes: bool = False) -> AiovecError:
        """Return the error for a response that cannot be read."""
        if writes:
            return OutcomeUnknownError(self.target, f"the server's answer cannot be used: {exc}")
        return not_a_server(self.target, f"its answer cannot be used: {exc}")

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosedError(self.target)

    async def close(self) -> None:
        """Wait for the writes in progress, then cancel everything else."""
        self.closed = True
        self._turns.close(StoreClosedError(self.target))
        while self._writes:
            await asyncio.wait(self._writes)
        for session in self._sessions.values():
            await session.close()


class _Call:
    """Attempts a request, waits between the attempts, and raises the error after the last one."""

    time: asyncio.Timeout
    """The timeout of the current attempt."""

    def __init__(self, client: Client, request: Request) -> None:
        self.request = request
        self.headers = dict(client.headers)
        self.body = memoryview(b"")
        self.key = uuid.uuid4().hex if request.writes else ""
        self.deadline = current_deadline(client.settings.busy_timeout)
        self._client = client
        self._may_be_done = False
        self._reconnects = 0.0 if request.once else client.settings.reconnect_timeout
        self._lost_since: float | None = None
        self._wait = _FIRST_WAIT

    async def encode(self) -> None:
        """Encode the body, and set the headers."""
        request = self.request
        long = cost_of(request.body, request.rows)
        kind, self.body = await hop(long, encode, request.body, request.rows)
        if kind:
            self.headers["Content-Type"] = kind
            # With the length, the server can refuse a large body before it reads it.
            self.headers["Content-Length"] = str(len(self.body))
        if request.state is not None:
            self.headers["If-Match"] = f'"{request.state}"'
        if self.key:
            self.headers["Idempotency-Key"] = self.key

    async def answer(self, read: Callable[[Any], _T]) -> tuple[_T, str]:
        """Return the server's response; retry as often as allowed."""
        while True:
            try:
                return await self.read(read)
            except NoAnswerError as exc:
                await self.wait_after(exc)
            except (AiovecError, StaleTableError) as exc:
                # If the refusal is not the store's but, for example, a proxy's, the outcome of the
                # lost attempt stays unknown.
                plain = type(exc) in (AiovecError, ConfigError, StaleTableError)
                if self._may_be_done and plain:
                    reason = str(exc) or "the table was altered before the call could be repeated"
                    raise OutcomeUnknownError(self._client.target, reason) from exc
                raise

    async def read(self, read: Callable[[Any], _T]) -> tuple[_T, str]:
        """Make one attempt; return the result of ``read`` for its decoded response, and the table's
        state."""

        def came(size: int) -> None:
            self.time.reschedule((self.time.when() or 0.0) + size / _PACE)

        writes = self.request.writes
        try:
            async with self._client.response(self) as response:
                self.go_on()
                data = await read_body(response, came)
        except WireError as exc:
            raise self._client.unreadable(exc, writes=writes) from exc

        def made() -> _T:
            return read(None if response.status == 204 else decode(response.content_type, data))

        try:
            value = await hop(cost_of_body(data), made)
        except Exception as exc:
            raise self._client.unreadable(exc, writes=writes) from exc
        return value, response.headers.get("ETag", "").strip('"')

    def go_on(self) -> None:
        """Restart the timeout for the rest of a response whose headers have arrived."""
        now = asyncio.get_running_loop().time()
        self.time.reschedule(now + self._client.settings.idle_timeout)

    async def wait_after(self, exc: NoAnswerError) -> None:
        """Wait before the next attempt; raise an error if no more attempts are allowed."""
        client, left = self._client, 0.0
        # The server may have died, and another one may have been started.
        if client.autostart is not None:
            client.autostart.lost()
        if exc.sent and self.request.writes:
            self._may_be_done = True
            self.headers["Idempotency-Retry"] = "1"
        if exc.again == "free":
            left = self.deadline.left()
        elif exc.again == "reachable":
            # Count from the first lost response, because the call itself may have taken longer than
            # the time for retries.
            now = time.monotonic()
            self._lost_since = self._lost_since or now
            left = self._lost_since + self._reconnects - now
        # A random wait spreads out many clients. The last attempt is made when the time for retries
        # ends, unless the server asks for a longer wait.
        wait = max(min(self._wait * random.uniform(0.5, 1.0), left), exc.after)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        if not client.closed and left > 0 and wait <= left:
            await asyncio.sleep(wait)
            if not client.closed:
                return
        if self._may_be_done:
            raise OutcomeUnknownError(client.target, str(exc)) from exc
        client.check_open()
        if exc.again in ("free", "late"):
            raise self.deadline.error(str(exc)) from exc
        words = f"the server did not answer: {exc}"
        if not exc.sent:
            words = f"{exc}; is the server running? (aiovec serve)"
        raise StoreUnreachableError(client.target, words) from exc


def _new_session(path: str | None) -> aiohttp.ClientSession:
    """Return a session, which connects to a Unix socket if a path is given."""
    # The session sets no limit, because the client limits its calls.
    options: dict[str, Any] = {"limit": 0, "keepalive_timeout": _KEEP_ALIVE}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=_socket, **options)
        if path is None
        else aiohttp.UnixConnector(path, **options),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_BUFFER,
        skip_auto_headers=("Accept-Encoding",),
        middlewares=(_tried_once,),
    )


async def _tried_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a request, as it otherwise would for DELETE and PUT.

    The client would then not know that the first attempt may have had an effect.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise aiohttp.ClientConnectionError(_reason(exc)) from exc


def _socket(address: Any) -> socket.socket:
    """Return a socket with keep-alive, so that the system notices if the server is gone."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made


def _key_of(settings: RemoteSettings) -> str:
    """Return the API key without surrounding whitespace, such as a line break from a file."""
    key = settings.api_key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        words = "the API key of the remote backend must have only visible ASCII characters"
        raise ConfigError(words, key="retrieval.remote.api_key")
    return key


def _reason(error: BaseException) -> str:
    if type(error) is aiohttp.ClientConnectionError:
        return str(error)
    if type(error) is aiohttp.ClientConnectorError:
        return (error.os_error.strerror or str(error.os_error))[:300].lower()
    return f"{type(error).__name__}: {error}"[:300] if str(error) else type(error).__name__
