"""The backend that a store speaks to now, and the change to another one.

Calls take the engine for their time; an engine that was replaced closes when the last call has
left it. So a store can follow a switched TOML while calls are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import anyio.to_thread

from .backend import Backend, Moves, StaleTableError, TableHandle
from .errors import (
    AiovecError,
    ConfigError,
    StoreBusyError,
    StoreClosedError,
    StoreMovedError,
)
from .telemetry import Place
from .threads import to_its_end

if TYPE_CHECKING:
    import anyio

    from .connect import Resolved, Source
    from .settings import RetrievalSettings

LOG = logging.getLogger("aiovec")

# How old, in seconds, a look at the TOML may be. One look costs a hop to a thread.
_LOOK_EVERY = 1.0
# How often a call begins anew because its table was altered meanwhile.
_MOST_ATTEMPTS = 20


class Engine:
    """A backend in use, with its settings, its tables' handles and the number of calls on it."""

    def __init__(self, backend: Backend, settings: RetrievalSettings) -> None:
        self.backend = backend
        self.settings = settings
        self.place = Place(backend.name, backend.target)
        self._handles: dict[str, TableHandle] = {}
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open_table(self, name: str, *, fresh: bool = False) -> TableHandle:
        """The table's handle, from memory unless a ``fresh`` one is wanted."""
        handle = None if fresh else self._handles.get(name)
        if handle is None:
            self._handles.pop(name, None)
            handle = self._handles[name] = await self.backend.open_table(name)
        return handle

    def forget(self, name: str) -> None:
        self._handles.pop(name, None)

    def forget_all(self) -> None:
        self._handles.clear()

    def enter(self) -> None:
        self._calls += 1
        self._idle.clear()

    def leave(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    async def close_when_idle(self) -> None:
        await self._idle.wait()
        await self.backend.close()


class Attempt:
    """One try of a call. Swallows the failure that a further try can mend."""

    def __init__(self, follower: Follower, number: int) -> None:
        self._follower = follower
        self._number = number
        self._committed = False
        self._engine: Engine | None = None

    def commit(self) -> None:
        """From here on the call cannot be repeated."""
        self._committed = True

    async def __aenter__(self) -> Engine:
        await self._follower.look()
        self._engine = self._follower.engine
        self._engine.enter()
        return self._engine

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        engine = self._engine
        if engine is None:
            return False
        engine.leave()
        if isinstance(error, StaleTableError):
            engine.forget_all()
            if self._committed or self._number == _MOST_ATTEMPTS:
                raise StoreBusyError("the table is being altered all the time", 0.0) from error
            return True
        if isinstance(error, StoreMovedError) and not self._committed:
            if self._number == _MOST_ATTEMPTS:
                return False
            await self._follower.follow(error)
            return self._follower.engine is not engine
        return False


class Follower:
    """Holds the engine in use and replaces it when the TOML names another."""

    def __init__(
        self, engine: Engine, source: Source | None, threads: anyio.CapacityLimiter
    ) -> None:
        self.engine = engine
        self._source = source
        self._threads = threads
        self._next_look = time.monotonic() + _LOOK_EVERY
        self._switching = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._complaint = ""
        self._closed = False
        self._preparing: asyncio.Task[None] | None = None
        self._prepared_for = ""

    def attempts(self) -> Iterator[Attempt]:
        for number in range(1, _MOST_ATTEMPTS + 1):
            yield Attempt(self, number)

    async def look(self, *, now: bool = False) -> None:
        """Follow the TOML if it changed. Costs nothing where the last look is recent.

        A TOML that cannot be read for now leaves the store where it is; one that names a backend
        that cannot be opened raises, since going on would write where nobody will look.
        """
        if self._source is None or self._closed:
            return
        if not now and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_EVERY
        async with self._switching:
            if await anyio.to_thread.run_sync(self._source.changed, limiter=self._threads):
                await self._switch(self._source)
        self._prepare(self._source)

    def _prepare(self, source: Source) -> None:
        """Look in the background whether a migration is about to lead elsewhere."""
        backend = self.engine.backend
        if isinstance(backend, Moves) and self._preparing is None and not self._closed:
            self._preparing = asyncio.ensure_future(self._load_what_comes(backend, source))
            self._preparing.add_done_callback(self._has_prepared)

    def _has_prepared(self, task: asyncio.Task[None]) -> None:
        self._preparing = None
        if not task.cancelled():
            task.exception()  # whatever it is, the first call behind the cut-over will tell

    async def _load_what_comes(self, backend: Moves, source: Source) -> None:
        """Open the backend to which a migration will lead once, and close it again.

        What its driver takes to be imported is otherwise what the first call behind the cut-over
        takes, and many processes would do it at the same moment.
        """
        with contextlib.suppress(AiovecError):
            mark = await backend.move_mark()
            if mark is None or not mark.backend or mark.run == self._prepared_for:
                return
            self._prepared_for = mark.run
            coming = await anyio.to_thread.run_sync(
                source.foresee, mark.backend, mark.config, limiter=self._threads
            )
            if coming is not None:
                try:
                    await coming.open()
                finally:
                    await to_its_end(coming.close())

    async def follow(self, moved: StoreMovedError) -> None:
        """Go where the store in use has moved to, if it was opened from the TOML that goes there.

        The mark in the store that has moved is older than the change of the TOML, if only by a
        moment, so it is the mark that is followed.
        """
        await self.look(now=True)
        if self._source is None or self._closed:
            return
        async with self._switching:
            if self.engine.backend.target == moved.target:
                resolved = await anyio.to_thread.run_sync(
                    self._source.resolve_moved, moved.backend, moved.config, limiter=self._threads
                )
                if resolved is not None:
                    await self._use(resolved, self._source)

    async def _switch(self, source: Source) -> None:
        try:
            resolved = await anyio.to_thread.run_sync(source.resolve, limiter=self._threads)
        except ConfigError as exc:
            if str(exc) != self._complaint:  # it is tried again every second
                self._complaint = str(exc)
                text = "the changed TOML cannot be used; the store stays where it is: %s"
                await self._log(logging.WARNING, text, exc)
            return
        self._complaint = ""
        if resolved is not None:
            await self._use(resolved, source)

    async def _use(self, resolved: Resolved, source: Source) -> None:
        backend = resolved.backend
        try:
            await backend.open()
        except BaseException:
            await backend.close()
            source.forget()
            raise
        if self._closed:
            await backend.close()
            raise StoreClosedError(backend.target)
        retired, self.engine = self.engine, Engine(backend, resolved.settings)
        closing = asyncio.ensure_future(retired.close_when_idle())
        self._retired.add(closing)
        closing.add_done_callback(self._retired.discard)
        text = "following the TOML from %s to %s"
        await self._log(logging.INFO, text, retired.backend.target, backend.target)

    async def _log(self, level: int, text: str, *facts: object) -> None:
        """In a thread: the handlers that an app attached may wait for a file or a terminal."""
        if LOG.isEnabledFor(level):
            await anyio.to_thread.run_sync(LOG.log, level, text, *facts, limiter=self._threads)

    async def close(self) -> None:
        self._closed = True
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait([self._preparing])
        await self.engine.backend.close()
        if self._retired:
            await asyncio.wait(self._retired)
