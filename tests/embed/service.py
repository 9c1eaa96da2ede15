"""A server on loopback that speaks OpenAI's protocol for embeddings, and fails on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

DIM = 8


def vector_of(text: str, dim: int = DIM) -> list[float]:
    """Return the service's vector of a text."""
    return [1.0 + sum(ord(c) for c in text[n::dim]) % 97 for n in range(dim)]


@dataclass
class Request:
    """A received request."""

    path: str
    headers: Mapping[str, str]
    document: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        texts: list[str] = self.document["input"]
        return texts


@dataclass
class Reply:
    """An answer. ``cut`` closes the connection after so many bytes of the body."""

    document: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    cut: int | None = None
    hang: bool = False

    async def send(self, request: web.Request) -> web.StreamResponse:
        if self.hang:
            await asyncio.sleep(3600)
        whole = web.json_response(self.document, status=self.status, headers=self.headers)
        if self.raw is not None:
            whole.body = self.raw
        if self.cut is None:
            return whole
        assert isinstance(whole.body, bytes)
        part = web.StreamResponse(headers={"Content-Length": str(len(whole.body))})
        await part.prepare(request)
        await part.write(whole.body[: self.cut])
        assert request.transport is not None
        request.transport.close()
        return part


def answer(request: Request, dim: int = DIM) -> Reply:
    """Return the right answer, in reverse order, as the index of each vector says."""
    data = [
        {"object": "embedding", "index": n, "embedding": vector_of(text, dim)}
        for n, text in enumerate(request.texts)
    ]
    return Reply({"object": "list", "data": data[::-1], "model": request.document["model"]})


class Service:
    """Answers with the next reply of ``plan``, and rightly when that is empty."""

    url: str

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.plan: list[Callable[[Request], Reply]] = []
        self.always: Callable[[Request], Reply] = answer
        self.answers = asyncio.Event()
        self.answers.set()
        self.at_once = self.most_at_once = 0
        self.connections: set[Any] = set()
        self.came = asyncio.Semaphore(0)

    @property
    def sizes(self) -> list[int]:
        return [len(request.texts) for request in self.requests]

    async def __aenter__(self) -> Service:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/{path:.*}", self._serve)
        options = {"handler_cancellation": True, "shutdown_timeout": 0.1}
        self._runner = web.AppRunner(app, access_log=None, **options)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _serve(self, received: web.Request) -> web.StreamResponse:
        request = Request(received.path, received.headers, await received.json())
        self.connections.add(received.transport)
        self.requests.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.came.release()
        try:
            await self.answers.wait()
            reply = (self.plan.pop(0) if self.plan else self.always)(request)
            return await reply.send(received)
        finally:
            self.at_once -= 1
