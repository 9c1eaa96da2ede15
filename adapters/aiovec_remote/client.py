"""Requests to a server: their tries, their cancellation, and what their answers mean."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from aiovec._http.problems import error_of
from aiovec._http.wire import (
    ARROW,
    BATCH_FRAME,
    FAILED_FRAME,
    FRAME_HEAD,
    JSON,
    PROTOCOL,
    PROTOCOL_HEADER,
    STORE_HEADER,
    Message,
    WireError,
    frame_of,
    pack,
    unpack,
)
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
from .connections import new_session
from .refusals import (
    LONGEST_PROBLEM,
    LateError,
    LostError,
    RefusedError,
    StaleRepeatError,
    TooLargeError,
    json_object,
    not_a_server,
    read_body,
    refuse,
)
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
_KEY = re.compile(r"[!-~]*")


class Client:
    """The calls that a store makes of one server."""

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self.target = redacted(url)
        self._url = url.rstrip("/")
        self._autostart: Autostart | None = None
        if url.startswith(f"{SCHEME}://"):
            self._autostart = Autostart(Path(url.removeprefix(f"{SCHEME}://")))
        self.settings = settings
        self._headers = {PROTOCOL_HEADER: PROTOCOL}
        if key := _key_of(settings):
            self._headers["Authorization"] = f"Bearer {key}"
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}
        self._turns = Gate("too many calls are under way", calls=settings.connections)
        self._writes = _Count()
        self._closed = False
        self.repeats_writes = False
        """True if the server's store does a write with a key once, however often it is asked."""
        self.store_mark = ""
        """Of the newest answer: which store the server serves."""

    # Calls

    async def ask(
        self, call: str, message: Message, *,
        key: str | None = None, long: bool = False, tries: bool = True,
        retried: bool = False,
    ) -> Message:  # fmt: skip
        """Return the answer to a call that reads; to one that writes, under its key.

        ``long`` calls may take any time. Without ``tries`` a server that cannot be reached is an
        error at once. ``retried`` says of a write that it may have been done by an earlier call.
        """
        self.check_open()
        kind, body = await hop(weight(message), pack, message)
        made = _Tries(self, writes=key is not None, once=not tries, may_be_done=retried)
        async with self._turns.enter(made.deadline):
            self.check_open()
            if key is None:
                return await self._answered(call, kind, body, None, made, long=long)
            with self._writes:
                try:
                    return await self._answered(call, kind, body, key, made, long=long)
                except asyncio.CancelledError:
                    await to_its_end(self._revoke(key))
                    raise

    async def _answered(
        self, call: str, kind: str, body: memoryview, key: str | None, tries: _Tries, *, long: bool
    ) -> Message:
        while True:
            try:
                return await self._try(call, kind, body, key, long=long, retried=tries.may_be_done)
            except (RefusedError, LostError) as exc:
                await tries.wait_after(exc)
            except StaleTableError:
                if tries.may_be_done:
                    raise StaleRepeatError from None
                raise
            except LateError as exc:
                if key is not None:
                    raise OutcomeUnknownError(self.target, str(exc)) from exc
                raise tries.deadline.error(str(exc)) from exc
            except AiovecError as exc:
                # Who refuses the repeat for no reason of a store's knows nothing of the lost try.
                if tries.may_be_done and type(exc) in (AiovecError, ConfigError):
                    raise OutcomeUnknownError(self.target, str(exc)) from exc
                raise

    def lost(self, exc: LostError) -> AiovecError:
        """Return the error for a call that had no answer, and changed nothing."""
        if exc.sent:
            return AiovecError(f"the server at {self.target} did not answer: {exc}")
        return AiovecError(
            f"no server answers at {self.target}: {exc}; is it running? (aiovec serve)"
        )

    async def _try(
        self,
        call: str,
        kind: str,
        body: memoryview,
        key: str | None,
        *,
        long: bool,
        retried: bool = False,
    ) -> Message:
        async with self._response(call, kind, body, key, long=long, retried=retried) as response:
            if response.status != 200:
                await self._refuse(response, len(body), writes=key is not None)
            content_type = response.headers.get("Content-Type", "")
            if key is None and response.content_type not in _OURS:
                raise not_a_server(self.target, f"it answers with {response.content_type}")
            try:
                data = await read_body(
                    response, _LARGEST_ANSWER if key is None else _LARGEST_OUTCOME
                )
            except TooLargeError as exc:
                if key is not None:
                    raise OutcomeUnknownError(self.target, str(exc)) from exc
                raise AiovecError(
                    f"{exc}, from {self.target}; ask for fewer rows or fields at once, or export"
                ) from exc
        self.store_mark = response.headers.get(STORE_HEADER, "")[:100]
        try:
            return await hop(weight(data), unpack, content_type, data)
        except WireError as exc:
            raise self.unreadable(exc, writes=key is not None) from exc

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
            raise LostError("another server has taken the place of the one", sent=False)
        await refuse(response, self.target, size, writes=writes)

    @contextlib.asynccontextmanager
    async def _response(
        self,
        call: str,
        kind: str,
        body: memoryview,
        key: str | None,
        *,
        long: bool,
        retried: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session, url, key_header = await self._place()
        headers = {**self._headers, **key_header, "Content-Type": kind}
        if key is not None:
            headers["Idempotency-Key"] = key
            if retried:
                headers["Idempotency-Retry"] = "1"
        begun = False
        try:
            async with session.post(
                f"{url}/backend/{call}",
                data=bytes(body) if len(body) <= _PART else _Parts(body),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=self.settings.connect_timeout,
                    sock_read=None if long else self.settings.idle_timeout,
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
            raise LostError(_reason(exc), sent=False) from exc
        except aiohttp.SocketTimeoutError as exc:
            raise LostError(_reason(exc), sent=True, silent=True) from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise LostError(_reason(exc), sent=True) from exc
        except RuntimeError as exc:  # "Session is closed", "Connection closed."
            if not session.closed:
                raise
            raise LostError(_reason(exc), sent=begun) from exc

    async def _revoke(self, key: str) -> None:
        """Cancel a write at the server, and wait until it has ended there."""
        kind, body = pack(Message({"write": key}))
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_REVOKING):
                await self._try("cancel", kind, body, None, long=False)

    # An export

    async def stream(self, message: Message) -> AsyncGenerator[Message, None]:
        """Yield the parts of an export as they come; the server waits for who reads slowly."""
        self.check_open()
        kind, body = pack(message)
        tries = _Tries(self)
        while True:
            parts = self._parts(kind, body)
            try:
                first = await anext(parts, None)
            except (RefusedError, LostError) as exc:
                await tries.wait_after(exc)
                continue
            except LateError as exc:
                raise tries.deadline.error(str(exc)) from exc
            break
        async with contextlib.aclosing(parts):
            while first is not None:
                yield first
                del first
                try:
                    first = await anext(parts, None)
                except LostError as exc:
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
                await self._refuse(response, len(body), writes=False)
            self.store_mark = response.headers.get(STORE_HEADER, "")[:100]
            try:
                while True:
                    what, length = frame_of(await response.content.readexactly(FRAME_HEAD))
                    if what != BATCH_FRAME and length > LONGEST_PROBLEM:
                        raise WireError("it ends with more than there is to say")
                    if length > _LARGEST_ANSWER:
                        raise AiovecError(
                            f"a batch from {self.target} would have more than "
                            f"{_LARGEST_ANSWER:,} bytes; export with a smaller batch_size"
                        )
                    data = await _read_length(response, length)
                    if what == FAILED_FRAME:
                        raise error_of(json_object(data), target=self.target)
                    if what != BATCH_FRAME:
                        return
                    yield await hop(weight(data), unpack, ARROW, data)
            except asyncio.IncompleteReadError as exc:
                raise LostError("the answer was cut off", sent=True) from exc
            except WireError as exc:
                raise self.unreadable(exc) from exc
            finally:
                if not response.content.at_eof():
                    response.close()  # the server stops reading the table

    # The end

    def check_open(self) -> None:
        """Raise StoreClosedError once the store is closed."""
        if self._closed:
            raise StoreClosedError(self.target)

    async def close(self) -> None:
        """Wait for the writes that are under way, then end everything else."""
        self._closed = True
        self._turns.close(StoreClosedError(self.target))
        await self._writes.idle.wait()
        for session in self._sessions.values():
            await session.close()


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


class _Tries:
    """The tries of one call: the waits between them, and the error when there is no further one."""

    def __init__(
        self, client: Client, *, writes: bool = False, once: bool = False, may_be_done: bool = False
    ) -> None:
        self.may_be_done = may_be_done
        """True if the write may have been done by a try that had no answer."""
        self.deadline = current_deadline(client.settings.busy_timeout)
        self._client = client
        self._writes = writes
        self._reconnects = 0.0 if once else client.settings.reconnect_timeout
        self._lost_since: float | None = None
        self._waits = _waits()

    async def wait_after(self, exc: RefusedError | LostError) -> None:
        """Wait until it is time for another try, or raise why there is none."""
        error: AiovecError
        self._client.look_again()
        if isinstance(exc, RefusedError):
            left = self.deadline.left()
            # The last try is at the end of the time, unless the server wants a longer wait.
            wait = max(min(next(self._waits), left), exc.after or 0.0)
            error = self.deadline.error(str(exc))
        else:
            # Since the first loss: the call itself may have taken longer than all tries may.
            now = time.monotonic()
            self._lost_since = self._lost_since or now
            left = -1.0 if exc.silent else self._lost_since + self._reconnects - now
            # Here too: what a proxy asks for may be a guess.
            wait = min(max(next(self._waits), exc.after or 0.0), left)
            error = self._client.lost(exc)
            self.may_be_done |= exc.sent and self._writes
        if self.may_be_done:
            error = OutcomeUnknownError(self._client.target, str(exc))
            if not self._client.repeats_writes:
                raise error from exc
        self._check_open(exc)
        if left <= 0 or wait > left:
            raise error from exc
        await asyncio.sleep(wait)
        self._check_open(exc)

    def _check_open(self, exc: Exception) -> None:
        try:
            self._client.check_open()
        except StoreClosedError as closed:
            if self.may_be_done:
                raise OutcomeUnknownError(self._client.target, str(exc)) from exc
            raise closed from exc


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


async def _read_length(response: aiohttp.ClientResponse, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        part = await response.content.read(min(length - len(data), _PART))
        if not part:
            raise LostError("the answer was cut off", sent=True)
        data += part
    return data


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
