"""The backend that an open store uses now, and the switch to a new backend after a migration.

Each call registers with the active backend. A replaced backend closes when its last call has ended,
so a store can follow a migration while calls run.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from .._model.schema import Schema
from .._telemetry.spans import attributes_of
from ..backend.context import TableChangedError, call_context
from ..backend.contract import Backend, StaleTableError, TableHandle
from ..backend.limits import Deadline
from ..backend.marks import MOVED, MoveMark
from ..backend.threads import in_daemon_thread, in_thread, to_its_end
from ..errors import (
    AiovecError,
    DimensionMismatchError,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    MigrationError,
    ModelMismatchError,
    SchemaMismatchError,
    StoreClosedError,
    StoreMovedError,
    StoreReplacedError,
    TableNotFoundError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from ..backend.config import RetrievalSettings
    from ..backend.place import Place

LOG = logging.getLogger("aiovec")

REFUSALS = (
    DimensionMismatchError, FilterError, InvalidArgumentError, InvalidNameError, InvalidRowError,
    ModelMismatchError, UnsupportedError,
)  # fmt: skip
"""Errors raised by calls that do not fit the table's schema. Another process may have altered the
schema."""

# Minimum attempts of a call whose table was altered or whose store moved: the deadline of a long
# call may have passed when this happens for the first time.
_LEAST_ATTEMPTS = 20

# Seconds between two checks for a migration, each of which reads an indexed row or a small file.
# If a migration takes less time, its target's driver is not imported in advance.
_BETWEEN_CHECKS = 1.0


class ActiveBackend:
    """A backend in use, with its settings, its tables' handles and the number of running calls."""

    def __init__(self, backend: Backend, settings: RetrievalSettings) -> None:
        self.backend = backend
        self.settings = settings
        self.attributes = attributes_of(backend.name, backend.target)
        self.idle = asyncio.Event()
        """Set while no call uses the backend."""
        self.idle.set()
        self.swept: dict[str, float] = {}
        """The ``time.monotonic()`` value at each table's last sweep of expired rows."""
        self.sweeps: dict[str, asyncio.Task[None]] = {}
        """The tasks that delete expired rows, by table name."""
        self._calls = 0
        self._handles: dict[str, TableHandle] = {}
        self._states: dict[str, tuple[TableHandle, str]] = {}

    def enter(self) -> None:
        """Keep the backend open until ``leave``."""
        self._calls += 1
        self.idle.clear()

    def leave(self) -> None:
        self._calls -= 1
        if not self._calls:
            self.idle.set()

    async def open_table(self, name: str, *, fresh: bool = False) -> TableHandle:
        """Return the table's handle, from the cache unless ``fresh`` is set."""
        handle = None if fresh else self._handles.get(name)
        if handle is None:
            self._handles.pop(name, None)
            handle = self._handles[name] = await self.backend.open_table(name)
            fresh = True
        requested = call_context().states
        if requested is None or self.state_of(handle) in requested:
            return handle
        if fresh:
            raise TableChangedError(name)
        return await self.open_table(name, fresh=True)

    async def check_current(self, handle: TableHandle) -> None:
        """Raise StaleTableError if the table has changed since the handle was opened.

        Called after an error that may be due to an outdated schema in the handle.
        """
        if (await self.backend.open_table(handle.name)).epoch != handle.epoch:
            raise StaleTableError(handle.name)

    def state_of(self, handle: TableHandle) -> str:
        """Return a name for the table's state as of this handle. The name is the same in every
        process."""
        known = self._states.get(handle.name)
        if known is None or known[0] is not handle:
            text = f"{handle.name}\0{handle.schema.to_json()}\0{handle.epoch!r}"
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
            known = self._states[handle.name] = (handle, digest.hexdigest())
        return known[1]

    def forget(self, name: str) -> None:
        self._handles.pop(name, None)
        self._states.pop(name, None)
        self.swept.pop(name, None)

    def forget_all(self) -> None:
        self._handles.clear()
        self._states.clear()


