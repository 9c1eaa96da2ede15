"""Answers that cost more than they look: the OpenAPI document, the health, the lines of the log."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest
from tests.server.apps import Wrapped, serving
from tests.server.process import environment

import aiovec
from aiovec_server import create_app


async def test_the_store_is_reached_once_a_second_however_many_ask_for_the_health() -> None:
    pings, begun, let = [], asyncio.Event(), asyncio.Event()

    async def ping() -> None:
        pings.append(1)
        begun.set()
        await let.wait()

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, ping=ping))  # type: ignore[arg-type]
        async with serving(app) as client:
            first = asyncio.ensure_future(client.get("/health"))
            others = [asyncio.ensure_future(client.get("/health")) for _ in range(30)]
            await begun.wait()
            first.cancel()  # the others wait for the ping on
            let.set()
            assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}
            assert len(pings) == 1


async def test_the_health_of_a_store_that_cannot_be_reached() -> None:
    async def ping() -> None:
        raise aiovec.StoreBusyError("disk", 1.0)

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, ping=ping))  # type: ignore[arg-type]
        async with serving(app) as client:
            await client.problem("GET", "/health", 503)


@pytest.mark.slow
def test_no_log_line_is_lost_where_stderr_does_not_block() -> None:
    """As where it is shared with Node, or with some supervisors."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [sys.executable, "-m", "aiovec_server", "-s", ":memory:", "--port", "0", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=writer, env=environment()
    ) as process, os.fdopen(reader) as errors:  # fmt: skip
        os.close(writer)
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with httpx.Client(base_url=url) as client:
            for n in range(300):
                client.get("/none", headers={"x-request-id": f"r{n}" + "x" * 50})
        process.terminate()  # the pipe has long been full
        lines = errors.read().splitlines()
    found = [json.loads(line)["request"] for line in lines]
    assert found == [f"r{n}" + "x" * 50 for n in range(300)]
