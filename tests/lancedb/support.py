"""Shared code of the LanceDB tests: stores with settings, and helpers."""

from __future__ import annotations

import sys
import tempfile
from asyncio import to_thread
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.contract.base import toml_value

import aiovec
from aiovec import VectorStore
from aiovec.backend.place import find_place


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
    """Return all ids of a table, sorted, from an export."""
    return sorted(
        [id async for batch in store.export(table) for id in batch.column("id").to_pylist()]
    )


async def details(store: VectorStore, name: str) -> Any:
    """Return a detail from the statistics of the table ``notes``."""
    return (await store.stats("notes")).details.get(name)


async def listed(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return await to_thread(lambda: sorted(path.name for path in folder.iterdir()))


@contextmanager
def lance_calls() -> Iterator[Counter[str]]:
    """Count the calls of lancedb's tables and queries on this thread, by method name.

    ``to_batches`` is one query.
    """
    calls: Counter[str] = Counter()
    begun: set[FrameType] = set()  # a coroutine is entered again at each step

    def note(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame in begun or not is_lance(frame):
            return
        begun.add(frame)
        outer = frame.f_back
        if outer is None or not is_lance(outer):
            calls[frame.f_code.co_name] += 1

    def is_lance(frame: FrameType) -> bool:
        return frame.f_globals.get("__name__") in ("lancedb.table", "lancedb.query")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)
