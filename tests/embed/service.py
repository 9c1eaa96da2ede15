"""A server on loopback that speaks OpenAI's protocol for embeddings, and fails on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

DIM = 8


def vector_of(text: str, dim: int = DIM) -> list[float]:
    """Return the service's vector of a text."""
    return [1.0 + sum(ord(c) for c in text[n::dim]) % 97 for n in range(dim)]


class Request:
    """A received request: its headers in lower case, and its document."""

    def __init__(self, head: str, body: bytes) -> None:
        first, *lines = head.split("\r\n")
        self.path = first.split(" ")[1]
        self.headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        self.document: dict[str, Any] = json.loads(body)

    @property
    def texts(self) -> list[str]:
        texts: list[str] = self.document["input"]
        return texts


class Reply:
    """An answer. ``cut`` closes the connection after so many bytes of the body."""

    def __init__(
        self,
        document: Any = None,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        cut: int | None = None,
        hang: bool = False,
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.body = raw if raw is not None else json.dumps(document).encode()
        self.cut = cut
        self.hang = hang


def answer(request: Request, dim: int = DIM) -> Reply:
    """Return the right answer, in reverse order, as the index of each vector says."""

    data = [
        {"object": "embedding", "index": n, "embedding": vector_of(text, dim)}
        for n, text in enumerate(request.texts)
    ]
    return Reply({"object": "list", "data": data[::-1], "model": request.document["model"]})


class Service:
    """Answers with the next reply of ``plan``, and rightly when that is empty."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.plan: list[Callable[[Request], Reply]] = []
        self.always: Callable[[Request], Reply] = answer
        self.answers = asyncio.Event()
        self.answers.set()
        self.keeps_alive = True
        self.at_once = 0
        self.most_at_once = 0
        self.connections = 0
        self.came = asyncio.Semaphore(0)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any] | None] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @property
    def sizes(self) -> list[int]:
        return [len(request.texts) for request in self.requests]

    async def __aenter__(self) -> Service:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        for task in list(self._tasks):
            if task is not None:
                task.cancel()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self._tasks.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.partition(":")[2])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length:")
                )
                request = Request(head, await reader.readexactly(length))
                self.requests.append(request)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                self.came.release()
                try:
                    await self.answers.wait()
                    reply = (self.plan.pop(0) if self.plan else self.always)(request)
                    if reply.hang:
                        await asyncio.sleep(3600)
                finally:
                    self.at_once -= 1
                if not await self._send(writer, reply):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(reply.body)),
            "Connection": "keep-alive" if self.keeps_alive else "close",
            **reply.headers,
        }
        lines = [f"HTTP/1.1 {reply.status} Status", *(f"{k}: {v}" for k, v in headers.items())]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        if reply.cut is not None:
            writer.write(head + reply.body[: reply.cut])
            await writer.drain()
            return False
        writer.write(head + reply.body)
        await writer.drain()
        return self.keeps_alive
