"""Answers that cost more than they look: the OpenAPI document, the health, the lines of the log."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from tests.server.apps import notes, serving
from tests.server.process import environment

import aiovec
from aiovec_server import create_app


async def test_the_openapi_document_is_built_beside_the_event_loop() -> None:
    async with notes() as client:
        asked = asyncio.ensure_future(client.ok("GET", "/openapi.json"))
        steps = 0
        while not asked.done():
            await asyncio.sleep(0)
            steps += 1
        assert steps > 200  # on the event loop, its hundred milliseconds were one of ten steps
        assert (await asked)["paths"]["/tables/{table}/search"]
        assert (await client.request("HEAD", "/openapi.json")).status_code == 200


class Counted:
    """A store that counts its pings. They end when they are let."""

    def __init__(self, store: aiovec.VectorStore) -> None:
        self._store = store
        self.pings = 0
        self.fails = False
        self.begun = asyncio.Event()
        self.let = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def ping(self) -> None:
        self.pings += 1
        self.begun.set()
        await self.let.wait()
        if self.fails:
            raise aiovec.StoreBusyError("disk", 1.0)
        await self._store.ping()


async def test_who_asks_for_the_health_shares_one_ping() -> None:
    async with aiovec.connect(":memory:") as store:
        counted = Counted(store)
        async with serving(create_app(store=counted)) as client:  # type: ignore[arg-type]
            first = asyncio.ensure_future(client.ok("GET", "/health"))
            others = [asyncio.ensure_future(client.ok("GET", "/health")) for _ in range(30)]
            await counted.begun.wait()
            first.cancel()  # it leaves the others their ping
            counted.let.set()
            assert {answer["status"] for answer in await asyncio.gather(*others)} == {"ok"}
            assert counted.pings == 1


async def test_a_ping_that_failed_is_made_again() -> None:
    async with aiovec.connect(":memory:") as store:
        counted = Counted(store)
        counted.let.set()
        counted.fails = True
        async with serving(create_app(store=counted)) as client:  # type: ignore[arg-type]
            await client.problem("GET", "/health", 503)
            counted.fails = False
            await client.ok("GET", "/health")
            assert counted.pings == 2


LOGGER = """
import asyncio, httpx
from aiovec_server import create_app
async def main():
    transport = httpx.ASGITransport(create_app(":memory:"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for n in range(300):
            await client.get("/none", headers={"x-request-id": f"r{n}" + "x" * 50})
asyncio.run(main())
print("done", flush=True)
"""


@pytest.mark.slow
def test_no_log_line_is_lost_where_stderr_does_not_block() -> None:
    """As where it is shared with Node, or with some supervisors."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [sys.executable, "-c", LOGGER], stdout=subprocess.PIPE, stderr=writer, env=environment()
    ) as process, os.fdopen(reader) as errors:  # fmt: skip
        os.close(writer)
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"  # the pipe has long been full
        lines = errors.read().splitlines()
    found = [json.loads(line)["request"] for line in lines]
    assert found == [f"r{n}" + "x" * 50 for n in range(300)]
