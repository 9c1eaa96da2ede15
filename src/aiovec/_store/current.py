"""The backend that a store speaks to now, and the change to another one.

Calls take the engine for their time; an engine that was replaced closes when the last call has
left it. So a store can follow a switched TOML while calls are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from .._telemetry.calls import place_of
from ..backend.conditions import TableChangedError, state_of, wanted_state
from ..backend.contract import Backend, StaleTableError, TableHandle, moves_of
from ..backend.marks import MOVED, MoveMark
from ..backend.pool import in_thread
from ..backend.threads import Background, PerLoop, to_its_end
from ..errors import (
    ConfigError,
    CorruptStoreError,
    DimensionMismatchError,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    MigrationError,
    ModelMismatchError,
    StoreBusyError,
    StoreClosedError,
    StoreMovedError,
    StoreReplacedError,
    UnsupportedError,
)

if TYPE_CHECKING:
    import anyio

    from ..backend.config import RetrievalSettings
    from ..backend.origin import Origin, Resolved

LOG = logging.getLogger("aiovec")

REFUSALS = (
    DimensionMismatchError, FilterError, InvalidArgumentError, InvalidNameError, InvalidRowError,
    ModelMismatchError, UnsupportedError,
)  # fmt: skip
"""Errors of calls that do not fit the table's schema. Another process may have altered it."""

# How old, in seconds, a look at the TOML may be. One look costs a hop to a thread.
_LOOK_EVERY = 1.0
# How often a call begins anew because its table was altered meanwhile.
_MOST_ATTEMPTS = 20


class Engine:
    """A backend in use, with its settings, its tables' handles and the number of calls on it."""

    def __init__(self, backend: Backend, settings: RetrievalSettings) -> None:
        self.backend = backend
        self.settings = settings
        self.place = place_of(backend.name, backend.target)
        self._handles: dict[str, TableHandle] = {}
        self._states: dict[str, tuple[TableHandle, str]] = {}
        self._calls = PerLoop(Calls)

    async def open_table(self, name: str, *, fresh: bool = False) -> TableHandle:
        """The table's handle, from memory unless a ``fresh`` one is wanted."""
        handle = None if fresh else self._handles.get(name)
        if handle is None:
            self._handles.pop(name, None)
            handle = self._handles[name] = await self.backend.open_table(name)
            fresh = True
        wanted = wanted_state()
        if wanted is None or wanted == self.state_of(handle):
            return handle
        if fresh:
            raise TableChangedError(name)
        return await self.open_table(name, fresh=True)

    async def check_current(self, handle: TableHandle) -> None:
        """Raise StaleTableError where the table is no longer what the handle says.

        For a call that was refused by that, before the backend saw it.
        """
        if (await self.backend.open_table(handle.name)).token != handle.token:
            raise StaleTableError(handle.name)

    def state_of(self, handle: TableHandle) -> str:
        """The name of the state that a handle stands for."""
        known = self._states.get(handle.name)
        if known is None or known[0] is not handle:
            known = self._states[handle.name] = (handle, state_of(handle))
        return known[1]

    def forget(self, name: str) -> None:
        self._handles.pop(name, None)
        self._states.pop(name, None)

    def forget_all(self) -> None:
        self._handles.clear()
        self._states.clear()

    def enter(self) -> Calls:
        """Keep it from being closed until ``leave`` of what this gives is called."""
        calls = self._calls()
        calls.enter()
        return calls

    async def idle(self) -> None:
        """Wait until the last call has left it."""
        await self._calls().idle.wait()

    async def close(self) -> None:
        """Close it now, which ends the calls on it; nobody waits for them any more."""
        try:
            await self.backend.close()
        finally:
            self._calls().idle.set()


class Calls:
    """The number of calls of one event loop that use an engine."""

    __slots__ = ("_number", "idle")

    def __init__(self) -> None:
        self._number = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def enter(self) -> None:
        self._number += 1
        self.idle.clear()

    def leave(self) -> None:
        self._number -= 1
        if not self._number:
            self.idle.set()


class Attempt:
    """One try of a call. Swallows the failure that a further try can mend."""

    def __init__(self, follower: Follower, number: int) -> None:
        self._follower = follower
        self._number = number
        self._committed = False
        self._engine: Engine | None = None
        self._calls: Calls | None = None

    def commit(self) -> None:
        """From here on the call cannot be repeated."""
        self._committed = True

    async def __aenter__(self) -> Engine:
        await self._follower.look()
        self._engine = self._follower.engine
        self._calls = self._engine.enter()
        return self._engine

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        engine = self._engine
        if engine is None or self._calls is None:
            return False
        self._calls.leave()
        if isinstance(error, StaleTableError):
            engine.forget_all()
            if self._committed or self._number == _MOST_ATTEMPTS:
                raise StoreBusyError("the table is being altered all the time", 0.0) from error
            return True
        if isinstance(error, StoreMovedError) and not self._committed:
            if self._number == _MOST_ATTEMPTS:
                return False
            return await self._follower.follow(engine, error)
        return False