class Backends:
    """The active backend, which is replaced when a migration has moved the store."""

    def __init__(self, backend: Backend, place: Place, *, follow: bool) -> None:
        self.active = ActiveBackend(backend, place.settings)
        self._place = place
        self._follows_copies = follow
        self._switching = asyncio.Lock()
        # Replaced backends whose last calls have not ended yet.
        self._retired: dict[ActiveBackend, asyncio.Task[None]] = {}
        self._checking: asyncio.Task[None] | None = None
        # The number of running retries of calls that an alteration or a move has interrupted.
        self._retries = 0
        self._no_retry = asyncio.Event()
        self._next_check = self._first_check()
        self._closed = False

    @property
    def identity(self) -> str:
        """The name of the store: the path of its TOML file, else its own path or URL. A store in
        memory has a unique name."""
        if self._place.in_memory:
            return f"{self._place} {os.getpid()} {id(self)}"
        path = self._place.file or self._place.path
        return str(self._place) if path is None else os.path.realpath(path)

    def look_ahead(self) -> None:
        """Check in the background, at most once a second, whether a migration has begun."""
        if (now := time.monotonic()) >= self._next_check and not self._closed:
            self._next_check = now + _BETWEEN_CHECKS
            if self._checking is None or self._checking.done():
                self._checking = asyncio.ensure_future(self._prepare_to_follow())

    def _first_check(self) -> float:
        """Return the time of the first check; infinity if there are no checks.

        Only a store opened through a TOML file follows a migration. A store in a bucket is not
        checked, since each check would cost a request.
        """
        follows = self._place.file is not None and self._place.path is not None
        if follows and self.active.backend.supports("moves"):
            return time.monotonic() + _BETWEEN_CHECKS
        return math.inf

    async def _prepare_to_follow(self) -> None:
        """Import the driver of a migration's target before the switch.

        The import may take seconds, and otherwise the first calls after the switch would wait for
        it.
        """
        active = self.active
        with suppress(AiovecError):  # the switch reports it
            mark = await active.backend.move_mark()
            if mark is None or mark.left or mark.filling:
                return
            place = await in_thread(self._place.after_move, mark.backend, mark.config)
            if place is not None:
                await in_daemon_thread(place.create)
                if self.active is active:
                    self._next_check = math.inf

    async def begin_retry(
        self,
        active: ActiveBackend,
        error: StaleTableError | StoreMovedError | StoreReplacedError,
        failed: int,
        deadline: Deadline,
        *,
        last: bool = False,
    ) -> None:
        """Begin a retry of a call that has failed ``failed`` times; ``end_retry`` ends the retry.

        Raises the error, or an error that explains it, if no attempt can succeed or the ``last``
        attempt failed.
        """
        last = last or (failed >= _LEAST_ATTEMPTS and deadline.left() <= 0)
        if isinstance(error, StaleTableError):
            active.forget_all()
            if last:
                times = "once" if failed == 1 else f"{failed} times"
                reason = f"a table's fields or indexes changed {times} during the call"
                raise deadline.error(reason) from error
        elif last or not await self._follow(active, error):
            raise error
        self._retries += 1
        self._no_retry.clear()

    def end_retry(self) -> None:
        self._retries -= 1
        if not self._retries:
            self._no_retry.set()

    async def let_through(self, deadline: Deadline) -> None:
        """Make an alteration wait for retries of interrupted calls, at most until its deadline.

        Otherwise a call that takes longer than the pause between two alterations would never
        succeed.
        """
        while self._retries and (left := deadline.left()) > 0:
            with suppress(TimeoutError):
                # In Python 3.11 asyncio.wait_for loses a cancellation that comes as the wait ends.
                async with asyncio.timeout(left):
                    await self._no_retry.wait()

    async def _follow(
        self, left: ActiveBackend, error: StoreMovedError | StoreReplacedError
    ) -> bool:
        """Use the store to which the active store has moved, or the copy that has replaced it.

        Return True if the call can be repeated. The mark in the active store decides, since the
        error may come from a backend that has already been replaced.
        """
        if self._closed:
            return False
        async with self._switching:
            if self.active is not left:
                return True
            if isinstance(error, StoreReplacedError):
                if not (self._follows_copies and await in_thread(self._place.exists)):
                    return False
                await self._use(self._place)
                return True
            mark = await self._mark(error)
            if mark is None or not mark.left:
                return True
            place = await in_thread(self._place.after_move, mark.backend, mark.config)
            if place is None:
                return False
            await self._use(place, mark)
        return True

    async def _mark(self, moved: StoreMovedError) -> MoveMark | None:
        """Return the active store's mark; for a backend without marks, create a mark from the
        error."""
        if self.active.backend.supports("moves"):
            return await self.active.backend.move_mark()
        return MoveMark(
            "", MOVED, moved.moved_to, moved.backend, moved.config, generation=moved.generation
        )

    async def _use(self, place: Place, mark: MoveMark | None = None) -> None:
        """Replace the active backend with a new one for ``place``, the target of ``mark`` if
        given."""
        left = self.active
        backend = await in_thread(place.create, left.backend.read_only)
        try:
            if mark is not None:
                await in_thread(_check_place, mark, left.backend, place, backend.target)
            await backend.open()
            if mark is not None and backend.supports("moves"):
                if not mark.leads_to(await backend.move_record()):
                    raise _lost_error(mark, left.backend)
                # The migrator may have been killed before it called ``arrive``. A read-only store
                # leaves the call to writers: the target has had every row since the mark was set.
                if not backend.read_only:
                    await backend.arrive(mark.run, mark.generation)
            if self._closed:
                raise StoreClosedError(backend.target)
        except BaseException as exc:
            await close_after(backend, exc)
            raise
        self.active, self._place = ActiveBackend(backend, place.settings), place
        self._next_check = self._first_check()
        self._retired[left] = asyncio.ensure_future(self._retire(left))
        if LOG.isEnabledFor(logging.INFO):  # in a thread: a handler may wait for a file
            text = "following a migration from %s to %s" if mark else "%s was replaced: reading %s"
            await in_thread(LOG.info, text, left.backend.target, backend.target)

    async def _retire(self, active: ActiveBackend) -> None:
        await active.idle.wait()
        await active.backend.close()
        del self._retired[active]

    async def close(self) -> None:
        """Close the backend, which ends the running calls."""
        self._closed = True
        if self._checking is not None:
            self._checking.cancel()
        sweeps = [task for each in (self.active, *self._retired) for task in each.sweeps.values()]
        if sweeps:  # so that even a short script deletes some expired rows
            await asyncio.wait(sweeps, timeout=1.0)
        for active in self._retired:
            active.idle.set()  # do not wait for its calls
        closing = (self.active.backend.close(), *self._retired.values())
        failures = await asyncio.gather(*closing, *sweeps, return_exceptions=True)
        if self._checking is not None:
            await asyncio.wait([self._checking])
        for failure in filter(None, failures):
            raise failure


