"""Servers and clients as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

_ENDING = 60.0
_LOOK = 0.02


class Server:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self._looked_at = psutil.Process(process.pid)

    def memory(self) -> int:
        """The bytes that the server has in memory."""
        return int(self._looked_at.memory_info().rss)

    def cpu(self) -> float:
        """The seconds of processor time that the server has used."""
        times = self._looked_at.cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Server]:
    """Run ``aiovec serve`` with what it does by default, on a free port."""
    command = [sys.executable, "-m", "aiovec", "serve", "-s", str(path), "--port", "0", "--json"]
    async with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise RuntimeError("aiovec serve did not start")
        yield Server(process, int(json.loads(line)["url"].rpartition(":")[2]))


@asynccontextmanager
async def running(
    command: list[str], *, stdout: int = subprocess.DEVNULL, **more: str
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a command, without this process's settings of aiovec and with ``more``.

    It is ended by SIGTERM when the block is left. A log that it writes is not kept.
    """
    kept = {n: text for n, text in os.environ.items() if not n.startswith("AIOVEC_")}
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=stdout, stderr=subprocess.DEVNULL, env={**kept, **more}
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, _ENDING)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


async def told_by(module: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a module that is run as a process."""
    with tempfile.TemporaryDirectory(prefix="aiovec-bench-") as folder:
        told = Path(folder) / "told.json"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, json.dumps(asked), str(told),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, wrong = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{module} ended with {process.returncode}:\n{wrong.decode()}")
        text = await asyncio.to_thread(told.read_text, encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@asynccontextmanager
async def watched(server: Server) -> AsyncIterator[list[int]]:
    """The server's memory at short intervals, while the block runs."""
    seen = [server.memory()]

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK)
            seen.append(server.memory())

    looking = asyncio.ensure_future(look())
    try:
        yield seen
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