class Follower:
    """Holds the engine in use and replaces it when the TOML names another, or when the mark of
    a migration in the store in use does. The mark counts for more than the TOML."""

    def __init__(
        self, engine: Engine, source: Origin | None, threads: PerLoop[anyio.CapacityLimiter]
    ) -> None:
        self.engine = engine
        self._source = source
        self._threads = threads
        self._next_look = time.monotonic() + _LOOK_EVERY
        self._looking: asyncio.Task[None] | None = None
        self._switching = PerLoop(asyncio.Lock)
        self._retired: list[Engine] = []
        self._closing = Background()
        self._complaint = ""
        self._finishing: asyncio.Task[None] | None = None
        self._closed = False
        self._preparing: asyncio.Task[None] | None = None
        self._prepared_for = ""

    def attempts(self) -> Iterator[Attempt]:
        for number in range(1, _MOST_ATTEMPTS + 1):
            yield Attempt(self, number)

    async def look(self, *, now: bool = False) -> None:
        """Follow the TOML if it changed. Costs nothing where the last look is recent.

        Calls that come while a look is under way wait for it: none of them may go on with a
        store that is about to be replaced. A TOML that cannot be read for now leaves the store
        where it is; one that names a backend that cannot be opened raises, since going on would
        write where nobody will look.
        """
        if self._source is None or self._closed:
            return
        looking = _of_this_loop(self._looking)
        if looking is None:
            if not now and time.monotonic() < self._next_look:
                return
            self._looking = looking = asyncio.ensure_future(self._look(self._source))
            looking.add_done_callback(self._has_looked)
        await asyncio.shield(looking)

    async def _look(self, source: Origin) -> None:
        async with self._switching():
            if await in_thread(source.changed, limit=self._threads()):
                await self._switch(source)
        self._next_look = time.monotonic() + _LOOK_EVERY
        self._prepare(source)

    def _has_looked(self, task: asyncio.Task[None]) -> None:
        if self._looking is task:
            self._looking = None
        if not task.cancelled():
            task.exception()  # those who waited have it

    def _prepare(self, source: Origin) -> None:
        """Look in the background whether a migration is about to lead elsewhere."""
        moves = moves_of(self.engine.backend)
        if moves is not None and _of_this_loop(self._preparing) is None and not self._closed:
            self._preparing = asyncio.ensure_future(self._load_what_comes(moves, source))
            self._preparing.add_done_callback(self._has_prepared)

    def _has_prepared(self, task: asyncio.Task[None]) -> None:
        self._preparing = None
        if not task.cancelled():
            task.exception()  # whatever it is, the first call behind the cut-over will tell

    async def _load_what_comes(self, backend: Backend, source: Origin) -> None:
        """Open the backend to which a migration will lead once, and close it again.

        What its driver takes to be imported is otherwise what the first call behind the cut-over
        takes, and many processes would do it at the same moment.
        """
        # Whatever fails, the first call behind the cut-over will tell.
        with contextlib.suppress(Exception):
            mark = await backend.move_mark()
            if mark is None or not mark.backend or mark.run == self._prepared_for:
                return
            self._prepared_for = mark.run
            coming = await in_thread(
                source.foresee, mark.backend, mark.config, limit=self._threads()
            )
            if coming is not None:
                try:
                    await coming.open()
                finally:
                    await to_its_end(coming.close())

    async def follow(self, left: Engine, moved: StoreMovedError) -> bool:
        """Go where the store in use has moved to; whether the call is to be tried again.

        What counts is the mark in the store in use. The error may be older: it may come from an
        engine that was replaced meanwhile, by one that a rollback has put into use again.
        """
        source = self._source
        if source is None or self._closed:
            return False
        async with self._switching():
            if self.engine is not left:
                return True
            mark = await self._mark(moved)
            if mark is None:
                return True
            resolved = await in_thread(
                source.resolve_moved, mark.backend, mark.config, limit=self._threads()
            )
            if resolved is None:
                return False
            await self._use(resolved, source, mark)
        return True

    async def _mark(self, moved: StoreMovedError | None = None) -> MoveMark | None:
        """The mark by which the store in use leads elsewhere; None where it does not."""
        moves = moves_of(self.engine.backend)
        if moves is not None:
            mark = await moves.move_mark()
            return mark if mark is not None and mark.left else None
        if moved is None:
            return None
        return MoveMark(
            "", MOVED, moved.moved_to, moved.backend, moved.config, generation=moved.generation
        )

    async def _switch(self, source: Origin) -> None:
        try:
            resolved = await in_thread(source.resolve, limit=self._threads())
        except ConfigError as exc:
            if str(exc) != self._complaint:  # it is tried again every second
                self._complaint = str(exc)
                text = "the changed TOML cannot be used; the store stays where it is: %s"
                await self._log(logging.WARNING, text, exc)
            return
        self._complaint = ""
        if resolved is None:
            return
        try:
            mark = await self._mark()
        except (CorruptStoreError, StoreReplacedError):
            mark = None  # it is gone, and by the TOML its users leave it
        leads = mark is not None and mark.backend == resolved.configured
        await self._use(resolved, source, mark if leads else None)

    async def _use(self, resolved: Resolved, source: Origin, mark: MoveMark | None) -> None:
        """Replace the engine. ``mark`` is the one that has led there, where one has."""
        backend = resolved.backend
        try:
            by_toml = True
            if mark is not None:
                by_toml = await in_thread(
                    _check_place, mark, self.engine.backend, resolved, source, limit=self._threads()
                )
            await backend.open()
            moves = moves_of(backend)
            if mark is not None and moves is not None:
                reads = backend.read_only
                if not mark.leads_to(await moves.move_record()):
                    if not by_toml:
                        raise _lost_error(mark, self.engine.backend)
                elif not reads:
                    # The migrator may have been killed before it could do so. Who only reads leaves
                    # it to those who write: all rows have been there since the mark.
                    await moves.arrive(mark.run, mark.generation)
        except BaseException:
            await to_its_end(backend.close())
            raise
        if self._closed:
            await to_its_end(backend.close())
            raise StoreClosedError(backend.target)
        retired, self.engine = self.engine, Engine(backend, resolved.settings)
        source.settle(resolved)
        self._retired.append(retired)
        self._closing.start(self._close_retired(retired))
        text = (
            "following the TOML from %s to %s"
            if mark is None
            else "following a migration from %s to %s"
        )
        await self._log(logging.INFO, text, retired.backend.target, backend.target)

    async def _log(self, level: int, text: str, *facts: object) -> None:
        """In a thread: the handlers that an app attached may wait for a file or a terminal."""
        if LOG.isEnabledFor(level):
            await in_thread(LOG.log, level, text, *facts, limit=self._threads())

    async def close(self, *, finish: bool) -> None:
        """Close the backend; with ``finish``, after the upkeep that is due."""
        self._closed = True
        if (preparing := _of_this_loop(self._preparing)) is not None:
            preparing.cancel()
            await asyncio.wait([preparing])
        if (looking := _of_this_loop(self._looking)) is not None:
            await asyncio.wait([looking])
        retired, self._retired = self._retired, []
        async with contextlib.AsyncExitStack() as closing:  # each, whatever the others raise
            closing.push_async_callback(self._closing.wait)
            for engine in (self.engine, *retired):
                closing.push_async_callback(engine.close)
            if finish:
                await self._finish()

    async def _close_retired(self, engine: Engine) -> None:
        await engine.idle()
        if engine in self._retired:
            self._retired.remove(engine)
            await engine.close()

    async def _finish(self) -> None:
        self._finishing = asyncio.ensure_future(self.engine.backend.finish())
        try:
            await asyncio.wait([self._finishing])
        finally:
            self.hurry()

    def hurry(self) -> None:
        """End the upkeep that a ``close`` does, if any is under way: nobody waits for it."""
        if self._finishing is not None:
            self._finishing.cancel()


