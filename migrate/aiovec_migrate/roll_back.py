"""The ends of a run other than its switch: rollback, abort and finish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

from aiovec.backend import Schema
from aiovec.backend.contract import Backend, TableHandle, moves_of
from aiovec.backend.marks import MOVED, MoveMark
from aiovec.errors import AiovecError, MigrationError, TableNotFoundError

from .catch_up import CatchUp, check_all
from .cut_over import Cutover, Toml, check_config
from .ends import (
    RunContext,
    everything,
    has_left,
    leads_nowhere,
    looked_at,
    mark_of,
    record_of,
    unmark,
)
from .host import Host
from .locate import Place
from .state import Event, Listener, Phase, TableState
from .toml import backend_in
from .verifying.compare import differing_ids


class Rollback:
    """A cut-over from the target, where the stores are, to the source, where they were."""

    def __init__(self, work: RunContext, toml: Toml | None) -> None:
        self._work = work
        self._new = work.origin
        self._old = work.goal
        self._toml = toml

    async def run(self) -> None:
        work, state = self._work, self._work.state
        toml = self._checked()
        if state.phase is Phase.DONE:
            # All that can refuse it comes before anything is written down.
            await self._check_stores()
            await self._check_tables()
            await toml.check(self._new, self._old)
            state.enter(Phase.ROLLING_BACK)
            state.switched = False
            await work.save(*state.tables.values())
            work.tell("phase")
            await work.step("phase:rolling-back")
        if not await self._has_turned(toml):
            await self._move(toml)
        await work.step("rollback:released")
        await work.enter(Phase.ROLLED_BACK)
        work.tell("done", "the rollback is already done")

    def _checked(self) -> Toml:
        state = self._work.state
        if not state.options.switch:
            raise MigrationError("only a migration that has switched can be rolled back")
        if state.phase not in (Phase.DONE, Phase.ROLLING_BACK):
            raise MigrationError(
                f"the run is {state.phase}: complete it first (aiovec migrate {state.next_command})"
            )
        if state.options.reembed:
            raise MigrationError(
                "the vectors are of another model now, so they cannot be copied back. If you can "
                "lose the writes since the switch: end the run (aiovec migrate finish), make the "
                "old store independent again (aiovec migrate forget), and name its backend in the "
                "TOML file"
            )
        if self._toml is None:
            raise MigrationError("a rollback changes a TOML file: name it with --config")
        check_config(state, self._toml)
        return self._toml

    async def _has_turned(self, toml: Toml) -> bool:
        """Complete a turn back that was decided; False where none was."""
        work = self._work
        new = work.leaving()
        mark = await new.move_mark()
        if mark is None or mark.run != work.run or not mark.left:
            return False
        new.act_for(work.run)
        await Cutover(work, toml, [], Phase.ROLLING_BACK).complete()
        return True

    async def _move(self, toml: Toml) -> None:
        work = self._work
        await self._check_stores()
        is_followed = await self._is_followed()
        for table in work.state.tables.values():
            table.verified = False  # whoever killed the rollback may have done more
            if not is_followed:
                table.since = None  # which changes the source lacks is not known
        await work.save(*work.state.tables.values())
        await work.mark(toml.path)
        await work.step("rollback:marked")
        # A killed migrator may have left its writers in a pause.
        await work.leaving().resume_writers(work.run)
        await self._prepare()
        catch_ups = await self._catch_ups()
        for catch_up in catch_ups:
            await catch_up.catch_up()
            if work.state.options.verify:
                await check_all(catch_up)
        await Cutover(work, toml, catch_ups, Phase.ROLLING_BACK).turn()

    async def _is_followed(self) -> bool:
        """Return whether the target has kept all changes since those that were carried back.

        It has not where no rollback has begun, nor where the mark of one was taken off meanwhile
        (`abort`, with its last steps missing or without the journal), nor where it was restored.
        """
        work = self._work
        mark = await mark_of(self._new)
        if mark is None or mark.run != work.run:
            return False
        work.leaving().act_for(work.run)
        names = await self._new.backend.tables()
        for table in work.state.tables.values():
            if table.since is None or table.name not in names:
                continue
            source = await work.ends.source_table(table.name)
            if await source.do(work.leaving().change_number) < table.since:
                return False
        return True

    async def _check_stores(self) -> None:
        """MigrationError where one of the stores is not what the switch left."""
        run = self._work.run
        old = moves_of(self._old.backend)
        mark = None if old is None else await old.move_mark()
        record = await self._work.leaving().move_record()
        for store, is_it in (
            (self._old, mark is not None and mark.run == run and mark.left),
            (self._new, record.run == run),
        ):
            if not is_it:
                raise MigrationError(
                    f"{store} is not the store that the run {run} switched: it was replaced, "
                    "restored or emptied since, so no rows are copied from or to it. End the run, "
                    "without a way back: aiovec migrate finish"
                )
        if record.mark is not None and record.mark.run != run:
            raise MigrationError(
                f"another migration, run {record.mark.run}, is open on {self._new}: end it first"
            )

    async def _check_tables(self) -> None:
        """The error that a table of the store in use gives where it cannot be read at all."""
        backend = self._new.backend
        for name in await backend.tables():
            await looked_at(backend, name, partial(_read, backend, whole=False))

    async def _catch_ups(self) -> list[CatchUp]:
        return [await CatchUp.of(self._work, table) for table in self._work.state.tables.values()]

    # Tables

    async def _prepare(self) -> None:
        """Make the source's tables those that the target has now. Their schemas stay until the end
        of the run: its mark is set.

        A table that the target does not have may have been dropped since the switch or lost, and
        nothing tells which. So the source's stays where it has rows.
        """
        work, old, new = self._work, self._old.backend, self._new.backend
        tables = work.state.tables
        there, now = set(await old.tables()), await new.tables()
        for name in [name for name in tables if name not in now]:
            del tables[name]
            if name in there:
                await self._drop_or_keep(name)
        for name in now:
            opened = await work.ends.source_table(name)
            schema = opened.schema
            if name not in tables:
                # Apps made it while the run led them there, so it goes with the other copies.
                tables[name] = TableState(
                    name, schema.to_json(), made=True, created=True, copied=True
                )
                await work.save(tables[name])
            if name in there and not await self._fits(name, schema):
                # What is dropped here is all that is left where the new one cannot be read.
                await opened.do(partial(_read, new, whole=True))
                await work.ends.drop_target_table(name)
                await work.step("rollback:dropped")
                work.tell(
                    "note",
                    "was recreated after the switch, so the rollback recreates it too",
                    table=name,
                )
                there.discard(name)
            if name not in there:
                await old.create_table(name, schema)
                await work.step("rollback:created")

    async def _drop_or_keep(self, name: str) -> None:
        work = self._work
        rows = await (await work.ends.target_table(name)).count()
        if rows:
            text = (
                f"the table {name!r} is missing in {self._new}; its {rows:,} rows from before the "
                f"switch stay in {self._old}: drop it there if you dropped it on purpose"
            )
            work.tell("warning", text, table=name)
            await work.step("rollback:kept")
            return
        await work.ends.drop_target_table(name)
        await work.step("rollback:dropped")
        work.tell("note", "was dropped after the switch, so the rollback drops it too", table=name)

    async def _fits(self, name: str, schema: Schema) -> bool:
        """Return whether the source's table has the schema, after adding missing fields."""
        old = self._old.backend
        table = await self._work.ends.target_table(name)
        known = wanted = table.schema
        added = [field for field in schema.fields if field not in known.fields]
        try:
            for field in added:
                wanted = wanted.with_field(field, schema.fields[field])
        except AiovecError:
            return False
        if wanted.differences(schema):
            return False
        for field in added:
            await old.add_field(table.handle, field, schema.fields[field])
            await table.reopen()
        return True


