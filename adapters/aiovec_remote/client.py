"""Requests to a server: their tries, their cancellation, and what their answers mean."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pyarrow as pa

from aiovec._http.ipc import ARROW
from aiovec.backend import redacted
from aiovec.backend.contract import StaleTableError
from aiovec.backend.limits import Gate, current_deadline
from aiovec.backend.threads import hop, to_its_end
from aiovec.backend.weight import weight
from aiovec.errors import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    OutcomeUnknownError,
    StoreClosedError,
)

from .autostart import Autostart
from .codec import (
    HEAD,
    JSON,
    WireError,
    decode,
    encode,
    message_length,
    metadata_length,
)
from .connections import new_session
from .refusals import NoAnswerError, not_a_server, read_body, refuse
from .settings import SCHEME, RemoteSettings

# Seconds before another try: the first wait, and the longest. A server may ask for others.
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
# Seconds that a cancelled write waits for the server to say that it has ended.
_REVOKING = 10.0
# Bytes that are handed to a connection at once.
_PART = 256 * 1024
# Bytes of an answer that are read, at most: of rows, which may be many, and of a write's outcome.
_LARGEST_ANSWER, _LARGEST_OUTCOME = 1024**3, 1024**2
_OURS = frozenset({JSON, ARROW})
_DONE = frozenset({200, 201, 204})
_KEY = re.compile(r"[!-~]*")


@dataclass(frozen=True, slots=True)
class Request:
    """A request; its ``body`` is the JSON object, of which ``rows`` are the long lists."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    rows: pa.Table | None = None
    state: str | None = None
    """The state that the table must have."""
    writes: bool = False
    long: bool = False
    """It may take any time."""


@dataclass(frozen=True, slots=True)
class Answer:
    value: Any
    """JSON, rows, or None."""
    state: str = ""
    """The state of the table that the answer describes."""


