"""A version that is kept between reads is never taken for the newest when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb.table import AsyncTable
from tests.clock import DrivenClock

from aiovec import ModelMismatchError, Schema, TableNotFoundError, Tuning, VectorStore
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.limits import Limits, ReadLimits
from aiovec_lancedb.memory import scan_bytes
from aiovec_lancedb.reads import mark_of
from aiovec_lancedb.settings import LancedbSettings

from .indexed import DIM, QUESTIONS, ROWS, SCHEMA
from .indexed import rows as vectors
from .support import SMALL, numbered, opened, run_code

INSERT = """
import asyncio, sys
from tests.lancedb.support import numbered, opened

async def main():
    async with opened(sys.argv[1]) as store:
        await store.insert("notes", numbered(1, start=int(sys.argv[2])))

asyncio.run(main())
"""


@pytest.fixture(params=["young files too", "old files only"])
async def two(
    tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[VectorStore, VectorStore]]:
    """One that reads and one that writes; the marks of files are used at once, or hardly ever.

    No upkeep falls due: it opens tables as well.
    """
    young = request.param == "young files too"
    limits = Limits(read=ReadLimits(too_young=-1)) if young else Limits()
    path = tmp_path / "s"
    async with (
        opened(path, limits, DrivenClock()) as reader,
        opened(path, limits, DrivenClock()) as writer,
    ):
        await writer.create_table("notes", SMALL)
        yield reader, writer


async def settle(reader: VectorStore) -> None:
    """Read until a version is kept and marked."""
    for _ in range(4):
        await reader.count("notes")


@pytest.mark.slow
async def test_each_write_of_another_store_is_seen_by_the_next_read(
    two: tuple[VectorStore, VectorStore],
) -> None:
    reader, writer = two
    for n in range(12):
        await settle(reader)
        await writer.insert("notes", numbered(1, start=n))
        assert await reader.count("notes") == n + 1
        await settle(reader)
        await writer.update("notes", {"year": 9000 + n}, ids=[f"r{n:05}"])
        (hit,) = await reader.search("notes", [1.0, n, 2.0, 3.0], limit=1)
        assert (hit.id, hit["year"]) == (f"r{n:05}", 9000 + n)
        await settle(reader)
        await writer.upsert("notes", [{**numbered(1, start=n)[0], "owner": "me"}])
        (record,) = await reader.get("notes", f"r{n:05}")
        assert record["owner"] == "me"
    await settle(reader)
    await writer.optimize("notes")
    await settle(reader)
    await writer.delete_where("notes", "year >= 0")
    assert await reader.search("notes", [1.0, 2.0, 2.0, 3.0]) == []


async def test_of_another_process_too(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as reader:
        await reader.create_table("notes", SMALL)
        await settle(reader)
        await run_code(INSERT, str(tmp_path / "s"), "0")
        assert await reader.count("notes") == 1


async def test_a_table_of_the_same_name_and_version_is_another(
    two: tuple[VectorStore, VectorStore],
) -> None:
    reader, writer = two
    for n in range(8):
        await settle(reader)
        version = (await reader.versions("notes"))[-1]["version"]
        await writer.drop_table("notes")
        await writer.create_table("notes", Schema(4, model=f"m{n}", fields={f"f{n}": int}))
        assert (await writer.versions("notes"))[-1]["version"] == version
        with pytest.raises(ModelMismatchError):
            await reader.search("notes", [1, 2, 3, 4], model="other")
        assert list((await reader.schema("notes")).fields) == [f"f{n}"]
        assert await reader.find("notes", f"f{n} > 1") == []
    await settle(reader)
    await writer.drop_table("notes")
    with pytest.raises(TableNotFoundError):
        await reader.count("notes")


@pytest.mark.slow
async def test_reads_beside_writes_see_what_was_acknowledged(
    two: tuple[VectorStore, VectorStore],
) -> None:
    reader, writer = two
    written = reads = 0

    async def read() -> None:
        nonlocal reads
        while written < 40 or reads <= 5:
            before = written
            assert await reader.count("notes") >= before
            reads += 1

    async def write() -> None:
        nonlocal written
        while written < 40 or reads <= 5:  # on a busy machine the reads may be held up
            await writer.insert("notes", numbered(1, start=written))
            written += 1
            await asyncio.sleep(0.005 * (written % 4))

    await asyncio.gather(read(), write())


async def test_a_quiet_table_is_not_opened_anew(
    two: tuple[VectorStore, VectorStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = two
    await writer.insert("notes", numbered(20))
    await asyncio.sleep(0.15)  # until its files are no longer young
    await settle(reader)
    asked: list[str] = []
    real: Callable[..., Any] = AsyncTable.schema

    def watched(table: AsyncTable) -> Any:
        asked.append("schema")
        return real(table)

    monkeypatch.setattr(AsyncTable, "schema", watched)
    for n in range(5):
        (hit,) = await reader.search("notes", [1.0, n, 2.0, 3.0], limit=1)
        assert hit.id == f"r{n:05}"
    assert asked == []


def test_a_mark_tells_nothing_of_what_it_does_not_know(tmp_path: Path) -> None:
    assert mark_of(tmp_path, "absent", ReadLimits().too_young) is None
    versions = tmp_path / "t.lance" / "_versions"
    versions.mkdir(parents=True)
    assert mark_of(tmp_path, "t", ReadLimits().too_young) is None
    (versions / "7.manifest").write_bytes(b"as older versions of Lance name it")
    assert mark_of(tmp_path, "t", ReadLimits().too_young) is None


# What turns out to read every row


class Shares:
    """Notes what is asked of the memory."""

    def __init__(self, backend: LancedbBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        real = backend._admission.share

        def share(size: int) -> AbstractAsyncContextManager[None]:
            self.sizes.append(size)
            return real(size)

        monkeypatch.setattr(backend._admission, "share", share)


async def test_a_search_that_turns_exact_takes_the_share_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LancedbBackend(str(tmp_path / "s"), LancedbSettings(index="none"))
    await backend.open()
    whole = scan_bytes(ROWS, DIM, 10)
    async with VectorStore(backend, RetrievalSettings()) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", vectors(0, ROWS))
        await store.create_index("notes", "ivf_flat")
        shares = Shares(backend, monkeypatch)
        for _ in range(3):
            await store.search("notes", QUESTIONS[0])
        assert max(shares.sizes) < whole
        for tuning, more in (
            (Tuning(recall=1), {}),  # no effort is sure of that
            # The partitions that are searched hold too few of the filter's rows.
            (Tuning(nprobes=1), {"where": "number >= 500"}),
        ):
            shares.sizes.clear()
            limit = 10 if not more else 1400
            hits = await store.search("notes", QUESTIONS[0], limit=limit, tuning=tuning, **more)
            assert len(hits) == limit
            assert shares.sizes[-1] == scan_bytes(ROWS, DIM, limit)


async def test_a_search_takes_a_share_for_what_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's payload may be far larger than its vector, also where an index answers."""
    random = np.random.default_rng(0)
    backend = LancedbBackend(str(tmp_path / "s"), LancedbSettings(index="none"))
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        await store.create_table("notes", SCHEMA)
        texts = [random.bytes(20_000).hex() for _ in range(300)]
        await store.insert("notes", {**vectors(0, 300), "text": texts})
        await store.create_index("notes", "ivf_flat")
        shares = Shares(backend, monkeypatch)
        hits = await store.search("notes", QUESTIONS[0], limit=200)
        assert len(hits) == 200
        assert max(shares.sizes) > sum(len(hit["text"]) for hit in hits)


@pytest.mark.slow
async def test_a_query_beyond_float32_takes_the_share_of_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LancedbBackend(str(tmp_path / "s"), LancedbSettings(index="none"))
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        await store.create_table("notes", Schema(DIM, metric="l2", fields=SCHEMA.fields))
        await store.insert("notes", vectors(0, ROWS))
        await store.create_index("notes", "ivf_flat")
        shares = Shares(backend, monkeypatch)
        query = np.zeros(DIM, np.float32)
        query[0] = 1e20
        assert len(await store.search("notes", query)) == 10
        assert shares.sizes[-1] == scan_bytes(ROWS, DIM, 10)
