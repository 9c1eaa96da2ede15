"""Loads by an engine, which writes a table's files itself.

An engine writes files that no version refers to yet, and then one commit adds all of them. Until
then, a note on the table makes all processes refuse other writes. Lance accepts two appends that
began with the same version, so each attempt at a load restores the newest version, which makes
Lance refuse every commit that began earlier. So neither an earlier attempt nor a write in progress
can commit afterwards, and files that no version refers to can be removed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiovec.backend.contract import TableHandle
from aiovec.backend.limits import renewed
from aiovec.errors import AiovecError, StoreBusyError

from .commit import SeparateWrite, TableWork
from .index.build import MAKER, IndexMaker
from .layout import LOADED, LoadNote, load_in
from .operations import stored_form as stored_form
from .session import Snapshot
from .table import Writes


@dataclass(frozen=True, slots=True)
class TablePlace:
    """A table's address in Lance, and the options for opening it, which may be secret."""

    uri: str
    options: Mapping[str, str] = field(repr=False)


class Filling:
    """One engine's load into one table."""

    def __init__(self, writes: Writes, handle: TableHandle, run: str, sweep: TableWork) -> None:
        """``sweep`` removes the files that no version of the table refers to."""
        self._commit_to = writes.commit
        self._session = writes.versions.session
        self._sweeping = sweep
        self._table = handle
        self._run = run
        self._note = LoadNote(run, filling=True, attempt=uuid.uuid4().hex)
        self.version = 0
        """The version to which the load's commit adds its rows."""
        self.rows: int | None = None
        """The number of rows in the table if an earlier attempt filled it, else None."""

    @property
    def before(self) -> int:
        """The number of rows in the table when the load began."""
        return self._note.before

    @property
    def guarded(self) -> AbstractContextManager[None]:
        """A context manager that translates Lance's errors and removes the store's secrets from
        them."""
        return self._session.guarded

    async def _sweep(self) -> None:
        with self._session.guarded:
            await self._sweeping()

    async def _do(self, act: TableWork) -> Any:
        # The write counts as a schema change, because no load may be open during a migration.
        return await self._commit_to(
            SeparateWrite(act, self._table, changes_schema=True, fills=True)
        )

    async def begin(self) -> None:
        """Record the load in the table's notes, unless the run has already filled the table."""
        await self._do(self._begin)

    async def _begin(self, table: Snapshot) -> None:
        rows, note = await table.rows(), load_in(table.arrow)
        if note is not None and note.filling and note.run != self._run:
            raise StoreBusyError(
                f"another load ({note.run}) fills the table {self._table.name!r}, or was "
                "interrupted; run its command again, or drop the table", 0.0,
            )  # fmt: skip
        if note is not None and note.run == self._run and rows:
            # The load has committed; only its last note may be missing. Nobody else has written.
            if note.filling and note.attempt and rows > note.before:
                await self._sweep()
                note = note._replace(filling=False)
                await self._keep(table, note)
            if not note.filling:
                self.rows = rows
                return
        self._note = self._note._replace(before=rows)
        await self._keep(table, self._note._replace(attempt=""))
        await self._fence()
        table = await self._session.opened(self._table)
        if await table.rows() != rows:
            await self._keep(table, None)
            raise StoreBusyError(
                f"another process is writing to the table {self._table.name!r}; run the command "
                "again when it has finished",
                0.0,
            )
        await self._keep(table, self._note)
        await self._sweep()  # files of an earlier attempt
        self.version = await (await self._checked()).version()

    async def _fence(self) -> None:
        """Make Lance refuse every commit that began before this call."""
        lance, _ = await self._session.open_any(self._table.name)
        await self._session.run(lance.checkout(await self._session.run(lance.version())))
        await self._session.run(lance.restore())

    async def _keep(self, table: Snapshot, note: LoadNote | None) -> None:
        text = None if note is None else note.to_json()
        await self._session.annotate(table.lance, "id", {LOADED: text})

    async def _checked(self) -> Snapshot:
        """Return the newest version; raise AiovecError if another process took over the load."""
        table = await self._session.opened(self._table)
        if load_in(table.arrow) != self._note:
            raise AiovecError(
                f"another process has taken over the load {self._run} of the table "
                f"{self._table.name!r}; check `aiovec info`, because this process cannot know "
                "whether its rows were added"
            )
        return table

    async def commit(self, commit: TableWork) -> int:
        """Commit the rows, and return their number.

        ``commit`` adds all of them to the version that the load began with.
        """
        with renewed():  # the time spent writing the files does not count as waiting
            return int(await self._do(partial(self._commit, commit)))

    async def _commit(self, commit: TableWork, newest: Snapshot) -> int:
        if await (await self._checked()).rows() == self.before:
            try:
                with self._session.guarded:
                    await commit()
            except AiovecError:
                # If the rows exist, only the response was lost.
                if await (await self._checked()).rows() == self.before:
                    raise
        await self._sweep()  # remove files of workers that died
        table = await self._checked()
        rows = await table.rows()
        await self._keep(table, self._note._replace(filling=False))
        return rows - self.before

    async def abandon(self) -> None:
        """End the load without adding its rows, and let other calls write again."""

        async def act(_: Snapshot) -> None:
            await self._checked()
            await self._fence()
            await self._sweep()
            await self._keep(await self._session.opened(self._table), None)

        await self._do(act)


@contextmanager
def making(maker: IndexMaker) -> Iterator[None]:
    """Let an engine build this task's indexes while the block runs."""
    token = MAKER.set(maker)
    try:
        yield
    finally:
        MAKER.reset(token)
