"""Bounds on the waiting of calls and on what runs at once, and work in threads."""

from __future__ import annotations

import asyncio
import threading
from asyncio import Event, create_task, sleep

import anyio
import pytest

from aiovec import StoreBusyError, StoreClosedError
from aiovec.backend.limits import Deadline, Gate, current_deadline
from aiovec.backend.threads import in_thread


class Room:
    """Calls that come through a gate and stay until they may leave."""

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


async def test_a_gate_admits_calls_in_order_up_to_its_limit() -> None:
    """A call that is cancelled, while it waits or as it is let in, takes no place."""
    room = Room(Gate("full", calls=2, max_waiting=2))
    for name in "abcde":
        await room.enter(name)
    with pytest.raises(StoreBusyError):  # two wait already
        await room.tasks["e"]
    await room.leave("b")
    room.tasks["d"].cancel()
    await room.leave("a")
    await room.enter("f")
    await room.enter("g")
    assert room.within == ["c", "f"]
    room._leave["c"].set()
    await sleep(0)  # c has left, and g's turn is set
    room.tasks["g"].cancel()
    await room.leave("f")
    assert room.gate.free()


async def test_a_call_that_needs_more_memory_than_there_is_runs_alone() -> None:
    room = Room(Gate("full", memory=10))
    for name, size in {"a": 4, "b": 100, "c": 1}.items():
        await room.enter(name, size)
    for name in "abc":
        assert room.within == [name]
        await room.leave(name)
    assert room.gate.used == 0


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


async def test_a_gate_that_closes_ends_the_waiting_calls() -> None:
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
