"""What was written in the origin since its rows were read, brought to the goal."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiovec.backend import Changes, ChangesPrunedError
from aiovec.errors import MigrationError

from .comparing import Difference, sync, verify_changes, verify_ids
from .model import TableState
from .work import OpenTable, Work, row_bytes

# A page of changes: its bytes, and its rows at least and at most.
_PAGE_BYTES = 32 * 2**20
_FEWEST, _MOST = 100, 10_000
# Changes that are few enough for the next step, and seconds within which more of them are as well.
_FEW, _SOON = 1000, 0.5
# Rounds that catching up may take before it is said that it never ends.
_ROUNDS = 1000


@dataclass(slots=True)
class Pursuit:
    """Follows the changes of one table.

    ``each`` is about what a row takes; ``suspects`` are ids whose rows were not the same.
    """

    work: Work
    state: TableState
    source: OpenTable
    target: OpenTable
    each: int
    suspects: set[str] = field(default_factory=set)

    @classmethod
    async def of(cls, work: Work, state: TableState) -> Pursuit:
        source = await OpenTable.open(work.origin.backend, state.name)
        target = await OpenTable.open(work.goal.backend, state.name)
        return cls(work, state, source, target, await row_bytes(source, target))

    async def catch_up(self, *, check: bool = False) -> set[str]:
        """Apply changes until the last page was complete, and small or quickly done.

        The ids of all that were applied are the answer; with ``check`` each page's rows are
        compared, and those that are not the same become suspects.
        """
        seen: set[str] = set()
        for _ in range(_ROUNDS):
            began = self.work.host.now()
            page = await self._page()
            if page is None:
                continue
            ids = await self._apply(page)
            if check and ids:
                await self.work.step("catch-up:applied")
                differing = await verify_changes(
                    self.work.goal.backend,
                    self.state.name,
                    page.upserted,
                    page.deleted,
                    host=self.work.host,
                    ignore_vector=self.work.transform is not None,
                )
                self.suspects = (self.suspects - set(ids)) | set(differing)
            self.state.since = page.number
            self.state.verified = self.state.verified and not self.suspects
            if ids:
                self.work.state.lag = len(ids)
                await self.work.save(self.state)
                await self.work.step("catch-up:journalled")
                seen.update(ids)
            soon = self.work.host.now() - began <= _SOON
            if page.complete and (soon or len(ids) <= _FEW):
                self.work.state.lag = 0
                return seen
        raise MigrationError(f"table {self.state.name!r} is written faster than it can be copied")

    async def unlike(self, ids: list[str]) -> list[str]:
        return await verify_ids(
            self.work.origin.backend,
            self.work.goal.backend,
            self.state.name,
            ids,
            host=self.work.host,
            ignore_vector=self.work.transform is not None,
            each=self.each,
        )

    async def _page(self) -> Changes | None:
        """The next changes; None where they were not kept and the tables were compared instead."""
        feed = self.work.leaving()
        since = self.state.since
        if since is not None:
            limit = max(_FEWEST, min(_MOST, _PAGE_BYTES // self.each))
            try:
                return await self.source.do(lambda handle: feed.changes(handle, since, limit=limit))
            except ChangesPrunedError:
                self.work.tell(
                    "note",
                    "the changes that are needed are no longer kept: both tables are compared",
                    table=self.state.name,
                )
        number = await self.source.do(feed.change_number)
        await self.synced()
        self.state.since = number
        await self.work.save(self.state)
        return None

    async def synced(self) -> Difference:
        """Compare both tables and copy what differs."""
        work = self.work
        total = max(1, await self.source.count())
        read = 0

        def progress(rows: int) -> None:
            nonlocal read
            read += rows
            work.progress(self.state.name, read, 2 * total)

        return await sync(
            work.origin.backend,
            work.goal.backend,
            self.state.name,
            host=work.host,
            transform=work.transform,
            progress=progress,
        )

    async def _apply(self, page: Changes) -> list[str]:
        """Bring a page to the goal; its ids."""
        deleted = list(dict.fromkeys(page.deleted))
        target = self.target
        if deleted:
            await target.do(lambda handle: target.backend.delete(handle, ids=deleted, where=None))
            await self.work.step("catch-up:deleted")
        if page.upserted.num_rows:
            rows = await self.work.changed(page.upserted)
            await target.do(lambda handle: target.backend.upsert(handle, rows))
        upserted: list[str] = page.upserted.column("id").to_pylist()
        return list(dict.fromkeys([*deleted, *upserted]))