async def _read(backend: Backend, table: TableHandle, *, whole: bool) -> None:
    """Read every row, or the first ones, for the error that those give which cannot be read."""
    rows = backend.export(
        table, where=None, columns=everything(table.schema), after=None, batch_size=1000
    )
    async with aclosing(rows):
        async for _ in rows:
            if not whole:
                break


async def abort(work: RunContext, toml: Toml | None, *, keep_target: bool) -> bool:
    """Release the source, which is as it was, and drop the tables made in the target.

    After a rollback too: what was written to the target has been carried back. One that is under
    way is called off, and the run goes on as it was before it; False then.
    """
    state = work.state
    if state.phase is Phase.ROLLING_BACK:
        await _call_off(work, toml)
        return False
    if state.phase is Phase.DONE or await has_switched(work):
        raise MigrationError(f"it is too late to abort: {await _ways_on(work)}")
    if state.phase not in (Phase.ABORTING, Phase.ROLLED_BACK) and state.begun and state.marked:
        mark = await mark_of(work.origin)
        is_whole = all(table.copied for table in state.tables.values())
        state.lost = is_whole and not state.released and (mark is None or mark.run != work.run)
    if state.phase is Phase.ROLLED_BACK:
        state.lost = await leads_nowhere(work.goal, work.origin, work.run)
    await work.enter(Phase.ABORTING)
    if (goal := moves_of(work.goal.backend)) is not None:
        goal.act_for(work.run)
    await unmark(work.origin, work.run)
    await work.step("abort:released")
    if kept := await _why_kept(work):
        if await has_left(work.goal, work.run):
            kept += f"; to use {work.goal} again, make it independent (aiovec migrate forget)"
        work.tell("warning", kept)
    elif not keep_target and not work.goal.missing:
        await _drop_tables(work)
    await unmark(work.goal, work.run)
    await work.step("abort:dropped")
    await work.journal.remove()
    work.tell("done", "the run was aborted; the source is as it was")
    return True