async def close_after(backend: Backend, failure: BaseException) -> None:
    """Close a backend that could not be opened, or is no longer needed.

    The caller then raises ``failure``; an error while closing is added to it as a note.
    """
    try:
        await to_its_end(backend.close())
    except Exception as unclosed:  # noqa: BLE001 - whatever it is
        failure.add_note(f"closing it failed too: {unclosed!r}")


def _check_place(mark: MoveMark, left: Backend, place: Place, target: str) -> None:
    """Check that the settings name the target of the mark. Reads the disk.

    Raises StoreMovedError if the settings name another place: an environment variable may set
    another address for the backend, and a store there would have none of the rows. Raises
    MigrationError if the target is gone.
    """
    are_paths = "://" not in mark.target + target
    is_same = mark.target in ("", target) or (
        are_paths and os.path.realpath(mark.target) == os.path.realpath(target)
    )
    if not is_same:
        reason = (
            f"the settings of this process lead to {target} instead: correct the environment "
            "variable or the TOML file"
        )
        facts = {"backend": mark.backend, "config": mark.config}
        raise StoreMovedError(
            left.target, mark.moved_to, **facts, generation=mark.generation, reason=reason
        )
    if mark.target_marked and not place.exists():
        raise _lost_error(mark, left)


def _lost_error(mark: MoveMark, left: Backend) -> MigrationError:
    """Return the error for a target that is not the store to which the migration copied the
    rows."""
    return MigrationError(
        f"the store {left.target} has moved to {mark.moved_to} (run {mark.run}), but the "
        "store at that place is not the one that got its rows: it was replaced, emptied or "
        "removed, or its disk is missing. Put it back. If the new store is the right one, restart "
        f"the app, which then opens the store of its TOML file. If it is lost, {left.target} has "
        "the rows from before the switch: aiovec migrate forget makes it a separate store"
    )


async def check_same(active: ActiveBackend, table: str, requested: Schema) -> Schema:
    """Check that the existing table has the requested schema, and return the table's schema."""
    try:
        existing = (await active.open_table(table, fresh=True)).schema
    except TableNotFoundError:
        raise StaleTableError(table) from None  # dropped in the meantime: the call is repeated
    if requested.embed is not None and requested.model is None:
        # Without the embedder, the model's name is unknown and cannot be compared.
        requested = replace(requested, model=existing.model)
    differences = existing.differences(requested)
    # If the model differs, the length of an embedder's vectors may differ too.
    dim = requested.dim if requested.embed is None else existing.dim
    of_same_model = replace(requested, model=existing.model, dim=dim)
    if requested.model != existing.model and not existing.differences(of_same_model):
        kinds = [None if each is None else each.kind for each in (requested.embed, existing.embed)]
        raise ModelMismatchError(
            table, existing.model, requested.model, embedder=kinds[0], own=kinds[1]
        )
    if differences:
        raise SchemaMismatchError(table, differences)
    return existing
