"""Bounds on the waiting of calls and on what runs at once, and work in threads."""

from __future__ import annotations

import asyncio
import threading
from asyncio import Event, create_task, sleep
from contextlib import suppress

import anyio
import pytest

from aiovec import AiovecError, StoreBusyError, StoreClosedError, StoreFullError
from aiovec.backend.limits import Deadline, Gate, Steps, current_deadline
from aiovec.backend.threads import in_thread


class Room:
    """Calls that come through a gate and stay until they are told to leave."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.within: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, Event] = {}

    async def enter(self, name: str, size: int = 0, seconds: float | None = None) -> None:
        self._leave[name] = Event()
        self.tasks[name] = create_task(self._stay(name, size, Deadline(seconds)))
        await sleep(0)

    async def _stay(self, name: str, size: int, deadline: Deadline) -> None:
        async with self.gate.enter(deadline, size):
            self.within.append(name)
            await self._leave[name].wait()
            self.within.remove(name)

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await self.tasks[name]
        await sleep(0)


async def test_a_gate_lets_in_so_many_calls_in_their_order() -> None:
    room = Room(Gate("full", calls=2))
    for name in "abcd":
        await room.enter(name)
    assert room.within == ["a", "b"]
    await room.leave("b")
    assert room.within == ["a", "c"]
    room.tasks["d"].cancel()
    with suppress(asyncio.CancelledError):
        await room.tasks["d"]
    await room.leave("a")
    await room.enter("e")
    assert room.within == ["c", "e"]


async def test_a_call_that_needs_more_memory_than_there_is_runs_alone() -> None:
    gate = Gate("full", memory=10)
    room = Room(gate)
    for name, size in {"a": 4, "b": 100, "c": 1}.items():
        await room.enter(name, size)
    assert room.within == ["a"]
    await room.leave("a")
    assert room.within == ["b"]
    await room.leave("b")
    assert room.within == ["c"]
    assert gate.used == 1


async def test_a_call_cancelled_when_it_is_let_in_gives_its_place_back() -> None:
    gate = Gate("full", calls=1)
    room = Room(gate)
    await room.enter("a")
    await room.enter("b")
    room._leave["a"].set()
    await sleep(0)  # a has left, and b's turn is set
    room.tasks["b"].cancel()
    await asyncio.wait([room.tasks["b"]])
    assert gate.free()


async def test_a_call_waits_to_its_deadline_and_a_free_gate_has_none() -> None:
    room = Room(Gate("full", calls=1))
    await room.enter("a", seconds=0)
    await sleep(0.4)
    assert room.within == ["a"]
    await room.enter("late", seconds=0)
    with pytest.raises(StoreBusyError, match="full") as caught:
        await room.tasks["late"]
    assert caught.value.waited >= 0.2
    await room.leave("a")
    over = Deadline(0)
    await sleep(0.4)
    assert over.left() < 0
    async with room.gate.enter(over):
        pass


async def test_a_pause_extends_a_deadline_once() -> None:
    deadline = Deadline(0)
    before = deadline.left()
    deadline.extend(60)
    deadline.extend(60)
    assert before < 1 < deadline.left() < 61


async def test_so_many_calls_wait() -> None:
    room = Room(Gate("full", calls=1, max_waiting=1))
    await room.enter("a")
    await room.enter("b")
    await room.enter("c")
    with pytest.raises(StoreBusyError):
        await room.tasks["c"]
    await room.leave("a")
    assert room.within == ["b"]


async def test_a_gate_that_closes_ends_those_who_wait() -> None:
    room = Room(Gate("full", calls=1))
    for name in "abc":
        await room.enter(name)
    room.gate.close(StoreClosedError("x"))
    for name in "bc":
        with pytest.raises(StoreClosedError):
            await room.tasks[name]
    await room.leave("a")
    assert room.gate.free()


async def test_a_task_that_a_call_begins_is_no_part_of_it() -> None:
    async def seconds() -> float:
        return current_deadline(5).seconds

    with Deadline(60) as deadline:
        assert current_deadline(5) is deadline
        assert await seconds() == 60
        assert await create_task(seconds()) == 5
    assert current_deadline(5) is not deadline


async def test_the_error_of_a_later_step_says_that_earlier_ones_are_kept() -> None:
    async def fail(error: AiovecError) -> None:
        raise error

    for error in (StoreBusyError("busy", 1.0), StoreFullError("x", "full")):
        step = Steps()
        for in_part in (False, True):
            with pytest.raises(type(error)) as caught:
                await step(fail(error))
            assert caught.value.in_part is in_part
            await step(sleep(0))


@pytest.mark.parametrize("stops", [True, False])
async def test_a_cancelled_call_waits_for_the_end_of_its_thread(stops: bool) -> None:
    begun, end = threading.Event(), threading.Event()
    ended = False

    def work() -> None:
        nonlocal ended
        begun.set()
        assert end.wait(60)
        ended = True

    with anyio.CancelScope() as scope:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(in_thread(work, stop=end.set if stops else None))
            assert await asyncio.to_thread(begun.wait, 60)
            call.cancel()
            scope.cancel()
            if not stops:
                asyncio.get_running_loop().call_later(0.05, end.set)
    assert ended
    assert call.cancelled()