async def _why_kept(work: RunContext) -> str:
    """Why all that the run has made in the target stays there; empty where nothing says so."""
    if work.origin.missing:
        return f"{work.origin} does not exist, so the copies in the target are kept"
    if work.state.lost:
        return (
            f"{work.origin} is not the store that the run knows: it was replaced or restored, so "
            "the copies in the target are kept"
        )
    taken = await work.taken()
    return taken and f"{taken}, so the tables there are kept"


async def _call_off(work: RunContext, toml: Toml | None) -> None:
    """End a rollback that has not led stores back, or not to a store that is still there: those
    that are in use stay so."""
    state, used = work.state, work.goal
    if await leads_nowhere(used, work.origin, work.run):
        # What it was left for is lost: it has all rows, and is put into use again.
        moves, mark = moves_of(used.backend), await mark_of(used)
        if moves is not None and mark is not None:
            await moves.arrive(work.run, mark.generation + 1)
        if toml is not None and toml.path == state.config:  # which may name the lost store already
            try:
                await toml.flip(used)
            except AiovecError as exc:
                work.tell("warning", str(exc))
        work.tell(
            "warning",
            f"{work.origin} is lost to this run. If apps wrote there since the rollback led them "
            f"to it, {used} does not have that; let no app use it, should it come back",
        )
    elif await has_left(used, work.run):
        raise MigrationError(
            "the last steps of the rollback are missing: complete it (aiovec migrate rollback), "
            "then abort or finish the run"
        )
    await unmark(used, work.run)
    await work.step("abort:released")
    state.switched = True
    await work.enter(Phase.DONE)
    work.tell("done", f"the rollback was cancelled; apps stay on {used}")


async def has_switched(work: RunContext) -> bool:
    """Return whether the run has switched to the target and not back.

    Any one of the journal, the source and the target may tell: a migrator that was killed has not
    written it down, and a source that was restored since knows nothing of it.
    """
    if work.state.phase in (Phase.ROLLED_BACK, Phase.ABORTING):
        return False
    if work.state.switched or await has_left(work.origin, work.run):
        return True
    target = None if work.goal.missing else moves_of(work.goal.backend)
    return target is not None and (await target.move_record()).run == work.run


