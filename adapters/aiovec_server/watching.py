"""The watch over one call: it is cancelled when its client goes away, or when it takes too long."""

from __future__ import annotations

import asyncio
from types import TracebackType

from .asgi import Message, Receive, Send

_DISCONNECT = {"type": "http.disconnect"}
_NO_BODY = {"type": "http.request", "body": b"", "more_body": False}

_AT_FIRST = 0.05
"""Seconds after which a call is watched at all. Most have ended by then, and cost a timer alone."""


class Watch:
    """Cancels the task that it is entered in. ``receive`` and ``sending`` stand between."""

    def __init__(self, timeout: float, receive: Receive, *, has_body: bool) -> None:
        self._timeout = timeout
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._progress = self._loop.time()
        """When the client last sent a part, or took one of the answer."""
        self._sending = self._receiving = False
        self._reading_body = has_body
        self._first: Message | None = None if has_body else dict(_NO_BODY)
        self._gone = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled = False
        self.is_gone = False
        self.is_late = False

    async def __aenter__(self) -> None:
        self._timer = self._loop.call_later(min(_AT_FIRST, self._timeout), self._look)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        ours = self._cancelled
        self._cancelled = True  # it is over: nobody shall cancel it any more
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if not ours or self._task is None:
            return False
        # Another cancellation, such as that of a server that stops, goes on.
        others = self._task.uncancel()
        return kind is not None and issubclass(kind, asyncio.CancelledError) and not others

    async def receive(self) -> Message:
        """Return the next message for the app."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self._reading_body:
            self._begin_to_listen()
            await self._gone.wait()
            return dict(_DISCONNECT)
        self._receiving = True
        try:
            message = await self._receive()
        finally:
            self._receiving = False
            self._progress = self._loop.time()
        if message["type"] != "http.request":
            self.is_gone = True
            self._gone.set()
        self._reading_body = message["type"] == "http.request" and bool(message.get("more_body"))
        return message

    def sending(self, send: Send) -> Send:
        """Return a ``send`` that tells of the answer's progress."""

        async def progressing(message: Message) -> None:
            self._sending = True
            try:
                await send(message)
            finally:
                self._sending = False
                self._progress = self._loop.time()

        return progressing

    def _look(self) -> None:
        """Listen for the client's end, and look when the call is late."""
        if self._cancelled:
            return
        self._begin_to_listen()
        left = self._progress + self._timeout - self._loop.time()
        if left <= 0 and not self._sending and not self._receiving:
            self.is_late = True
            self._cancel()
            return
        # While the client is slow, its connection's own bounds count.
        self._timer = self._loop.call_later(left if left > 0 else self._timeout, self._look)

    def _begin_to_listen(self) -> None:
        if self._watcher is None and not self._reading_body:
            self._watcher = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        if self._gone.is_set():
            return
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._gone.set()
        self._cancel()

    def _cancel(self) -> None:
        if not self._cancelled and self._task is not None:
            self._cancelled = True
            self._task.cancel()
