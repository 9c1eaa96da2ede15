"""Answers that are sent while they are made, at the pace of the client that reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Streamed(Response):
    """An answer in parts.

    ``first`` is there already, so what is wrong with the call has been answered as such. An error
    later breaks the connection off, and the client sees that the answer is not whole. A client that
    disconnects ends the making of the parts.
    """

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._first = first
        self._rest = rest
        self.media_type = media_type
        self.status_code = 200
        self.background = None
        self.init_headers(headers)  # without a body, so without its length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self._rest.aclose()
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._rest) as rest:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _part(send, self._first)
            async for part in rest:
                await _part(send, part)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class InParts(Response):
    """An answer that is there, sent in parts at the pace of its client."""

    def __init__(self, parts: Sequence[bytes], media_type: str) -> None:
        self._parts = deque(parts)
        self.media_type = media_type
        self.status_code = 200
        self.background = None
        self.init_headers({"content-length": str(sum(map(len, parts)))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while self._parts:
            await _part(send, self._parts.popleft())
            await asyncio.sleep(0)  # a client that reads fast never has this wait
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _part(send: Send, part: bytes) -> None:
    if part:  # an empty one would end the answer for some servers
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
