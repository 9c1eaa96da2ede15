"""Apply to the target what was written in the source since its rows were read, and check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aiovec.backend.contract import Changes, ChangesPrunedError
from aiovec.backend.rows import NewRows
from aiovec.errors import MigrationError

from .ends import OpenTable, RunContext, row_bytes
from .state import Phase, TableState
from .verifying.compare import Difference, differing_ids, sync, verify_changes, verify_ids
from .verifying.report import TableReport

# Changes that are few enough for the next step, and seconds within which more of them are as well.
_FEW, _SOON = 1000, 0.5
# Rounds that catching up may take before it is said that it never ends.
_ROUNDS = 1000


@dataclass(slots=True)
class CatchUp:
    """Follows the changes of one table.

    ``each`` is about what a row takes; ``suspects`` are ids whose rows were not the same.
    """

    work: RunContext
    state: TableState
    source: OpenTable
    target: OpenTable
    each: int
    suspects: set[str] = field(default_factory=set)

    @classmethod
    async def of(cls, work: RunContext, state: TableState) -> CatchUp:
        source = await work.ends.source_table(state.name)
        target = await work.ends.target_table(state.name)
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
                    self.target,
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
            self.source,
            self.target,
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
            limits = self.work.host.limits
            page = min(limits.most_page, limits.page_bytes // self.each)
            limit = max(limits.least_page, page)
            try:
                return await self.source.do(lambda handle: feed.changes(handle, since, limit=limit))
            except ChangesPrunedError:
                self.work.tell(
                    "note",
                    "the source no longer keeps the needed changes, so both tables are compared",
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
            self.source,
            self.target,
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
            await target.do(
                lambda handle: target.backend.upsert(handle, NewRows(handle.schema, rows))
            )
        upserted: list[str] = page.upserted.column("id").to_pylist()
        return list(dict.fromkeys([*deleted, *upserted]))


# Ids of each kind that are named, and looked at again one by one: as many as are written while a
# large table is compared on a machine that has much else to do.
_NAMED = 250_000
_FULL_ROUNDS = 5
# Rounds for rows that are written all the time, and the seconds between two.
_SETTLE_ROUNDS = 50
_REST = 0.05
# Rounds in which an origin without a change feed has to come to rest.
_SYNC_ROUNDS = 20
_SYNC_REST = 0.5


async def check_all(catch_up: CatchUp) -> TableReport:
    """Compare both tables; MigrationError where a row differs that nobody wrote meanwhile.

    Each side is read as it was at one moment, so rows that were written meanwhile differ. They
    are looked at again when their changes were applied. All that is applied from here on is
    compared page by page, so the whole stays verified.
    """
    began = catch_up.work.host.now()
    if catch_up.state.verified:
        await catch_up.catch_up(check=True)
    else:
        await _compare(catch_up)
    await _settle(catch_up)
    # Not of both sides: rows may have been written between the two counts.
    count = await catch_up.target.count()
    rows = Difference(count, count)
    passed = catch_up.work.host.now() - began
    return TableReport(catch_up.state.name, rows, seconds=round(passed, 3))


async def _compare(catch_up: CatchUp) -> None:
    work, state = catch_up.work, catch_up.state
    for _ in range(_FULL_ROUNDS):
        await catch_up.catch_up()
        total = 2 * max(1, await catch_up.source.count())
        read = 0

        def progress(rows: int, total: int = total) -> None:
            nonlocal read
            read += rows
            work.progress(state.name, read, total)

        found = await differing_ids(
            catch_up.source,
            catch_up.target,
            host=work.host,
            ignore_vector=work.transform is not None,
            most=_NAMED,
            progress=progress,
        )
        await work.step("verify:compared")
        # Fewer than there were: rows that were deleted in the source since have no name any more.
        # Those changes are still to be applied, and are compared then.
        if max(map(len, (found.missing_ids, found.different_ids, found.extra_ids))) < _NAMED:
            catch_up.suspects = set(found.ids)
            return
    raise MigrationError(
        f"{found.total} rows of table {state.name!r} differ between the stores, or were written "
        "during the comparison: " + ", ".join(found.ids[:5])
    )


async def _settle(catch_up: CatchUp) -> None:
    """Look at what differed again, until it does not or is known to be wrong."""
    work, state = catch_up.work, catch_up.state
    for turn in range(_SETTLE_ROUNDS):
        if turn:
            await work.host.sleep(_REST)
        await catch_up.catch_up(check=True)
        before = set(await catch_up.unlike(sorted(catch_up.suspects)))
        # Whose change comes only now was rightly not the same.
        catch_up.suspects = set(before)
        written = await catch_up.catch_up(check=True)
        wrong = sorted(before - written)
        if wrong:
            cure = (
                "rewrite them with `aiovec migrate verify --repair`"
                if work.transform is None
                else "end the run (aiovec migrate abort) and start again"
            )
            raise MigrationError(
                f"{len(wrong)} rows of table {state.name!r} differ between the stores, and nobody "
                f"wrote them meanwhile: {', '.join(wrong[:5])}; {cure}"
            )
        if not catch_up.suspects:
            state.verified = True
            await work.save(state)
            work.tell("table", table=state.name)
            return
    raise MigrationError(
        f"rows of table {state.name!r} change too often to be compared: "
        + ", ".join(sorted(catch_up.suspects)[:5])
    )


async def come_to_rest(work: RunContext, catch_ups: Sequence[CatchUp]) -> list[TableReport]:
    """Compare until nothing differs: for a source that cannot tell what changes meanwhile."""
    await work.enter(Phase.VERIFYING)
    reports = []
    for catch_up in catch_ups:
        table = catch_up.state
        began = work.host.now()
        found = await _equal(work, catch_up)
        table.verified = True
        await work.save(table)
        work.tell("table", table=table.name)
        passed = round(work.host.now() - began, 3)
        reports.append(TableReport(table.name, found, seconds=passed))
    return reports


async def _equal(work: RunContext, catch_up: CatchUp) -> Difference:
    for turn in range(_SYNC_ROUNDS):
        if turn:
            await work.host.sleep(_SYNC_REST)
        found = await catch_up.synced()
        await work.step("verify:compared")
        if not found.total:
            return found
    raise MigrationError(
        f"table {catch_up.state.name!r} is written to continuously and keeps no changes, so the "
        "target never becomes equal; run again when nobody writes"
    )
