"""Scripts that load and exit: what is due is done as they close, or by who comes next."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.clock import DrivenClock

import aiovec
from aiovec import Field, Schema, VectorStore
from aiovec.backend import is_over
from aiovec_lancedb import tables
from aiovec_lancedb.index.fields import index_fields
from aiovec_lancedb.limits import Limits, UpkeepLimits

from .support import ROOT, SMALL, numbered, opened, run_code

# Opens a store, writes some rows and exits, as scripts do.
LOAD = """
import asyncio, sys
import numpy as np
import aiovec
from tests.lancedb.support import SMALL

async def main(target, start, count, how):
    async with aiovec.connect("lancedb://" + target) as store:
        await store.create_table("notes", SMALL, exist_ok=True)
        vectors = np.random.default_rng(start).normal(size=(count, 4))
        ids = [f"r{n:07}" for n in range(start, start + count)]
        await store.insert("notes", {"id": ids, "embedding": vectors})
        if how == "fails":
            raise ValueError("the script's own")
        if how == "hangs":
            print("loaded", flush=True)
            await store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
"""


async def fragments(store: VectorStore) -> int:
    return int((await store.stats("notes")).details["fragments"])


async def kinds(store: VectorStore, table: str = "notes") -> dict[str, str]:
    return {info.column: info.kind for info in await store.indexes(table)}


async def until_indexed(store: VectorStore, column: str) -> None:
    async with asyncio.timeout(90):
        while column not in await kinds(store):  # noqa: ASYNC110 - nothing tells when it is done
            await asyncio.sleep(0.1)


async def test_a_script_that_loads_and_exits_leaves_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B14: built and measured, within the time that close has."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__INDEX_FROM", "1500")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__CLOSE_TIMEOUT", "60")
    await run_code(LOAD, str(tmp_path / "s"), "0", "3000", "exits")
    async with opened(tmp_path / "s") as store:
        assert (await kinds(store))["embedding"].startswith("ivf")
        assert (await store.stats("notes")).details["recall"] is not None
        assert (await store.stats("notes")).unindexed_rows == 0


@pytest.mark.slow
async def test_many_scripts_leave_few_files(tmp_path: Path) -> None:
    """B14: sixty that write a row each left sixty fragments."""
    most = 0
    limits = Limits(upkeep=UpkeepLimits(rest=0))
    for n in range(40):
        async with opened(tmp_path / "s", limits, close_timeout=60) as store:
            await store.create_table("notes", SMALL, exist_ok=True)
            await store.insert("notes", numbered(1, start=n))
            most = max(most, await fragments(store))
    async with opened(tmp_path / "s", close_timeout=0) as store:
        assert most < 20
        assert await store.count("notes") == 40


async def test_what_a_close_leaves_is_done_by_who_comes_next(tmp_path: Path) -> None:
    """B14: by a store that only reads."""
    for part in range(12):
        async with opened(tmp_path / "s", index_from=1500, close_timeout=0) as store:
            await store.create_table("notes", SMALL, exist_ok=True)
            vectors = np.random.default_rng(part).normal(size=(250, 4))
            ids = [f"r{250 * part + n}" for n in range(250)]
            await store.insert("notes", {"id": ids, "embedding": vectors})
    async with opened(tmp_path / "s", index_from=1500) as store:
        assert await fragments(store) == 12
        assert await kinds(store) == {}
        await store.search("notes", [1, 2, 3, 4])
        await until_indexed(store, "embedding")
        async with asyncio.timeout(60):
            while await fragments(store) > 4:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await store.count("notes") == 3000


async def test_a_script_that_fails_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B14: its own error comes at once."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__INDEX_FROM", "1500")
    with pytest.raises(AssertionError, match="the script's own"):
        await run_code(LOAD, str(tmp_path / "s"), "0", "3000", "fails")
    async with opened(tmp_path / "s", index="none", close_timeout=0) as store:
        assert await store.count("notes") == 3000
        assert await kinds(store) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT between processes")
async def test_an_interrupt_ends_a_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B14: Ctrl-C while an index is built."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__INDEX_FROM", "1500")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__INDEX", "hnsw_pq")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__CLOSE_TIMEOUT", "600")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOAD, str(tmp_path / "s"), "0", "150000", "hangs", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"loaded\n"
    await asyncio.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert time.monotonic() - began < 20
    assert b"KeyboardInterrupt" in errors
    assert b"never retrieved" not in errors
    async with opened(tmp_path / "s", index="none", close_timeout=0) as store:
        assert await store.count("notes") == 150_000
        assert "embedding" not in await kinds(store)


async def test_a_cancelled_close_closes_all_the_same(tmp_path: Path) -> None:
    """B14: without the upkeep, for which nobody waits any more."""
    for n in range(6):
        store = await aiovec.connect(f"lancedb://{tmp_path / 's'}")
        await store.create_table("notes", SMALL, exist_ok=True)
        await store.insert("notes", numbered(3000, start=3000 * n))
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0.002 * n)
        closing.cancel()
        await asyncio.wait({closing})
        await store.close()
        with pytest.raises(aiovec.StoreClosedError):
            await store.count("notes")
    async with opened(tmp_path / "s") as store:
        assert await store.count("notes") == 18_000


@pytest.mark.slow
async def test_aiovec_import_waits_for_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B14: however long that takes."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__INDEX_FROM", "1500")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__CLOSE_TIMEOUT", "0")
    vectors = np.random.default_rng(0).normal(size=(3000, 4)).tolist()
    lines = [json.dumps({"id": f"r{n}", "embedding": v}) for n, v in enumerate(vectors)]
    await asyncio.to_thread((tmp_path / "notes.jsonl").write_text, "\n".join(lines))
    code = "import sys; from aiovec._cli import main; sys.argv.insert(1, 'import'); main()"
    await run_code(code, str(tmp_path / "notes.jsonl"), f"lancedb://{tmp_path / 's'}")
    async with opened(tmp_path / "s", index="none", close_timeout=0) as store:
        assert "embedding" in await kinds(store)
        assert await fragments(store) <= 2
        assert (await store.stats("notes")).unindexed_rows == 0


INDEXED = Schema(4, fields={"owner": Field(str, index="bitmap"), "year": Field(int, index="btree")})


async def test_an_index_over_a_field_that_a_kill_prevented_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B19: by upkeep, also of a store that only reads; one that a user dropped is not."""

    async def killed(*_: object, **__: object) -> None:
        """As if the process had ended behind the commit of the table."""

    monkeypatch.setattr(tables, "index_fields", killed)
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", INDEXED)
        await store.insert("notes", numbered(100))
        await store.add_field("notes", "tags", list[str])
        assert await kinds(store) == {}
    monkeypatch.setattr(tables, "index_fields", index_fields)
    async with opened(tmp_path / "s") as store:
        assert await store.count("notes") == 100
        for column in ("owner", "year", "tags"):
            await until_indexed(store, column)
        [name] = [info.name for info in await store.indexes("notes") if info.column == "year"]
        await store.drop_index("notes", name)
        assert set(await kinds(store)) == {"owner", "tags"}
    clock = DrivenClock()
    async with opened(tmp_path / "s", clock=clock) as store:
        await store.insert("notes", numbered(100, start=100))
        await store.optimize("notes")
        backend: Any = store._follower.engine.backend
        await clock.until(lambda: is_over(backend._housekeeper._task))  # nothing is left to do
        assert set(await kinds(store)) == {"owner", "tags"}