async def _is_cut_off(work: RunContext) -> bool:
    """Return whether the run has switched, and the source does not say so any more."""
    return await has_switched(work) and not await has_left(work.origin, work.run)


async def _ways_on(work: RunContext) -> str:
    """Where a run is that has switched or is done, and the commands for it."""
    if await _is_cut_off(work):
        return (
            f"apps were switched to {work.goal}, and {work.origin} was replaced, restored or "
            "removed "
            "since; `aiovec migrate finish` ends the run, without a way back"
        )
    if await leads_nowhere(work.origin, work.goal, work.run):
        return (
            f"apps were switched to {work.goal}, which was replaced, emptied or removed since; "
            "`aiovec migrate finish` ends the run, without a way back"
        )
    if work.state.phase is not Phase.DONE:
        return f"apps were switched to {work.goal}; complete the run: `aiovec migrate run`"
    back = ""
    if await has_switched(work) and not work.state.options.has_no_way_back:
        back = "; `aiovec migrate rollback` goes back"
    return f"the run is done{back}, `aiovec migrate finish` ends it"


async def _drop_tables(work: RunContext) -> None:
    target = work.goal.backend
    there = set(await target.tables())
    mark = await mark_of(work.goal)
    # Nobody else can have written there; behind a rollback, nothing that was not carried back.
    closed = work.state.filled or (mark is not None and mark.run == work.run and mark.left)
    for table in work.state.tables.values():
        if table.name not in there:
            continue
        if not await _is_own(work, table, closed=closed):
            work.tell(
                "warning",
                f"the table {table.name!r} in {work.goal} has rows that are not those of the "
                "source, which others may have written, so it is kept; drop it if it is of no use",
                table=table.name,
            )
            continue
        if table.made:
            try:
                await work.ends.drop_target_table(table.name)
            except TableNotFoundError:
                continue
        else:  # it was there, and empty
            opened = await work.ends.target_table(table.name)
            await opened.do(lambda handle: target.delete(handle, ids=None, where=None))
        await work.step("abort:dropped")


async def _is_own(work: RunContext, table: TableState, *, closed: bool) -> bool:
    """Return whether all rows of the target's table are known to come from this run."""
    if table.foreign:
        return False
    if closed and (table.created or table.rows or table.copied):
        return True
    try:
        opened = await work.ends.target_table(table.name)
        if not await opened.count():
            return True
        if table.made and not table.created:
            return False  # nothing was copied before its creation was written down
        found = await differing_ids(
            await work.ends.source_table(table.name),
            opened,
            host=work.host,
            ignore_vector=bool(work.state.options.reembed),
            most=1,
        )
    except AiovecError:
        return False
    return not found.extra and not found.different


async def finish(work: RunContext) -> None:
    """Forget the run. A store that was left keeps its mark, which says where it has moved."""
    state = work.state
    if state.phase is Phase.ROLLING_BACK:
        raise MigrationError(
            "the run is being rolled back: complete the rollback with `aiovec migrate rollback`, "
            "or cancel it with `aiovec migrate abort`"
        )
    if await _is_cut_off(work):
        work.tell(
            "warning",
            f"{work.origin} does not say that apps were switched to {work.goal}: make sure that "
            f"{state.config} names the store to use",
        )
    elif await leads_nowhere(work.origin, work.goal, work.run):
        work.tell("warning", _lost_text(work.goal, work.origin, state.config))
    elif await has_switched(work) and not state.phase.over:
        raise MigrationError(f"the run is not over: {await _ways_on(work)}")
    elif not state.phase.over:
        ways = f"continue it with `aiovec migrate {state.next_command}`"
        if state.phase is not Phase.ABORTING:
            ways += ", or end it with `aiovec migrate abort`"
        raise MigrationError(f"the run is not over (it is {state.phase}): {ways}")
    elif await has_switched(work) and state.config:
        await _tell_of_toml(state.config, work.goal.configured, work.host, work.listener)
    for place in (work.origin, work.goal):
        await unmark(place, work.run)
    await work.step("finish:released")
    await work.journal.remove()