class Client:
    """The calls that a store makes of one server."""

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self.target = redacted(url)
        self._url = url.rstrip("/")
        self._autostart: Autostart | None = None
        if url.startswith(f"{SCHEME}://"):
            self._autostart = Autostart(Path(url.removeprefix(f"{SCHEME}://")))
        self.settings = settings
        self._headers = {"Accept": f"{ARROW}, {JSON};q=0.9"}
        if key := _key_of(settings):
            self._headers["Authorization"] = f"Bearer {key}"
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}
        self._turns = Gate("too many calls are under way", calls=settings.connections)
        self._writes: set[asyncio.Future[None]] = set()
        self._closed = False

    # Calls

    async def ask(self, request: Request, *, tries: bool = True) -> Answer:
        """Return the answer to a request. A write gets a key, under which it is done once.

        Without ``tries`` a server that cannot be reached is an error at once.
        """
        self.check_open()
        kind, body = await hop(
            weight(request.body, request.rows), encode, request.body, request.rows
        )
        made = _Tries(self, writes=request.writes, once=not tries)
        async with self._turns.enter(made.deadline):
            self.check_open()
            if not request.writes:
                return await self._answered(request, kind, body, None, made)
            key = uuid.uuid4().hex
            ended = asyncio.get_running_loop().create_future()
            self._writes.add(ended)
            try:
                return await self._answered(request, kind, body, key, made)
            except asyncio.CancelledError:
                await to_its_end(self._revoke(key))
                raise
            finally:
                self._writes.discard(ended)
                ended.set_result(None)

    async def _answered(
        self, request: Request, kind: str, body: memoryview, key: str | None, tries: _Tries
    ) -> Answer:
        while True:
            try:
                return await self._try(request, kind, body, key, retried=tries.may_be_done)
            except NoAnswerError as exc:
                await tries.wait_after(exc)
            except StaleTableError:
                if tries.may_be_done:
                    reason = "the table was altered before the call could be repeated"
                    raise OutcomeUnknownError(self.target, reason) from None
                raise
            except AiovecError as exc:
                # Who refuses the repeat for no reason of a store's knows nothing of the lost try.
                if tries.may_be_done and type(exc) in (AiovecError, ConfigError):
                    raise OutcomeUnknownError(self.target, str(exc)) from exc
                raise

    async def _try(
        self,
        request: Request,
        kind: str,
        body: memoryview,
        key: str | None,
        *,
        retried: bool = False,
    ) -> Answer:
        async with self._response(request, kind, body, key, retried=retried) as response:
            if response.status not in _DONE:
                await self._refuse(response, len(body), writes=key is not None)
            content_type = response.content_type if response.status != 204 else ""
            if key is None and content_type and content_type not in _OURS:
                raise not_a_server(self.target, f"it answers with {content_type}")
            most = _LARGEST_ANSWER if key is None else _LARGEST_OUTCOME
            data = await read_body(response, most)
        if not content_type:
            return Answer(None)
        try:
            value = await hop(weight(data), decode, content_type, data)
        except WireError as exc:
            raise self.unreadable(exc, writes=key is not None) from exc
        return Answer(value, response.headers.get("ETag", "").strip('"'))

    def unreadable(self, exc: Exception, *, writes: bool = False) -> AiovecError:
        """Return the error for an answer that does not fit the call."""
        reason = f"the server's answer cannot be used: {exc}"
        if writes:
            return OutcomeUnknownError(self.target, reason)
        return CorruptStoreError(self.target, reason)

    async def _place(self) -> tuple[aiohttp.ClientSession, str, dict[str, str]]:
        """Return a session for the server, its URL, and the key of one that was started."""
        url, path, headers = self._url, None, {}
        if self._autostart is not None:
            server = await self._autostart.server()
            url, path = server.url, server.socket
            if server.key:
                headers = {"Authorization": f"Bearer {server.key}"}
        if path not in self._sessions:
            self._sessions[path] = new_session(self.settings, path)
        return self._sessions[path], url, headers

    def look_again(self) -> None:
        """After a lost request: the server may have died, and another one been started."""
        if self._autostart is not None:
            self._autostart.lost()

    async def _refuse(self, response: aiohttp.ClientResponse, size: int, *, writes: bool) -> None:
        if response.status == 401 and self._autostart is not None:
            raise NoAnswerError(
                "another server has taken the place of the one", "reachable", sent=False
            )
        await refuse(response, self.target, size, writes=writes)

    @contextlib.asynccontextmanager
    async def _response(
        self,
        request: Request,
        kind: str,
        body: memoryview,
        key: str | None,
        *,
        retried: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session, url, key_header = await self._place()
        headers = {**self._headers, **key_header}
        if kind:
            headers["Content-Type"] = kind
            headers["Content-Length"] = str(len(body))  # by which the server may refuse it at once
        if request.state is not None:
            headers["If-Match"] = f'"{request.state}"'
        if key is not None:
            headers["Idempotency-Key"] = key
            if retried:
                headers["Idempotency-Retry"] = "1"
        query = f"?{urlencode(request.query)}" if request.query else ""
        begun = False
        try:
            async with session.request(
                request.method,
                f"{url}{request.path}{query}",
                data=(bytes(body) or None) if len(body) <= _PART else _parts(body),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=self.settings.connect_timeout,
                    sock_read=None if request.long else self.settings.idle_timeout,
                ),
            ) as response:
                begun = True
                yield response
        except (aiohttp.ClientSSLError, aiohttp.InvalidURL) as exc:
            raise ConfigError(
                f"{self.target}: {_reason(exc)}; correct the address, or the server's certificate",
                key="target",
            ) from exc
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NoAnswerError(_reason(exc), "reachable", sent=False) from exc
        except aiohttp.SocketTimeoutError as exc:
            raise NoAnswerError(_reason(exc), "no: silent", sent=True) from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise NoAnswerError(_reason(exc), "reachable", sent=True) from exc
        except RuntimeError as exc:  # "Session is closed", "Connection closed."
            if not session.closed:
                raise
            raise NoAnswerError(_reason(exc), "reachable", sent=begun) from exc

    async def _revoke(self, key: str) -> None:
        """Cancel a write at the server, and wait until it has ended there."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_REVOKING):
                request = Request("DELETE", f"/writes/{key}")
                await self._try(request, "", memoryview(b""), None)

    # An export

    async def stream(self, request: Request) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """Yield the batches of an export as they come, each behind the stream's first message.

        The server waits for who reads slowly.
        """
        self.check_open()
        kind, body = await hop(weight(request.body), encode, request.body, None)
        tries = _Tries(self)
        while True:
            batches = self._batches(request, kind, body)
            try:
                first = await anext(batches, None)
            except NoAnswerError as exc:
                await tries.wait_after(exc)
            else:
                break
        async with contextlib.aclosing(batches):
            while first is not None:
                yield first
                del first
                try:
                    first = await anext(batches, None)
                except NoAnswerError as exc:
                    self.check_open()
                    raise AiovecError(
                        f"the export from {self.target} broke off: {exc}; go on from the last "
                        "batch's cursor"
                    ) from exc
                self.check_open()

    async def _batches(
        self, request: Request, kind: str, body: memoryview
    ) -> AsyncGenerator[tuple[bytes, bytes], None]:
        async with self._response(request, kind, body, None) as response:
            if response.status != 200:
                await self._refuse(response, len(body), writes=False)
            try:
                head = b""
                while data := await self._message(response):
                    if head:
                        yield head, data
                    else:
                        head = data
                await response.content.read()  # its end, by which the connection can be kept
            except asyncio.IncompleteReadError as exc:
                raise NoAnswerError("the answer was cut off", "reachable", sent=True) from exc
            except WireError as exc:
                raise self.unreadable(exc) from exc
            finally:
                if not response.content.at_eof():
                    response.close()  # the server stops reading the table

    async def _message(self, response: aiohttp.ClientResponse) -> bytes:
        """Return a message of an Arrow IPC stream; empty at its end."""
        head = await response.content.readexactly(HEAD)
        if not (length := metadata_length(head)):
            return b""
        metadata = await self._read_length(response, length)
        rest = await self._read_length(response, message_length(bytes(metadata)))
        return b"".join((head, metadata, rest))

    async def _read_length(self, response: aiohttp.ClientResponse, length: int) -> bytearray:
        if not 0 <= length <= _LARGEST_ANSWER:
            raise AiovecError(
                f"a batch from {self.target} would have more than {_LARGEST_ANSWER:,} bytes; "
                "export with a smaller batch_size"
            )
        data = bytearray()
        while len(data) < length:
            part = await response.content.read(min(length - len(data), _PART))
            if not part:
                raise NoAnswerError("the answer was cut off", "reachable", sent=True)
            data += part
        return data

    # The end

    def check_open(self) -> None:
        """Raise StoreClosedError once the store is closed."""
        if self._closed:
            raise StoreClosedError(self.target)

    async def close(self) -> None:
        """Wait for the writes that are under way, then end everything else."""
        self._closed = True
        self._turns.close(StoreClosedError(self.target))
        while self._writes:
            await asyncio.wait(self._writes)
        for session in self._sessions.values():
            await session.close()


class _Tries:
    """The tries of one call: the waits between them, and the error when there is no further one."""

    def __init__(self, client: Client, *, writes: bool = False, once: bool = False) -> None:
        self.may_be_done = False
        """True if the write may have been done by a try that had no answer."""
        self.deadline = current_deadline(client.settings.busy_timeout)
        self._client = client
        self._writes = writes
        self._reconnects = 0.0 if once else client.settings.reconnect_timeout
        self._lost_since: float | None = None
        self._waits = _waits()

    async def wait_after(self, exc: NoAnswerError) -> None:
        """Wait until it is time for another try, or raise why there is none."""
        client, left = self._client, -1.0
        client.look_again()
        if exc.again == "free":
            left = self.deadline.left()
        elif exc.again == "reachable":
            # Since the first loss: the call itself may have taken longer than all tries may.
            now = time.monotonic()
            self._lost_since = self._lost_since or now
            left = self._lost_since + self._reconnects - now
        # The last try is at the end of the time, unless the server wants a longer wait.
        wait = max(min(next(self._waits), left), exc.after or 0.0)
        if exc.again == "reachable":  # what a proxy asks for may be a guess
            wait = min(wait, left)
        self.may_be_done |= exc.sent and self._writes
        self._check_open(exc)
        if left <= 0 or wait > left:
            raise self._error(exc) from exc
        await asyncio.sleep(wait)
        self._check_open(exc)

    def _error(self, exc: NoAnswerError) -> AiovecError:
        """Return the error for a call without a further try."""
        target = self._client.target
        if self.may_be_done:
            return OutcomeUnknownError(target, str(exc))
        if exc.again in ("free", "no: late"):
            return self.deadline.error(str(exc))
        if exc.again == "no: large":
            return AiovecError(
                f"{exc}, from {target}; ask for fewer rows or fields at once, or export"
            )
        if exc.sent:
            return AiovecError(f"the server at {target} did not answer: {exc}")
        return AiovecError(f"no server answers at {target}: {exc}; is it running? (aiovec serve)")

    def _check_open(self, exc: Exception) -> None:
        try:
            self._client.check_open()
        except StoreClosedError as closed:
            if self.may_be_done:
                raise OutcomeUnknownError(self._client.target, str(exc)) from exc
            raise closed from exc


async def _parts(body: memoryview) -> AsyncIterator[bytes]:
    """Yield a large body in parts, so that it does not hold the event loop."""
    for start in range(0, len(body), _PART):
        yield bytes(body[start : start + _PART])


def _key_of(settings: RemoteSettings) -> str:
    """Return the API key, without the line's end of the file that it may come from."""
    key = settings.api_key.strip()
    if not _KEY.fullmatch(key):
        raise ConfigError(
            "the API key of the remote backend has a character in it that no header carries; an "
            "API key has visible ASCII characters alone, without spaces",
            key="retrieval.remote.api_key",
            accepted="visible ASCII characters",
        )
    return key


def _waits() -> Any:
    """Yield growing waits, each with a share of chance, so that many clients spread out."""
    wait = _FIRST_WAIT
    while True:
        yield wait * random.uniform(0.5, 1.0)
        wait = min(2 * wait, _LONGEST_WAIT)


def _reason(error: BaseException) -> str:
    if type(error) is aiohttp.ClientConnectorError:
        return (error.os_error.strerror or str(error.os_error))[:300].lower()
    return f"{type(error).__name__}: {error}"[:300] if str(error) else type(error).__name__
