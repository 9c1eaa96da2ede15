"""The one group commit: order, errors, deadlines, and a cancellation at every await, once or more.

The committer here is a stand-in whose "store" is a list, with an await wherever an adapter has one.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.contract.cancellation import STOPS, stopped_at

from aiovec import StoreBusyError, StoreClosedError
from aiovec.backend import (
    PAUSED,
    Committer,
    GroupCommit,
    Held,
    MoveMark,
    Patience,
    Pauses,
    Unstoppable,
    WriteCall,
)

# Awaits of a run that are interrupted; no run here has so many.
MOST = 40


class Call(WriteCall):
    __slots__ = ("__weakref__", "fails", "name")

    def __init__(self, name: str, size: int = 1, *, fails: bool = False) -> None:
        super().__init__(size)
        self.name = name
        self.fails = fails


class Store(Committer[Call]):
    """Keeps the names of committed calls. ``begins_late`` has calls begin behind an await."""

    target = "the store"
    others = "somebody else"
    pause_poll = 0.0

    def __init__(self, *, begins_late: bool = False) -> None:
        self.kept: list[str] = []
        self.groups: list[list[str]] = []
        self.begins_late = begins_late
        self.held = False
        self.free = True
        self.pauses_left = 0
        self.pause: MoveMark | None = None
        self.pauses_ended = 0
        self.again: set[str] = set()
        self.broken: Exception | None = None

    async def take(self) -> Callable[[], None] | None:
        for _ in range(4):
            await asyncio.sleep(0)
        assert not self.held
        if self.broken is not None:
            raise self.broken
        if not self.free:
            return None
        self.held = True
        return self.release

    def release(self) -> None:
        assert self.held
        self.held = False

    def joins(self, group: list[Call], call: Call, size: int) -> bool:
        return size <= 10

    async def commit(self, group: list[Call]) -> Held | None:
        assert self.held
        if self.pause is not None:
            return Held(self.pause)
        await Unstoppable(self._do(group))
        return None

    async def _do(self, group: list[Call]) -> None:
        if self.begins_late:
            await asyncio.sleep(0)
        begun = [call for call in group if call.begin()]
        await asyncio.sleep(0)
        for call in [call for call in begun if call.name in self.again]:
            self.again.remove(call.name)
            begun.remove(call)
            call.wait_again()
        done = [call for call in begun if not call.fails]
        self.kept += [call.name for call in done]
        self.groups.append([call.name for call in done])
        await asyncio.sleep(0)
        for call in begun:
            if call.fails:
                call.fail(LookupError(call.name))
            else:
                call.succeed(call.name)

    async def pause_is_over(self, pause: MoveMark) -> bool:
        await asyncio.sleep(0)
        self.pauses_left -= 1
        if self.pauses_left <= 0:
            self.pause = None
        return self.pause is None

    async def end_pause(self, pause: MoveMark) -> None:
        self.pauses_ended += 1
        self.pause = None


def commits(store: Store, pauses: Pauses | None = None) -> GroupCommit[Call]:
    return GroupCommit(store, pauses or Pauses())


def run(group: GroupCommit[Call], name: str, **options: Any) -> Coroutine[Any, Any, Any]:
    async def call() -> Any:
        return await group.run(Call(name, **options), Patience(60))

    return call()


async def test_calls_that_wait_share_a_commit_in_their_order() -> None:
    store = Store()
    group = commits(store)
    assert await asyncio.gather(*(run(group, f"{n}") for n in range(25))) == [
        f"{n}" for n in range(25)
    ]
    assert store.kept == [f"{n}" for n in range(25)]
    assert [len(names) for names in store.groups] == [10, 10, 5]
    await group.finish()


async def test_an_error_is_its_calls_alone() -> None:
    store = Store()
    group = commits(store)
    found = await asyncio.gather(
        run(group, "a"), run(group, "b", fails=True), run(group, "c"), return_exceptions=True
    )
    assert found[::2] == ["a", "c"]
    assert isinstance(found[1], LookupError)


async def test_where_the_lock_fails_each_caller_gets_an_error_of_its_own() -> None:
    store = Store()
    store.broken = OSError("the disk is gone")
    group = commits(store)
    found = await asyncio.gather(*(run(group, f"{n}") for n in range(3)), return_exceptions=True)
    assert all(isinstance(error, OSError) for error in found)
    assert len(set(map(id, found))) == 3
    store.broken = None
    assert await run(group, "later") == "later"


async def test_out_of_time_behind_the_lock_or_behind_others() -> None:
    store = Store()
    store.free = False
    group = commits(store)
    with pytest.raises(StoreBusyError, match="the store is locked by somebody else"):
        await group.run(Call("a"), Patience(0))
    await group.finish()
    store.free = True
    assert await run(group, "b") == "b"
    assert store.kept == ["b"]


async def test_a_call_that_waits_again_when_its_time_is_over_fails() -> None:
    looked = asyncio.Event()

    class Watched(Call):
        def give_up(self, error: BaseException) -> bool:
            looked.set()
            return super().give_up(error)

    class Refused(Store):
        async def _do(self, group: list[Call]) -> None:
            assert [call.begin() for call in group] == [True]
            await looked.wait()
            group[0].wait_again()
            self.free = False

    store = Refused()
    group = commits(store)
    async with asyncio.timeout(20):
        with pytest.raises(StoreBusyError, match="the store is locked by somebody else"):
            await group.run(Watched("a"), Patience(0))
    await group.finish()
    assert not store.held
    assert not group.waiting


async def test_a_pause_is_waited_out_and_ended_where_it_lasts_too_long() -> None:
    for limit, ended in ((60.0, 0), (0.0, 1)):
        store, pauses = Store(), Pauses()
        store.pause, store.pauses_left = MoveMark("run", PAUSED, limit=limit), 5
        assert await run(commits(store, pauses), "a") == "a"
        assert store.pauses_ended == ended
        assert store.kept == ["a"]


async def test_a_loop_that_ends_answers_what_has_begun() -> None:
    """Every task is cancelled, the group commit's own with them; the store serves the next loop."""
    for at in range(12):
        store = Store()
        group = commits(store)
        tasks = [asyncio.ensure_future(run(group, f"{n}")) for n in range(3)]
        for _ in range(at):
            await asyncio.sleep(0)
        running = group._queue().running
        for task in [*tasks, *([running] if running else [])]:
            task.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait(tasks)
            await group.finish()
        assert not store.held
        for n, task in enumerate(tasks):
            if not task.cancelled():
                assert task.result() == f"{n}"
                assert f"{n}" in store.kept
        assert await run(group, "later") == "later"


