"""An event loop without threads, real time and chance: one seed is one course of events.

Of the callbacks that are ready it runs one at random, each takes a little time of the loop's own
clock, and when nothing is ready the clock jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

# A run that takes more callbacks than this turns in a circle.
_MOST_TURNS = 2_000_000


class Process:
    """Tasks that live and die together, as those of an operating system's process do."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.buried = False
        self.left: list[asyncio.Handle] = []
        """The callbacks that would have run next when it was killed."""
        self.turns = 0
        self.doom: int | None = None
        """After so many turns it is killed."""
        self.at_kill: list[Callable[[], None]] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def kill(self) -> None:
        """From now on nothing of it runs, no ``finally`` either."""
        if not self.alive:
            return
        self.alive = False
        for release in self.at_kill:
            release()

    def check_alive(self) -> None:
        """For what belongs to the world outside: the dead must not touch it when they are buried.

        Their tasks have to end for the sake of Python, and they end by this.
        """
        if not self.alive:
            raise asyncio.CancelledError


OUTSIDE = Process("outside")
_CURRENT: contextvars.ContextVar[Process] = contextvars.ContextVar("process", default=OUTSIDE)


def current_process() -> Process:
    return _CURRENT.get()


class DeadlockError(Exception):
    """Nothing can ever happen again, or too much, and the main task has not ended."""


class SimulatedLoop(asyncio.BaseEventLoop):
    # It takes over how asyncio's own base loop picks what runs next, which has been the same
    # private method in every version of Python.
    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._chance = random.Random(f"loop {seed}")
        self._clock = 0.0
        self._step = self._chance.choice([0.0, 0.0001, 0.002])
        self.turns = 0
        self.abandoned: list[str] = []
        """Asynchronous generators that were left without being closed: they hold snapshots."""
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        return self._clock

    def start(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this process; what it starts belongs there too."""
        context = contextvars.copy_context()
        context.run(_CURRENT.set, process)
        return self.create_task(work, context=context)

    async def bury(self, process: Process) -> None:
        """Let the tasks of a killed process end, after all that counts is over."""
        process.buried = True
        self._ready.extend(process.left)
        for task in process.tasks:
            task.cancel()
        for _ in range(10_000):
            left = [task for task in process.tasks if not task.done()]
            if not left:
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError(f"a cancelled task did not end: {left}")
        for task in process.tasks:
            if not task.cancelled():
                task.exception()  # so that nobody complains that it was never looked at

    def _new_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Any,
        *,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, context=context, **options)
        process = _CURRENT.get() if context is None else context.get(_CURRENT, OUTSIDE)
        # Held here, since the tasks of a killed process must not be collected.
        process.tasks.append(task)
        return task

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > _MOST_TURNS:
            raise DeadlockError("it goes on without an end")
        if not self._ready:
            self._drop_cancelled()
            if not self._scheduled:
                raise DeadlockError("nothing will ever happen again")
            self._clock = max(self._clock, self._scheduled[0].when())
        while self._scheduled and self._scheduled[0].when() <= self._clock:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(timer)
        place = self._chance.randrange(len(self._ready))
        handle = self._ready[place]
        del self._ready[place]
        if self._step:
            self._clock += self._chance.random() * self._step
        if not handle._cancelled and self._lives(handle):
            handle._run()

    def _lives(self, handle: asyncio.Handle) -> bool:
        process: Process = handle._context.get(_CURRENT, OUTSIDE)  # type: ignore[attr-defined]
        process.turns += 1
        if process.turns == process.doom:
            process.kill()
        if process.alive or process.buried:
            return True
        process.left.append(handle)
        return False

    def _drop_cancelled(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        # asyncio's own would close it later, whenever Python collects it: no seed decides when.
        self.abandoned.append(agen.__qualname__)

    # What must not happen in a simulation

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:
        raise AssertionError(f"{func} was to run in a thread")

    def call_soon_threadsafe(self, callback: Any, *args: Any, **options: Any) -> NoReturn:
        raise AssertionError(f"{callback} comes from a thread")

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...
