"""The end of a run, before or behind its switch."""

from __future__ import annotations

from aiovec.backend import Moves
from aiovec.errors import MigrationError, TableNotFoundError

from .cutover import ALL_HAVE_LOOKED, Toml
from .model import Phase
from .work import OpenTable, Work, unmark


async def abort(work: Work, toml: Toml | None, *, keep_target: bool) -> None:
    """Release the source, which is as it was, and drop the tables made in the target.

    After a rollback too: what was written to the target has been carried back.
    """
    state = work.state
    if state.phase is Phase.ROLLING_BACK:
        raise MigrationError(
            "the run is being rolled back: complete that (aiovec migrate rollback), then abort it "
            "or finish it"
        )
    if state.phase is Phase.ROLLED_BACK:
        if state.switched:
            await work.host.sleep(ALL_HAVE_LOOKED)
        switched = False
    else:
        switched = await _has_switched(work, toml)
    if state.phase is Phase.DONE or switched:
        raise MigrationError(
            "it is too late to abort: the run is done"
            + ("; `aiovec migrate rollback` leads back" if switched else "")
            + ", `aiovec migrate finish` ends it"
        )
    await work.enter(Phase.ABORTING)
    for place in (work.origin, work.goal):
        await unmark(place.backend, work.run)
    await work.step("abort:released")
    if not keep_target:
        await _drop_tables(work)
    await work.journal.remove()
    work.tell("done", "the run was aborted; the source is as it was")


async def _has_switched(work: Work, toml: Toml | None) -> bool:
    """Whether stores have been led to the target, also where nothing was written down of it."""
    state, source = work.state, work.origin.backend
    if isinstance(source, Moves):
        mark = await source.move_mark()
        if mark is not None and mark.run == state.run:
            return mark.state == "moved"
    if state.phase is Phase.DONE:
        return state.options.switch
    if not state.switched or toml is None:
        return False
    return await toml.backend() == work.goal.configured


async def _drop_tables(work: Work) -> None:
    target = work.goal.backend
    there = set(await target.tables())
    for table in work.state.tables.values():
        if table.name not in there:
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


async def finish(work: Work) -> None:
    """Remove the marks and forget the run."""
    state = work.state
    if not state.phase.over:
        raise MigrationError(
            f"the run is not over (it is {state.phase}): go on with it by `aiovec migrate run`, "
            "or end it by `aiovec migrate abort`"
        )
    if state.switched:
        # Until each store has looked at the TOML, only the mark keeps it from the old backend.
        await work.host.sleep(ALL_HAVE_LOOKED)
    for place in (work.origin, work.goal):
        await unmark(place.backend, work.run)
    await work.step("finish:released")
    await work.journal.remove()
