"""The end of a run, before or behind its switch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiovec.backend import MOVED, MoveMark, moves_of
from aiovec.errors import AiovecError, MigrationError, TableNotFoundError

from .comparing import differing_ids
from .model import Phase, TableState
from .places import Place
from .work import OpenTable, Work, has_left, mark_of, unmark


async def abort(work: Work, *, keep_target: bool) -> bool:
    """Release the source, which is as it was, and drop the tables made in the target.

    After a rollback too: what was written to the target has been carried back. One that is under
    way is called off, and the run goes on as it was before it; False then.
    """
    state = work.state
    if state.phase is Phase.ROLLING_BACK:
        await _call_off(work)
        return False
    if state.phase is Phase.DONE or await has_switched(work):
        raise MigrationError(f"it is too late to abort: {await _ways_on(work)}")
    await work.enter(Phase.ABORTING)
    for place in (work.origin, work.goal):
        await unmark(place, work.run)
    await work.step("abort:released")
    if work.origin.missing:
        work.tell("warning", f"{work.origin} is not there, so what was copied to the target stays")
    elif not keep_target and not work.goal.missing:
        await _drop_tables(work)
    await work.journal.remove()
    work.tell("done", "the run was aborted; the source is as it was")
    return True


async def _call_off(work: Work) -> None:
    """End a rollback that has not led stores back: those that are in use stay so."""
    state, used = work.state, work.goal
    if await has_left(used, work.run):
        raise MigrationError(
            "the run has been rolled back but for the last steps: complete that (aiovec migrate "
            "rollback), then abort it or finish it"
        )
    await unmark(used, work.run)
    await work.step("abort:released")
    state.switched = True
    await work.enter(Phase.DONE)
    work.tell("done", f"the rollback was called off; the stores stay in {used}")


async def has_switched(work: Work) -> bool:
    """Whether stores were led to the target and not back.

    Any one of the journal, the source and the target may tell: a migrator that was killed has not
    written it down, and a source that was restored since knows nothing of it.
    """
    if work.state.phase in (Phase.ROLLED_BACK, Phase.ABORTING):
        return False
    if work.state.switched or await has_left(work.origin, work.run):
        return True
    target = None if work.goal.missing else moves_of(work.goal.backend)
    return target is not None and (await target.move_record()).run == work.run


async def _is_cut_off(work: Work) -> bool:
    """Whether stores were led to the target, and the source does not say so any more."""
    return await has_switched(work) and not await has_left(work.origin, work.run)


async def _ways_on(work: Work) -> str:
    """Where a run is that has switched or is done, and the commands for it."""
    if await _is_cut_off(work):
        return (
            f"stores were led to {work.goal}, and {work.origin} was replaced, restored or removed "
            "since; `aiovec migrate finish` ends the run, without a way back"
        )
    if work.state.phase is not Phase.DONE:
        return f"stores have been led to {work.goal}; complete the run: `aiovec migrate run`"
    back = "; `aiovec migrate rollback` leads back" if await has_switched(work) else ""
    return f"the run is done{back}, `aiovec migrate finish` ends it"


async def _drop_tables(work: Work) -> None:
    target = work.goal.backend
    there = set(await target.tables())
    for table in work.state.tables.values():
        if table.name not in there:
            continue
        if not await _is_own(work, table):
            work.tell(
                "warning",
                f"the table {table.name!r} in {work.goal} has rows of somebody else, so it stays",
                table=table.name,
            )
            continue
        if table.made:
            try:
                await target.drop_table(table.name)
            except TableNotFoundError:
                continue
        else:  # it was there, and empty
            opened = await OpenTable.open(target, table.name)
            await opened.do(lambda handle: target.delete(handle, ids=None, where=None))
        await work.step("abort:dropped")


async def _is_own(work: Work, table: TableState) -> bool:
    """Whether all rows of the target's table came by this run, as far as that can be told."""
    if table.foreign:
        return False
    if table.created or table.rows or table.copied:
        return True
    opened = await OpenTable.open(work.goal.backend, table.name)
    if not await opened.count():
        return True
    if table.made:  # nothing was copied before its creation was written down
        return False
    # It was there and empty; a first batch may have come of which nothing was written down.
    try:
        found = await differing_ids(
            work.origin.backend,
            work.goal.backend,
            table.name,
            host=work.host,
            ignore_vector=bool(work.state.options.reembed),
            most=1,
        )
    except AiovecError:
        return False
    return not found.extra and not found.different


async def finish(work: Work) -> None:
    """Forget the run. A store that was left keeps its mark, which says where it has moved."""
    state = work.state
    if state.phase is Phase.ROLLING_BACK:
        raise MigrationError(
            "the run is being rolled back: complete that by `aiovec migrate rollback`, or call it "
            "off by `aiovec migrate abort`"
        )
    if await _is_cut_off(work):
        work.tell(
            "warning",
            f"{work.origin} does not say that stores were led to {work.goal}: make sure that "
            f"{state.config} names the one that is to be used",
        )
    elif await has_switched(work) and not state.phase.over:
        raise MigrationError(f"the run is not over: {await _ways_on(work)}")
    elif not state.phase.over:
        raise MigrationError(
            f"the run is not over (it is {state.phase}): go on with it by `aiovec migrate "
            f"{state.next_command}`, or end it by `aiovec migrate abort`"
        )
    for place in (work.origin, work.goal):
        await unmark(place, work.run)
    await work.step("finish:released")
    await work.journal.remove()


# By the marks alone, where the journal is lost


End = Callable[[Sequence[Place]], Awaitable[None]]
"""Ends a run in these stores, of which the one or the other may carry its mark."""

_NO_RUN = "there is no journal of a migration here, and no mark of one in {stores}"


async def end_run(places: Sequence[Place]) -> None:
    """What ``abort`` does: the marks of runs that are open go."""
    found = await _marked(places)
    runs = {mark.run for _, mark in found if not mark.left}
    if not runs:
        left = next((mark for _, mark in found if mark.state == MOVED), None)
        if left is not None:
            raise MigrationError(
                f"it is too late to abort: the run {left.run} has switched to {left.moved_to}; "
                "`aiovec migrate finish` ends it"
            )
        raise MigrationError(_NO_RUN.format(stores=_listed(places)))
    for place, mark in found:
        if mark.run in runs:
            await unmark(place, mark.run)


async def finish_run(places: Sequence[Place]) -> None:
    """What ``finish`` does: the store that was left says so for ever."""
    found = [(place, mark) for place, mark in await _marked(places) if mark.state == MOVED]
    if not found:
        raise MigrationError(_NO_RUN.format(stores=_listed(places)))
    newest = max(mark.generation for _, mark in found)
    for place, mark in found:
        moves = moves_of(place.backend)
        if moves is not None:
            # Of two stores of one run that were both left, the run led back into the older one.
            await moves.arrive(mark.run, newest)
            await unmark(place, mark.run)


async def _marked(places: Sequence[Place]) -> list[tuple[Place, MoveMark]]:
    found = []
    for place in places:
        mark = await mark_of(place)
        if mark is not None:
            found.append((place, mark))
    return found


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(map(str, places)) or "any store that could be meant"
