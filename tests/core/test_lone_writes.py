"""A write that waits for nobody does not fail for time, however slow the machine is."""

from __future__ import annotations

import asyncio
import time
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aiovec import Schema, StoreBusyError, VectorStore, connect
from aiovec.backend.commit import Committer, GroupCommit, WriteCall
from aiovec.backend.limits import Deadline, Gate
from aiovec.backend.marks import MoveMark

# A call that may wait for 0 s waits for 0.25 s at least.
LONGER = 0.4


class Slow(Committer[WriteCall]):
    """Takes its time before a call begins: with the lock, or behind it."""

    target = "the store"
    pause_poll = 0.0

    def __init__(self, place: str, *, busy: str | None = None) -> None:
        self.place = place
        self.busy = busy
        self.go_on = asyncio.Event()

    async def take(self) -> Callable[[], None] | None:
        await self._slow("take")
        return lambda: None

    async def commit(self, group: list[WriteCall]) -> MoveMark | None:
        await self._slow("commit")
        begun = [call for call in group if call.begin()]
        await self._slow("work")
        for call in begun:
            call.succeed("done")
        return None

    async def _slow(self, place: str) -> None:
        if place == self.place:
            await self.go_on.wait()

    def joins(self, group: list[WriteCall], call: WriteCall, size: int) -> bool:
        return False

    async def pause_is_over(self, pause: MoveMark) -> bool:
        return True

    async def end_pause(self, pause: MoveMark) -> None: ...


@pytest.mark.parametrize("place", ["take", "commit", "work"])
async def test_a_call_that_waits_for_nobody(place: str) -> None:
    slow = Slow(place)
    commits = GroupCommit(slow, Gate("too many"))
    call = asyncio.ensure_future(commits.run(WriteCall(), Deadline(0)))
    await asyncio.sleep(LONGER)
    slow.go_on.set()
    assert await call == "done"


@pytest.mark.parametrize(
    ("place", "busy", "reason"),
    [("work", None, "other writes of this process"), ("take", "locked", "locked")],
)
async def test_a_call_that_waits_for_others(place: str, busy: str | None, reason: str) -> None:
    committer = Slow(place, busy=busy)
    commits = GroupCommit(committer, Gate("too many"))
    first = asyncio.ensure_future(commits.run(WriteCall(), Deadline(60)))
    await asyncio.sleep(0)
    with pytest.raises(StoreBusyError, match=reason):
        await commits.run(WriteCall(), Deadline(0))
    committer.go_on.set()
    assert await first == "done"


@pytest.fixture(params=["sqlite", "lancedb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    if request.param == "lancedb":
        pytest.importorskip("lancedb")
    config = tmp_path / "aiovec.toml"
    settings = f'[retrieval]\nbackend = "{request.param}"\n[retrieval.{request.param}]\n'
    await to_thread(config.write_text, f"{settings}busy_timeout = 0\n")
    async with connect(config=config) as opened:
        await opened.create_table("t", Schema(2))
        yield opened


async def test_a_lone_write_on_a_machine_that_stands_still(store: VectorStore) -> None:
    for rounds in (1, 3, 6):
        row: dict[str, Any] = {"id": f"r{rounds}", "embedding": [1, rounds]}
        write = asyncio.ensure_future(store.insert("t", [row]))
        for _ in range(rounds):
            await asyncio.sleep(0)
        until = time.monotonic() + LONGER
        while time.monotonic() < until:
            pass  # the event loop, and all that waits for it
        await write
    assert await store.count("t") == 3
