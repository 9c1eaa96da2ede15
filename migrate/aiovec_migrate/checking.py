"""Every row compared while writes go on."""

from __future__ import annotations

from collections.abc import Sequence

from aiovec.errors import MigrationError

from .catchup import Pursuit
from .comparing import Difference, differing_ids
from .model import Phase
from .verifying import TableReport
from .work import Work

# Ids of each kind that are named, and looked at again one by one: as many as are written while a
# large table is compared on a machine that has much else to do.
_NAMED = 250_000
_FULL_ROUNDS = 5
# Rounds for rows that are written all the time, and the seconds between two.
_ROUNDS = 50
_REST = 0.05
# Rounds in which an origin without a change feed has to come to rest.
_SYNC_ROUNDS = 20
_SYNC_REST = 0.5


async def check_all(pursuit: Pursuit) -> TableReport:
    """Compare both tables; MigrationError where a row differs that nobody wrote meanwhile.

    Each side is read as it was at one moment, so rows that were written meanwhile differ. They
    are looked at again when their changes were applied. All that is applied from here on is
    compared page by page, so the whole stays verified.
    """
    began = pursuit.work.host.now()
    if pursuit.state.verified:
        await pursuit.catch_up(check=True)
    else:
        await _compare(pursuit)
    await _settle(pursuit)
    # Not of both sides: rows may have been written between the two counts.
    count = await pursuit.target.count()
    rows = Difference(count, count)
    passed = pursuit.work.host.now() - began
    return TableReport(pursuit.state.name, rows, seconds=round(passed, 3))


async def _compare(pursuit: Pursuit) -> None:
    work, state = pursuit.work, pursuit.state
    for _ in range(_FULL_ROUNDS):
        await pursuit.catch_up()
        total = 2 * max(1, await pursuit.source.count())
        read = 0

        def progress(rows: int, total: int = total) -> None:
            nonlocal read
            read += rows
            work.progress(state.name, read, total)

        found = await differing_ids(
            work.origin.backend,
            work.goal.backend,
            state.name,
            host=work.host,
            ignore_vector=work.transform is not None,
            most=_NAMED,
            progress=progress,
        )
        await work.step("verify:compared")
        # Fewer than there were: rows that were deleted in the source since have no name any more.
        # Those changes are still to be applied, and are compared then.
        if max(map(len, (found.missing_ids, found.different_ids, found.extra_ids))) < _NAMED:
            pursuit.suspects = set(found.ids)
            return
    raise MigrationError(
        f"{found.total} rows of table {state.name!r} are not the same in both stores, or are "
        "written while they are compared: " + ", ".join(found.ids[:5])
    )


async def _settle(pursuit: Pursuit) -> None:
    """Look at what differed again, until it does not or is known to be wrong."""
    work, state = pursuit.work, pursuit.state
    for turn in range(_ROUNDS):
        if turn:
            await work.host.sleep(_REST)
        await pursuit.catch_up(check=True)
        before = set(await pursuit.unlike(sorted(pursuit.suspects)))
        # Whose change comes only now was rightly not the same.
        pursuit.suspects = set(before)
        written = await pursuit.catch_up(check=True)
        wrong = sorted(before - written)
        if wrong:
            raise MigrationError(
                f"{len(wrong)} rows of table {state.name!r} are not the same in both stores, and "
                f"nobody wrote them meanwhile: {', '.join(wrong[:5])}; `aiovec migrate verify "
                "--repair` writes them again"
            )
        if not pursuit.suspects:
            state.verified = True
            await work.save(state)
            work.tell("table", table=state.name)
            return
    raise MigrationError(
        f"rows of table {state.name!r} are written so often that they could not be compared: "
        + ", ".join(sorted(pursuit.suspects)[:5])
    )


async def come_to_rest(work: Work, pursuits: Sequence[Pursuit]) -> list[TableReport]:
    """Compare until nothing differs: for a source that cannot tell what changes meanwhile."""
    await work.enter(Phase.VERIFYING)
    reports = []
    for pursuit in pursuits:
        table = pursuit.state
        began = work.host.now()
        found = await _equal(work, pursuit)
        table.verified = True
        await work.save(table)
        work.tell("table", table=table.name)
        passed = round(work.host.now() - began, 3)
        reports.append(TableReport(table.name, found, seconds=passed))
    return reports


async def _equal(work: Work, pursuit: Pursuit) -> Difference:
    for turn in range(_SYNC_ROUNDS):
        if turn:
            await work.host.sleep(_SYNC_REST)
        found = await pursuit.synced()
        await work.step("verify:compared")
        if not found.total:
            return found
    raise MigrationError(
        f"table {pursuit.state.name!r} is written to all the time and keeps no changes, so "
        "the target is never equal to it; go on when it is at rest"
    )
