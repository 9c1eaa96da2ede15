"""Clients that write through a server whose answers get lost, and know what must come of it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

import aiovec
from aiovec import Schema

SCHEMA = Schema(2, fields={"n": int, "owner": str})
# Seconds for which a client repeats a call.
PATIENCE = 90.0


class Rest:
    """The REST endpoints by aiohttp, with a key for each call, which is repeated until answered."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/tables/notes/records"

    async def __aenter__(self) -> Rest:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def insert(self, _: str, rows: Any) -> int:
        return int((await self._ask("POST", "", rows))["count"])

    async def upsert(self, _: str, rows: Any) -> int:
        return int((await self._ask("POST", "?mode=upsert", rows))["count"])

    async def delete(self, _: str, id: str) -> int:
        return int((await self._ask("DELETE", f"/{id}"))["deleted"])

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
                    assert answer.status in (429, 503), (answer.status, found)
                except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
                    headers["Idempotency-Retry"] = "1"
                await asyncio.sleep(random.uniform(0.01, 0.1))


class Writer:
    """A client with rows of its own, so that it knows what the table must hold of them."""

    def __init__(self, name: str, face: Any, *, exact: bool) -> None:
        self.name = name
        self.rows: dict[str, int] = {}
        self.calls = 0
        self._face = face
        # The store does a write once even if its server is killed right behind the commit.
        self._exact = exact
        self._random = random.Random(name)

    async def write(self) -> None:
        """Make one call, and note what it has done."""
        self.calls += 1
        chosen = self._random.random()
        old = self._random.choice(sorted(self.rows)) if self.rows else ""
        ids = [f"{self.name}.{self.calls}.{n}" for n in range(self._random.randint(1, 4))]
        if chosen < 0.5 or not old:
            assert await self._face.insert("notes", self._rows(ids)) == len(ids)
        elif chosen < 0.75:
            ids.append(old)
            assert await self._face.upsert("notes", self._rows(ids)) == len(ids)
        else:
            assert await self._face.delete("notes", old) in ((1,) if self._exact else (0, 1))
            del self.rows[old]
            return
        self.rows.update(dict.fromkeys(ids, self.calls))

    def _rows(self, ids: list[str]) -> list[dict[str, Any]]:
        n = self.calls
        return [{"id": id, "embedding": [1.0, n], "n": n, "owner": self.name} for id in ids]


class Writing:
    """Clients that write until they are told to end."""

    def __init__(self, writers: list[Writer]) -> None:
        self.writers = writers
        self.stop = False
        self._answered = 0
        self._more = asyncio.Condition()

    async def write(self, writer: Writer) -> None:
        while not self.stop:
            await writer.write()
            async with self._more:
                self._answered += 1
                self._more.notify_all()

    async def go_on(self, calls: int) -> None:
        """Wait until so many more calls have been answered."""
        until = self._answered + calls
        async with self._more:
            await self._more.wait_for(lambda: self._answered >= until)


async def with_writers(
    url: str, count: int, disturb: Callable[[Writing], Awaitable[None]], *, exact: bool = True
) -> list[Writer]:
    """Run so many clients, half of them each way, while ``disturb`` runs; return them."""
    async with AsyncExitStack() as stack:
        faces: list[Any] = [Rest(url) if n % 2 else aiovec.connect(url) for n in range(count)]
        opened = [await stack.enter_async_context(face) for face in faces]
        writers = [Writer(f"w{n}", face, exact=exact) for n, face in enumerate(opened)]
        work = Writing(writers)

        async def disturbing() -> None:
            await disturb(work)
            work.stop = True

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(disturbing())
            for writer in writers:
                tasks.create_task(work.write(writer))
        return writers


async def check(target: str, writers: list[Writer]) -> None:
    """The table holds each row that was acknowledged, once, and no other."""
    found: dict[str, dict[str, int]] = {writer.name: {} for writer in writers}
    async with aiovec.connect(target) as store:
        async for batch in store.export("notes"):
            columns = (batch.column(name).to_pylist() for name in ("id", "n", "owner"))
            for id, n, owner in zip(*columns, strict=True):
                assert id not in found[owner], f"{id} is there twice"
                found[owner][id] = n
    assert found == {writer.name: writer.rows for writer in writers}