def _check_place(mark: MoveMark, left: Backend, resolved: Resolved, source: Origin) -> bool:
    """Return whether the TOML itself names the place to which a mark leads. Reads the disk.

    StoreMovedError where the settings lead elsewhere than the mark: an environment variable may
    hold another place under the backend's name, and going on there would write into a store to
    which nothing was moved. MigrationError where the mark alone leads there, and nothing is there.
    """
    by_toml = source.leads_to(resolved)
    _check_same(mark, left, resolved.backend)
    if mark.target_marked and not by_toml and not resolved.exists():
        raise _lost_error(mark, left)
    return by_toml


def _lost_error(mark: MoveMark, left: Backend) -> MigrationError:
    """The error where what is found is not the store into which a run has carried the rows."""
    return MigrationError(
        f"the store {left.target} has moved to {mark.moved_to} (run {mark.run}), and what is there "
        "is not the store to which its rows were carried: that was replaced, emptied or removed, "
        "or its disk is missing. Put it back, or, if this is the right one, name its backend in "
        f"the TOML file; if it is lost, {left.target} has the rows from before the switch: end the "
        "run (aiovec migrate finish; a rollback: abort)"
    )


def _check_same(mark: MoveMark, left: Backend, found: Backend) -> None:
    if not mark.target or mark.target == found.target:
        return
    if "://" not in mark.target + found.target and (
        os.path.realpath(mark.target) == os.path.realpath(found.target)
    ):
        return
    raise StoreMovedError(
        left.target,
        mark.moved_to,
        backend=mark.backend,
        config=mark.config,
        generation=mark.generation,
        reason=f"the settings of this process lead to {found.target} instead: correct the "
        "environment variable or the TOML file that says so",
    )


def _of_this_loop(task: asyncio.Task[None] | None) -> asyncio.Task[None] | None:
    """The task, unless it belongs to an event loop that has ended and will never go on."""
    if task is None or task.get_loop() is not asyncio.get_running_loop():
        return None
    return task
