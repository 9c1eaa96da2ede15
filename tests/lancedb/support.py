"""Shared by the tests of LanceDB: stores with settings of their own, and other processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.contract.base import toml_value

import aiovec
from aiovec import VectorStore
from aiovec.backend.place import find_place

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def opened(target: Path | str, **settings: Any) -> AsyncIterator[VectorStore]:
    """Open a store on a folder or URL with these keys of ``[retrieval.lancedb]``."""
    address = f"lancedb://{target}" if isinstance(target, Path) else target
    with tempfile.TemporaryDirectory() as folder:
        async with aiovec.connect(address, config=_config(Path(folder), settings)) as store:
            yield store


def _config(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "aiovec.toml"
    lines = [f"{key} = {toml_value(value)}\n" for key, value in settings.items()]
    path.write_text("[retrieval.lancedb]\n" + "".join(lines))
    return path


@asynccontextmanager
async def backend_on(target: Path | str) -> AsyncIterator[Any]:
    """Open a backend on a store's folder or URL, as a migration does."""
    address = f"lancedb://{target}" if isinstance(target, Path) else target
    place = await to_thread(find_place, address)
    backend = await to_thread(place.create)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


async def ids_in(store: VectorStore, table: str = "notes") -> list[str]:
    """Return every id of a table, by an export, in their order."""
    return sorted(
        [id async for batch in store.export(table) for id in batch.column("id").to_pylist()]
    )


async def details(store: VectorStore, name: str) -> Any:
    """Return one of the details in the statistics of the table ``notes``."""
    return (await store.stats("notes")).details.get(name)


async def listed(folder: Path) -> list[str]:
    """Return the names of what lies in a folder."""
    return await to_thread(lambda: sorted(path.name for path in folder.iterdir()))


async def run_code(code: str, *arguments: str) -> str:
    """Run Python code in a process of its own, and return what it printed.

    Lance's logs would be among its complaints, of which there must be none.
    """
    done = await to_thread(
        subprocess.run, [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def start_code(code: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start Python code in a process of its own, and return once it has printed a line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline(), "the process ended before its first line"
    return process
