"""A server whose answers a test makes up, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiovec.backend import JSON, Message, Schema, pack

SCHEMA = Schema(2, fields={"year": int, "score": float, "name": str})


@dataclass
class Request:
    """A request that came: the call, its headers in lower case, its body."""

    call: str
    headers: dict[str, str]
    body: bytes


Answer = bytes | None
Handler = Callable[[Request], Awaitable[Answer]]


def http(
    body: bytes = b"{}", *, status: str = "200 OK", kind: str = JSON, headers: str = ""
) -> bytes:
    """Return an answer."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def told(message: Message, *, mark: str = "one") -> bytes:
    """Return the answer that a server gives by a message."""
    kind, body = pack(message)
    return http(bytes(body), kind=kind, headers=f"aiovec-store: {mark}\r\n")


def problem(status: str, body: bytes = b'{"detail": "no"}', headers: str = "") -> bytes:
    """Return an answer that is an error."""
    return http(body, status=status, kind="application/problem+json", headers=headers)


def opened(*, keeps_keys: bool = False, abilities: tuple[str, ...] = ("text",)) -> Message:
    """Return the answer to the first call."""
    return Message({"backend": "toy", "abilities": list(abilities), "keepsKeys": keeps_keys})


@dataclass
class Fake:
    """The server: ``answers`` has what each call is answered with, in turn; the last one stays.

    None closes the connection without an answer. A function is asked.
    """

    url: str = ""
    answers: dict[str, list[Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answers.setdefault("open", [told(opened())])
        handle = Message({"schema": SCHEMA.to_json(), "state": "s1"})
        self.answers.setdefault("open_table", [told(handle)])

    def calls(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.call == name]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections[task] = writer
        try:
            while (request := await _request(reader)) is not None:
                self.requests.append(request)
                waiting = self.answers.get(request.call, [problem("404 Not Found")])
                answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                if callable(answer):
                    answer = await answer(reader, writer)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if not answer.endswith(b"}") and b"content-length" not in answer:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            self.gone.set()
            writer.close()
            del self.connections[task]


async def _request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(line.split()[1].rpartition("/")[2], headers, body)


@asynccontextmanager
async def fake_server() -> AsyncIterator[Fake]:
    fake = Fake()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
        for writer in fake.connections.values():
            writer.close()
        if fake.connections:
            await asyncio.wait(list(fake.connections))
