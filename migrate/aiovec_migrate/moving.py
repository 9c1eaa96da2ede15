"""Move one table: copy its rows, follow its changes, and verify it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import pyarrow as pa

from aiovec.backend.changes import Delete, Insert, Upsert
from aiovec.backend.contract import Changes
from aiovec.backend.cost import cost_of
from aiovec.backend.rows import Batch
from aiovec.backend.threads import hop, together
from aiovec.errors import ChangesPrunedError, MigrationError

from .compare import Comparison, Difference, Unlike
from .tables import OpenTable, everything, repeated, row_bytes
from .work import Work

# Rows read at a time.
_BATCH = 1000
# The next step can begin once the last page of changes has at most this many changes, or was
# applied in at most this many seconds.
_FEW, _SOON = 1000, 0.5
# Maximum ids of each kind that are listed and compared again one by one: about as many rows as apps
# write while a large table is compared on a busy machine.
_NAMED = 250_000
# For a source without a change feed: the number of comparisons after which the run fails if all of
# them found differences, and the seconds between two comparisons.
_ROUNDS, _REST = 5, 0.5


@dataclass(slots=True, eq=False)
class TableMove:
    """A table in the source and in the target.

    ``verified`` is True if all rows, and each later change, were compared. ``suspects`` are the ids
    of rows that differed when last compared. ``removed`` counts the rows removed from the target.
    """

    work: Work
    source: OpenTable
    target: OpenTable
    verified: bool = False
    suspects: set[str] = field(default_factory=set)
    removed: int = 0
    _number: int = 0  # the newest change that is in the target
    _page: int = 0
    _made: Comparison | None = None

    @property
    def name(self) -> str:
        return self.source.name

    async def bring(self) -> int:
        """Copy all rows to the target; return how many rows were copied or differed.

        If the target's table is empty, all rows are copied. Otherwise the tables are compared, and
        the differences are written. The next ``catch_up`` applies later changes.
        """
        self.verified = False
        return await repeated(self._bring, self.source, self.target)

    async def _bring(self) -> int:
        work, source = self.work, self.source
        if work.has_feed:
            self._number = await source.do(source.backend.change_number)
        await self.set_notes({})
        if await self.target.count():
            return await self._bring_what_differs()
        work.enter("copying")
        await copy_table(work, source, self.target)
        count = await self.target.count()
        work.tell("table", table=self.name, rows=count)
        return count

    async def _bring_what_differs(self) -> int:
        work = self.work
        work.enter("comparing")
        unlike = await self._unlike_rows()
        await work.step("compared")
        await (await self._comparison()).bring_over(unlike, work.changed)
        await work.step("brought")
        count = len(unlike.missing) + len(unlike.extra) + len(unlike.different)
        self.removed += len(unlike.extra)
        text = f"{count:,} rows differed"
        if len(unlike.extra):
            text += f", {len(unlike.extra):,} of them only in the target and removed"
        work.tell("table", text, table=self.name, rows=unlike.source_rows)
        return count

    async def set_notes(self, notes: Mapping[str, str]) -> None:
        """Replace the notes of the target's table.

        A watch continues from its note, and so never again looks at a row that is older than the
        note. The target therefore has no notes while its rows change, and the source's notes once
        its rows are equal and writers wait for the switch.
        """
        target = self.target
        old = await target.do(target.backend.notes)
        if notes != old:
            change: dict[str, str | None] = {**dict.fromkeys(old), **notes}
            await target.do(lambda handle: target.backend.notes(handle, change))

    async def _comparison(self) -> Comparison:
        """Return the comparison.

        It is created only once, because asking both stores for row sizes takes too long while
        writers wait.
        """
        if self._made is None:
            vector = self.work.transform is None
            self._made = await Comparison.of(
                self.source, self.target, self.work.limits, vector=vector
            )
        return self._made

    async def _unlike_rows(self) -> Unlike:
        total = await self.source.count() + await self.target.count()
        return await (await self._comparison()).unlike(self.work.progress(self.name, total))

    # Changes

    async def catch_up(self, *, check: bool = False) -> None:
        """Apply changes until the newest page of changes is small or was applied quickly.

        With ``check``, each page's rows are compared, and rows that differ become suspects.
        """
        work, now = self.work, asyncio.get_running_loop().time
        while True:
            began = now()
            page = await self._next_page()
            ids = await self._apply(page)
            if check and ids:
                await work.step("catch-up:applied")
                comparison = await self._comparison()
                unlike = await comparison.unlike_changes(page.upserted, page.deleted)
                self.suspects = (self.suspects - ids) | set(unlike)
            self._number = page.number
            if ids:
                work.tell("progress", table=self.name, lag=len(ids))
            if page.complete and (len(ids) <= _FEW or now() - began <= _SOON):
                return

    async def _next_page(self) -> Changes:
        limits, source = self.work.limits, self.source
        if not self._page:
            each = await row_bytes(source, self.target)
            self._page = max(1, min(limits.most_page, limits.page_bytes // each))
        number, page = self._number, self._page
        try:
            return await source.do(
                lambda handle: source.backend.changes(handle, number, limit=page)
            )
        except ChangesPrunedError as exc:
            raise MigrationError(
                f"the changes of table {self.name!r} since the copy are no longer there, because "
                "another program removed old versions; run the same command again, which compares "
                "all rows"
            ) from exc

    async def _apply(self, page: Changes) -> set[str]:
        """Apply a page of changes to the target; return the ids of the changed rows."""
        deleted = list(dict.fromkeys(page.deleted))
        target = self.target
        if deleted:
            await target.do(lambda handle: target.backend.write(handle, Delete(deleted)))
            await self.work.step("catch-up:deleted")
        if page.upserted.num_rows:
            rows = await self.work.changed(page.upserted)
            new = await hop(cost_of(rows), Batch.of_table, rows, target.schema)
            await target.do(lambda handle: target.backend.write(handle, Upsert(new, moves=True)))
        return {*deleted, *page.upserted.column("id").to_pylist()}

    # Verification

    async def verify(self) -> Difference:
        """Compare every row. Raises MigrationError if rows still differ after all changes.

        Rows that differ are compared again after the newest changes have been applied.
        """
        if not self.work.has_feed:
            return await self._come_to_rest()
        difference = await repeated(self._compare, self.source, self.target)
        if max(difference.missing, difference.different, difference.extra) >= _NAMED:
            raise MigrationError(
                f"too many rows of table {self.name!r} differ between the stores, or are written "
                "during the comparison; run again when less is written"
            )
        self.suspects = set(difference.ids)
        await self.settle()
        self.verified = True
        count = await self.target.count()
        self.work.tell("table", table=self.name, rows=count)
        return Difference(count, count)

    async def _compare(self) -> Difference:
        await self.catch_up()
        difference = await (await self._comparison()).named(await self._unlike_rows(), _NAMED)
        await self.work.step("verify:compared")
        return difference

    async def settle(self) -> None:
        """Apply the newest changes, and compare the suspects again.

        Raises MigrationError if a row still differs.

        Every change is compared when it is applied, so a row that is written again remains a
        suspect only if it differs after the write.
        """
        await self.catch_up(check=True)
        await self._look_at_suspects()
        await self.catch_up(check=True)  # a suspect may only have lacked a change that arrives now
        if wrong := sorted(self.suspects):
            raise MigrationError(
                f"{len(wrong)} rows of table {self.name!r} differ between the stores after all "
                f"changes: {', '.join(wrong[:5])}; run the same command again, which compares all "
                "rows and rewrites the differences"
            )

    async def _look_at_suspects(self) -> None:
        if self.suspects:
            comparison = await self._comparison()
            self.suspects = set(await comparison.unlike_among(sorted(self.suspects)))

    async def _come_to_rest(self) -> Difference:
        for turn in range(_ROUNDS):
            if turn:
                await asyncio.sleep(_REST)
            if not await self.bring():
                count = await self.target.count()
                return Difference(count, count)
        raise MigrationError(
            f"table {self.name!r} is written to continuously and its store keeps no changes, so "
            "the target never becomes equal; run again when nobody writes"
        )

    # During the pause

    async def last_changes(self) -> str:
        """Apply and compare the changes made before the pause; return the problem, if any."""
        source = self.source
        notes = await source.do(source.backend.notes)  # before the changes: never newer than rows
        await self.catch_up(check=True)
        await self._look_at_suspects()
        if self.suspects:
            examples = ", ".join(sorted(self.suspects)[:5])
            number = len(self.suspects)
            return f"{number} rows of table {self.name!r} differ between the stores: {examples}"
        left, reached = await source.count(), await self.target.count()
        if left != reached:
            self.verified = False  # compare every row before the next attempt
            return f"table {self.name!r} has {left} rows in the source and {reached} in the target"
        await self.set_notes(notes)
        return ""


# Copying: reading and writing overlap, but reading is at most one write ahead


async def copy_table(work: Work, source: OpenTable, target: OpenTable) -> None:
    """Copy all rows of one snapshot.

    After a StaleTableError or DuplicateIdError, the caller must compare the tables instead of
    copying again.
    """
    limits, backend = work.limits, target.backend
    bulk = backend.supports("bulk-load")
    most_bytes = limits.bulk_bytes if bulk else limits.insert_bytes
    most_rows = limits.bulk_rows if bulk else limits.insert_rows
    size = max(1, min(_BATCH, most_rows, most_bytes // await row_bytes(source)))
    report = work.progress(source.name, await source.count())
    writes: asyncio.Queue[pa.Table | None] = asyncio.Queue(maxsize=1)

    async def read() -> None:
        columns = everything(source.schema)
        rows = source.backend.export(
            source.handle, where=None, columns=columns, after=None, batch_size=size
        )
        waiting: list[pa.RecordBatch] = []
        bytes_, count = 0, 0
        async with aclosing(rows) as batches:
            async for batch, _ in batches:
                waiting.append(batch)
                bytes_, count = bytes_ + batch.nbytes, count + batch.num_rows
                if bytes_ >= most_bytes or count + size > most_rows:
                    await writes.put(pa.Table.from_batches(waiting))
                    waiting, bytes_, count = [], 0, 0
        if waiting:
            await writes.put(pa.Table.from_batches(waiting))
        await writes.put(None)

    async def write() -> None:
        while (rows := await writes.get()) is not None:
            await work.step("copy:read")
            changed = await work.changed(rows)
            if bulk:
                await backend.bulk_add(target.handle, changed)
            else:
                new = await hop(cost_of(changed), Batch.of_table, changed, target.schema)
                await backend.write(target.handle, Insert(new))
            await work.step("copy:written")
            report(rows.num_rows)

    await together([read, write])
