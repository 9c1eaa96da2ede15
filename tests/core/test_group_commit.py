"""The commit of writes that wait together, over an adapter that fails or is paused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.harness.waiting import until

from aiovec import StoreBusyError, StoreUnreachableError
from aiovec.backend.commit import Committer, GroupCommit, WriteCall
from aiovec.backend.limits import Deadline, Gate
from aiovec.backend.marks import MoveMark


class Slow(WriteCall):
    """A write whose commit waits for ``go_on`` once it has begun, or before."""

    def __init__(self, *, begins: bool = True) -> None:
        super().__init__()
        self.begins, self.go_on = begins, asyncio.Event()


class Failing(Committer[WriteCall]):
    """Commits the first call of a group and then fails, or fails to take its lock."""

    target, pause_poll = "toy://", 0.05
    fails_to_lock = False
    held = 0
    pause: MoveMark | None = None
    polls = 0

    async def take(self) -> Callable[[], Awaitable[None]]:
        if self.fails_to_lock:
            raise StoreUnreachableError("toy://", "no lock")
        self.held += 1
        return self.give

    async def give(self) -> None:
        self.held -= 1

    async def commit(self, group: list[WriteCall]) -> MoveMark | None:
        if self.pause is not None:
            return self.pause
        (call, *_) = group
        if isinstance(call, Slow) and not call.begins:
            self.polls += 1
            await call.go_on.wait()
        if not call.begin():
            return None
        if isinstance(call, Slow):
            await call.go_on.wait()
        call.succeed("done")
        raise StoreUnreachableError("toy://", "no commit")

    def joins(self, group: list[WriteCall], call: WriteCall, size: int) -> bool:
        return True

    async def pause_is_over(self, pause: MoveMark) -> bool:
        self.polls += 1
        if self.polls == 3:
            self.pause = None
        return self.pause is None

    async def end_pause(self, pause: MoveMark) -> None:
        raise AssertionError("there is no pause")


@pytest.mark.parametrize("fails_to_lock", [False, True])
async def test_each_call_that_failed_commit_left_gets_copy_of_error(fails_to_lock: bool) -> None:
    committer = Failing()
    committer.fails_to_lock = fails_to_lock
    commits = GroupCommit(committer, Gate("full"))
    waiting = (commits.run(WriteCall(), Deadline(60)) for _ in range(3))
    first, *others = await asyncio.gather(*waiting, return_exceptions=True)
    if fails_to_lock:
        others.append(first)
    else:
        assert first == "done"
    assert {type(error) for error in others} == {StoreUnreachableError}
    assert {str(error) for error in others} == {str(others[0])}
    assert len({id(error) for error in others}) == len(others)
    await commits.finish()
    assert (committer.held, commits.idle) == (0, True)


async def test_a_write_looks_at_a_pause_now_and_then() -> None:
    committer = Failing()
    committer.pause = MoveMark("r1", "paused", pause="p1", limit=60.0)
    began = asyncio.get_running_loop().time()
    assert await GroupCommit(committer, Gate("full")).run(WriteCall(), Deadline(60)) == "done"
    assert committer.polls == 3
    took = asyncio.get_running_loop().time() - began  # by a clock of whole milliseconds
    assert took >= 1.9 * committer.pause_poll


async def test_a_cancelled_write_returns_once_its_outcome_is_final() -> None:
    """At once if it has not begun; it then never begins."""
    commits = GroupCommit(Failing(), Gate("full"))
    call, behind = Slow(), WriteCall()
    running = asyncio.ensure_future(commits.run(call, Deadline(60)))
    await until(lambda: call.has_begun)
    waiting = asyncio.ensure_future(commits.run(behind, Deadline(60)))
    await asyncio.sleep(0)
    for _ in range(2):
        for task in (running, waiting):
            task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (running.done(), waiting.cancelled()) == (False, True)
    call.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert call.ended
    await commits.finish()
    assert not behind.ended


async def test_a_write_that_is_cancelled_before_its_group_begins_it_is_never_done() -> None:
    committer = Failing()
    commits = GroupCommit(committer, Gate("full"))
    call = Slow(begins=False)
    running = asyncio.ensure_future(commits.run(call, Deadline(60)))
    await until(lambda: committer.polls)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    call.go_on.set()
    await commits.finish()
    assert not call.ended


async def test_a_write_that_waits_for_another_gives_up_at_its_deadline() -> None:
    """The one that has begun does not, and the other is never done."""
    commits = GroupCommit(Failing(), Gate("full"))
    call, behind = Slow(), WriteCall()
    running = asyncio.ensure_future(commits.run(call, Deadline(0)))
    await until(lambda: call.has_begun)
    with pytest.raises(StoreBusyError, match="other writes of this process take too long"):
        await commits.run(behind, Deadline(0))
    assert not behind.begin()
    call.go_on.set()
    assert await running == "done"
    await commits.finish()
