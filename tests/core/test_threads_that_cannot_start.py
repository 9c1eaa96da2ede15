"""Work goes on where Python starts no thread: as the process ends, or at the system's limit."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import AiovecError, Schema
from aiovec._core.threads import NoThreadError
from aiovec.backend import in_idle_thread, in_thread


async def _some(count: int) -> None:
    """Have so many threads wait for work."""
    together = threading.Barrier(count)
    await asyncio.gather(*(in_idle_thread(lambda: together.wait(30)) for _ in range(count)))


def _refuse(*_: Any) -> None:
    raise RuntimeError("can't create new thread at interpreter shutdown")


async def test_calls_at_once_wait_for_the_threads_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _some(2)
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    chance = random.Random(0)
    begun: list[int] = []

    def work(number: int, pause: float) -> int:
        begun.append(threading.get_ident())
        time.sleep(pause)
        return number

    async with asyncio.timeout(60):
        for calls in (1, 2, 3, 40, 400):
            pauses = [chance.choice([0, 0, 0.001 * chance.random()]) for _ in range(calls)]
            coming = [in_idle_thread(lambda n=n, p=p: work(n, p)) for n, p in enumerate(pauses)]
            assert await asyncio.gather(*coming) == list(range(calls))
        # The thread that answered may not be idle yet when the next call comes.
        for number in range(2_000):
            assert await in_idle_thread(lambda n=number: work(n, 0)) == number


async def test_an_error_where_there_is_no_thread_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiovec._core import threads

    for name in ("_idle", "_busy", "_alive"):
        monkeypatch.setattr(threads, name, type(getattr(threads, name))())
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    with pytest.raises(AiovecError, match="needs a thread, and Python starts none"):
        await in_idle_thread(lambda: None)


@pytest.fixture
async def complaints() -> list[dict[str, Any]]:
    """What the event loop is told of."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


async def test_work_in_the_background_is_left_undone(
    monkeypatch: pytest.MonkeyPatch, complaints: list[dict[str, Any]]
) -> None:
    from aiovec._core import threads

    tasks = threads.Background()
    tasks.start(in_thread(lambda: 1 // 0))  # type: ignore[arg-type]
    await tasks.wait()
    for name in ("_idle", "_busy", "_alive"):
        monkeypatch.setattr(threads, name, type(getattr(threads, name))())
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    tasks.start(in_thread(print))
    await tasks.wait()
    gc.collect()
    assert [type(context["exception"]) for context in complaints] == [ZeroDivisionError]


async def test_an_export_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaints: list[dict[str, Any]]
) -> None:
    """Its look at the WAL is left undone, which nobody is told."""
    from aiovec._core import threads

    async with aiovec.connect(tmp_path / "notes.db") as store:
        await store.create_table("notes", Schema(2))
        await store.insert("notes", [{"id": id, "embedding": [1, 2]} for id in "abc"])
        await store.count("notes")
        for name in ("_idle", "_busy", "_alive"):
            monkeypatch.setattr(threads, name, type(getattr(threads, name))())
        monkeypatch.setattr(threads._Thread, "start", _refuse)
        found = [batch async for batch in store.export("notes", batch_size=1)]
        monkeypatch.undo()
    assert len(found) == 3
    gc.collect()
    assert complaints == []


async def test_upkeep_is_left_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaints: list[dict[str, Any]]
) -> None:
    pytest.importorskip("lancedb")
    from tests.lancedb.support import SMALL, numbered, opened

    from aiovec_lancedb.limits import Limits, UpkeepLimits
    from aiovec_lancedb.upkeep import schedule

    refused = asyncio.Event()

    async def no_thread(*_: object) -> None:
        refused.set()
        raise NoThreadError("the store needs a thread, and Python starts none")

    monkeypatch.setattr(schedule, "in_thread", no_thread)
    limits = Limits(upkeep=UpkeepLimits(commits=1, quiet=0.0))
    async with asyncio.timeout(60), opened(tmp_path / "s", limits) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(1))
        await refused.wait()
        await store.insert("notes", numbered(1, start=1))
        assert await store.count("notes") == 2
    gc.collect()
    assert complaints == []
