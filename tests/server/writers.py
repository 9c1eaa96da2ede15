"""Clients that write through a server whose answers get lost, and know what must come of it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

import aiovec
from aiovec import Schema

DIM = 4
SCHEMA = Schema(DIM, fields={"n": int, "owner": str})
Row = dict[str, Any]
# Seconds for which a client repeats a call.
PATIENCE = 90.0


class Face(Protocol):
    """One way to write: it repeats a call until it has its answer."""

    async def insert(self, rows: Sequence[Row]) -> int: ...
    async def upsert(self, rows: Sequence[Row]) -> int: ...
    async def delete(self, id: str) -> int: ...


class Rest:
    """The REST endpoints by aiohttp, with a key for each call."""

    makes_ids = True

    def __init__(self, url: str) -> None:
        self._url = url
        self.repeats = 0

    async def __aenter__(self) -> Rest:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self._session.close()

    async def insert(self, rows: Sequence[Row]) -> int:
        return int((await self._ask("POST", "/tables/notes/records", rows))["count"])

    async def upsert(self, rows: Sequence[Row]) -> int:
        found = await self._ask("POST", "/tables/notes/records?mode=upsert", rows)
        return int(found["count"])

    async def delete(self, id: str) -> int:
        found = await self._ask("DELETE", f"/tables/notes/records/{quote(id, safe='')}")
        return int(found["deleted"])

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with self._session.request(
                        method, self._url + path, json=body, headers=headers
                    ) as answer:
                        found = await answer.json()
                    if answer.status < 400:
                        return found
                    if answer.status not in (429, 503):
                        raise AssertionError(f"{method} {path}: {answer.status} {found}")
                except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
                    headers["Idempotency-Retry"] = "1"
                self.repeats += 1
                await asyncio.sleep(random.uniform(0.01, 0.1))


class Remote:
    """The remote backend, which repeats by itself."""

    makes_ids = False

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Remote:
        self._store = await aiovec.connect(self._url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self._store.close()

    async def insert(self, rows: Sequence[Row]) -> int:
        return await self._store.insert("notes", rows)

    async def upsert(self, rows: Sequence[Row]) -> int:
        return await self._store.upsert("notes", rows)

    async def delete(self, id: str) -> int:
        return await self._store.delete("notes", id)


class Writer:
    """A client with rows of its own, so that it knows what the table must hold of them."""

    def __init__(self, name: str, face: Any, *, exact: bool) -> None:
        self.name = name
        self.face = face
        # The store does a write once even if its server is killed right behind the commit.
        self.exact = exact
        self.rows: dict[str, int] = {}
        self.nameless = 0
        self.calls = 0
        self._random = random.Random(name)
        self._next = 0

    async def write(self) -> None:
        """Make one call, and note what it has done."""
        self.calls += 1
        chosen = self._random.random()
        if chosen < 0.5 or not self.rows:
            ids = [self._new_id() for _ in range(self._random.randint(1, 4))]
            assert await self.face.insert([self._row(id, self.calls) for id in ids]) == len(ids)
            self.rows.update(dict.fromkeys(ids, self.calls))
        elif chosen < 0.6 and self.face.makes_ids and self.exact:
            row = self._row("", self.calls)
            del row["id"]
            assert await self.face.insert([row]) == 1
            self.nameless += 1
        elif chosen < 0.75:
            ids = [self._random.choice(sorted(self.rows)), self._new_id()]
            assert await self.face.upsert([self._row(id, self.calls) for id in ids]) == 2
            self.rows.update(dict.fromkeys(ids, self.calls))
        else:
            id = self._random.choice(sorted(self.rows))
            assert await self.face.delete(id) in ((1,) if self.exact else (0, 1))
            del self.rows[id]

    def _new_id(self) -> str:
        self._next += 1
        return f"{self.name}/{self._next}"

    def _row(self, id: str, n: int) -> Row:
        return {"id": id, "embedding": [1.0, n, 0.5, 0.25], "n": n, "owner": self.name}


class Writing:
    """Clients that write until they are told to end."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self.writers = writers
        self._stop = False
        self._answered = 0
        self._more = asyncio.Condition()

    async def run(self) -> None:
        """Let all write, and finish the calls that they have begun by the end."""
        async with asyncio.TaskGroup() as tasks:
            for writer in self.writers:
                tasks.create_task(self._write(writer))

    async def _write(self, writer: Writer) -> None:
        while not self._stop:
            await writer.write()
            self._answered += 1
            async with self._more:
                self._more.notify_all()

    async def go_on(self, calls: int) -> None:
        """Wait until so many more calls have been answered."""
        until = self._answered + calls
        async with self._more:
            await self._more.wait_for(lambda: self._answered >= until)

    def end(self) -> None:
        self._stop = True


async def with_writers(
    url: str,
    count: int,
    disturb: Callable[[Writing], Awaitable[None]],
    *,
    exact: bool = True,
) -> list[Writer]:
    """Run so many clients, half of them each way, while ``disturb`` runs; return them."""
    async with AsyncExitStack() as stack:
        writers = []
        for number in range(count):
            face: Any = Rest(url) if number % 2 else Remote(url)
            await stack.enter_async_context(face)
            writers.append(Writer(f"w{number}", face, exact=exact))
        work = Writing(writers)
        writing = asyncio.ensure_future(work.run())
        disturbing = asyncio.ensure_future(disturb(work))
        try:
            await asyncio.wait([writing, disturbing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.end()
            if not disturbing.done() and writing.done():
                disturbing.cancel()
        await asyncio.wait([disturbing])
        await writing
        await disturbing
    return writers


async def check(target: str, writers: Sequence[Writer]) -> None:
    """The table holds each row that was acknowledged, once, and no other."""
    async with aiovec.connect(target) as store:
        await check_store(store, writers)


async def check_store(store: aiovec.VectorStore, writers: Sequence[Writer]) -> None:
    found: dict[str, dict[str, int]] = {writer.name: {} for writer in writers}
    nameless: dict[str, int] = {writer.name: 0 for writer in writers}
    async for batch in store.export("notes"):
        columns = (batch.column(name).to_pylist() for name in ("id", "n", "owner"))
        for id, n, owner in zip(*columns, strict=True):
            if "/" in id:
                assert id not in found[owner], f"{id} is there twice"
                found[owner][id] = n
            else:
                nameless[owner] += 1
    for writer in writers:
        assert found[writer.name] == writer.rows, writer.name
        assert nameless[writer.name] == writer.nameless, writer.name