async def test_an_end_without_a_word_fails_those_who_wait() -> None:
    class Broken(Store):
        async def commit(self, group: list[Call]) -> Held | None:
            raise KeyboardInterrupt

    store = Broken()
    group = commits(store)
    queue = group._queue()
    ended = asyncio.get_running_loop().create_future()
    ended.set_result(None)
    queue.running = ended  # type: ignore[assignment]  # so that no task begins of itself
    call = Call("a")
    queue.calls.append(call)
    with pytest.raises(KeyboardInterrupt):
        await group._drain(queue)
    assert call.future.done()
    with pytest.raises(StoreClosedError):
        call.outcome()
    assert call.settled.done()
    assert not store.held


def plain(_: Store) -> None: ...


def locked(store: Store) -> None:
    store.free = False

    def unlock() -> None:
        store.free = True

    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, loop.call_soon, unlock)


def paused(store: Store) -> None:
    store.pause, store.pauses_left = MoveMark("run", PAUSED, limit=60), 3


def done_anew(store: Store) -> None:
    store.again = {"victim", "before"}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("stop", list(STOPS))
@pytest.mark.parametrize("way", [plain, locked, paused, done_anew])
async def test_cancelled_at_every_await(
    way: Callable[[Store], None], stop: str, late: bool
) -> None:
    """Wholly done or not at all, settled when the call returns, and the others as ever.

    The caller itself awaits one future while the committer goes from await to await, so the moments
    are rounds of the event loop.
    """
    outcomes = set()
    for at in range(MOST):
        store = Store(begins_late=late)
        group = commits(store)
        way(store)

        before = asyncio.ensure_future(run(group, "before"))
        victim = asyncio.ensure_future(stopped_at(run(group, "victim"), 1, _after(at, STOPS[stop])))
        after = asyncio.ensure_future(run(group, "after"))
        async with asyncio.timeout(20):
            _, returned = await victim
            settled = "victim" in store.kept
            assert settled or not returned
            assert await before == "before"
            assert await after == "after"
            assert await run(group, "later") == "later"
            await group.finish()
        assert ("victim" in store.kept) == settled
        assert sorted({*store.kept} - {"victim"}) == ["after", "before", "later"]
        assert len(store.kept) == len({*store.kept})
        assert not store.held
        assert not group.waiting
        outcomes.add((returned, settled))
    # Cancelled before it began, behind that, and too late.
    assert outcomes == {(False, False), (False, True), (True, True)}


def _after(rounds: int, stop: Any) -> Any:
    """Interrupt after some rounds of the loop."""

    def later(task: asyncio.Task[Any], scope: Any, left: int = rounds) -> None:
        if task.done():
            return
        if left:
            asyncio.get_running_loop().call_soon(later, task, scope, left - 1)
        else:
            stop(task, scope)

    return later


async def test_a_commit_begins_as_soon_as_those_who_write_again_are_back() -> None:
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    class Counted(Store):
        taken = 0

        async def take(self) -> Callable[[], None] | None:
            self.taken = rounds
            return await super().take()

    store = Counted()
    group = commits(store)
    counting = asyncio.ensure_future(count())

    async def write(name: str) -> list[int]:
        waited = []
        for number in range(4):
            came = rounds
            await run(group, f"{name}{number}")
            waited.append(store.taken - came)
        return waited

    waited = [await write("a")]
    waited += await asyncio.gather(*map(write, "bcd"))
    counting.cancel()
    assert [len(names) for names in store.groups] == [1] * 4 + [3] * 4
    assert all(one <= 1 for each in waited for one in each[1:])
    await group.finish()


@pytest.mark.parametrize("why", ["it fails", "nobody has the lock in time", "the lock is broken"])
async def test_the_error_of_a_call_is_gone_with_its_caller(why: str) -> None:
    """Else the garbage collector has to look for it, with the rows of the call."""
    store = Store()
    store.free = why != "nobody has the lock in time"
    store.broken = OSError("broken") if why == "the lock is broken" else None
    group = commits(store)
    call = Call("a", fails=True)
    left: list[weakref.ref[Any]] = [weakref.ref(call)]
    gc.collect()
    gc.disable()
    try:
        try:
            await group.run(call, Patience(0))
        except (LookupError, StoreBusyError, OSError) as exc:
            if isinstance(exc, StoreBusyError):  # others take no weak references
                left.append(weakref.ref(exc))
        else:
            pytest.fail("it did not fail")
        del call
        store.broken = None
        store.free = True
        await group.finish()
        assert [one() for one in left] == [None] * len(left)
    finally:
        gc.enable()
