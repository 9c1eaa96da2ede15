"""What the tests of LanceDB share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiovec import Schema, VectorStore
from aiovec.backend import Clock, RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.limits import IndexLimits, Limits
from aiovec_lancedb.settings import LancedbSettings

ROOT = Path(__file__).resolve().parents[2]
SMALL = Schema(4, fields={"owner": str, "year": int})

# Indexes are measured by fewer questions than those of users: each is a query at every effort. The
# recall that is noted is less by the standard errors, so it holds as surely.
QUICK = Limits(index=IndexLimits(least_questions=8, most_questions=8))
# By eight, one index in a hundred is taken for far better than it is; hardly ever by twice as many.
SURE = Limits(index=IndexLimits(least_questions=16, most_questions=16))


@asynccontextmanager
async def opened(
    target: Path | str, limits: Limits = QUICK, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[VectorStore]:
    """A store on a folder or URL, with settings of its own."""
    backend = LancedbBackend(str(target), LancedbSettings(**settings), limits, clock)
    try:
        await backend.open()
    except BaseException:
        await backend.close()
        raise
    async with VectorStore(backend, RetrievalSettings()) as store:
        yield store


def rows(ids: list[str], **fields: Any) -> list[dict[str, Any]]:
    return [{"id": id, "embedding": [1.0, n, 2.0, 3.0], **fields} for n, id in enumerate(ids)]


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n:05}", "embedding": [1.0, n, 2.0, 3.0], "year": n}
        for n in range(start, start + count)
    ]


async def ids_in(store: VectorStore, table: str = "notes") -> list[str]:
    """Every id, by an export, in their order."""
    return sorted(
        [id async for batch in store.export(table) for id in batch.column("id").to_pylist()]
    )


async def run_code(code: str, *arguments: str, timeout: float = 120, fresh: bool = False) -> str:
    """What other Python code printed, run to its end in a process of its own.

    A ``fresh`` one is started, not forked, so that its memory is its own.
    """
    process = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        told, errors = await asyncio.to_thread(process.communicate, timeout=timeout)
    except BaseException:
        process.kill()
        raise
    assert process.returncode == 0, errors.decode()
    return str(told.decode())