def _lost_text(goal: object, origin: object, config: str) -> str:
    return (
        f"what is at {goal} is not the store into which the rows were carried: that was replaced, "
        f"restored, emptied or removed. {origin} has the rows from before the switch; to use it, "
        f"make it independent again (aiovec migrate forget), and name it in {config}"
    )


async def _tell_of_toml(config: str, used: str, host: Host, listener: Listener) -> None:
    """Warn where the TOML still names the backend that was left. It may be edited at any time."""
    named = ""
    with suppress(AiovecError, OSError):
        named = await host.in_thread(backend_in, Path(config))
    if named and named != used:
        listener(
            Event(
                "warning",
                "finished",
                text=f"{config} names the backend {named!r}, and apps use {used!r}: those that "
                "start anew find it only by the mark in the store that was left, so name "
                f"{used!r} there before that store is removed or forgotten",
            )
        )


# By the marks alone, where the journal is lost


End = Callable[[Sequence[Place]], Awaitable[None]]
"""Ends a run in these stores, of which the one or the other may carry its mark."""

_NO_RUN = "there is no journal of a migration here, and no migration mark in {stores}"


async def end_run(places: Sequence[Place]) -> None:
    """Do what ``abort`` does: remove the marks of open runs."""
    found = await _marked(places)
    left = {mark.run: mark for _, mark in found if mark.left}
    runs = {
        mark.run for _, mark in found if not mark.left and not (mark.filling and mark.run in left)
    }
    if not runs:
        for _, mark in found:
            if mark.state == MOVED or mark.filling:
                switch = left[mark.run]
                raise MigrationError(
                    f"it is too late to abort: the run {switch.run} has switched to "
                    f"{switch.moved_to}; `aiovec migrate finish` ends it"
                )
        raise MigrationError(_NO_RUN.format(stores=_listed(places)))
    for place, mark in found:
        if mark.run in runs:
            await unmark(place, mark.run)


async def finish_run(places: Sequence[Place], *, host: Host, listener: Listener) -> None:
    """Do what ``finish`` does: the store that was left keeps saying so."""
    marked = await _marked(places)
    left = Counter(mark.run for _, mark in marked if mark.left)
    # Behind a switch that is not over there is one that says so, or the store to which it led does
    # not know of it yet: it is still being filled, or says itself that it was left, for the other.
    runs = {
        mark.run
        for _, mark in marked
        if left[mark.run] and (mark.state == MOVED or not mark.left or left[mark.run] > 1)
    }
    if not runs:
        for _, mark in marked:
            if mark.filling:
                raise mark.frozen_error()
        raise MigrationError(_NO_RUN.format(stores=_listed(places)))
    found = [(place, mark) for place, mark in marked if mark.run in runs]
    by_generation = sorted((mark for _, mark in found), key=lambda mark: mark.generation)
    newest = {mark.run: mark for mark in by_generation}
    last = by_generation[-1]
    reached = [place for place in places if place.backend.target == last.target]
    if any([not last.leads_to(await record_of(place)) for place in reached]):
        listener(
            Event("warning", "finished", text=_lost_text(reached[0], last.source, last.config))
        )
    elif last.config:
        await _tell_of_toml(last.config, last.backend, host, listener)
    # Stores are first put into use. Whoever is killed behind that can end the rest as well.
    for place, mark in found:
        if (moves := moves_of(place.backend)) is not None:
            # Of two stores of one run that were both left, the run led back into the older one.
            await moves.arrive(mark.run, newest[mark.run].generation)
    for place, mark in found:
        await unmark(place, mark.run)


async def _marked(places: Sequence[Place]) -> list[tuple[Place, MoveMark]]:
    found = []
    for place in places:
        mark = await mark_of(place)
        if mark is not None:
            found.append((place, mark))
    return found


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(map(str, places)) or "any store of the TOML file"
