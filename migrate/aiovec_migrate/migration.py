"""Run a migration from its plan to its end, or continue it from wherever it was killed."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from aiovec.backend import Schema
from aiovec.backend.contract import Backend, moves_of
from aiovec.errors import MigrationError, TableExistsError

from .catch_up import CatchUp, check_all, come_to_rest
from .copy import copy_table
from .cut_over import Cutover, Toml, check_config
from .ends import ALTERED, Ends, OpenTable, RunContext, Transform, has_left, mark_of, unmark
from .host import Host, RealHost, Step, no_step
from .journal import Journal
from .locate import Place
from .roll_back import Rollback, abort, finish, has_switched
from .state import ONE_WAY, Listener, Options, Phase, RunState, TableState, unheard
from .verifying.report import TableReport, VerifyReport

_HINT = "end that run (aiovec migrate abort or finish), or name another journal (--journal)"


def check_fits(state: RunState, migration: Migration, *, ending: bool = False) -> None:
    """MigrationError, with the reason, where the journal is of another migration."""
    for what, known, given in (
        ("source", state.source, migration.source.identity),
        ("target", state.target, migration.target.identity),
    ):
        if known != given:
            raise MigrationError(
                f"the journal is of the migration {state.run}, whose {what} is {known}, not "
                f"{given}; {_HINT}"
            )
    if ending:
        return
    options = migration.options
    if state.phase is Phase.ABORTING:
        raise MigrationError("the run is being aborted; complete the abort: aiovec migrate abort")
    if state.phase is Phase.ROLLING_BACK:
        raise MigrationError(
            "the run is being rolled back; complete the rollback (aiovec migrate rollback), or "
            "cancel it (aiovec migrate abort)"
        )
    if state.phase is Phase.ROLLED_BACK:
        raise MigrationError(
            "the run was rolled back; end it (aiovec migrate finish), or also drop its copies "
            "(aiovec migrate abort)"
        )
    if state.options.tables != options.tables:
        raise MigrationError(
            f"the journal is of a migration of {_named(state.options.tables)}, not of "
            f"{_named(options.tables)}; {_HINT}"
        )
    if state.options.reembed != options.reembed:
        raise MigrationError(
            f"the journal is of a migration {_model(state.options.reembed)}, not "
            f"{_model(options.reembed)}; {_HINT}"
        )
    if state.phase is Phase.DONE and options.switch and not state.options.switch:
        raise MigrationError(
            "the run ended without a switch; end it (aiovec migrate finish) and start a run with "
            "--switch into an empty target"
        )
    if state.options.switch and options.switch:
        check_config(state, migration.toml)


async def check_source(work: RunContext) -> None:
    """MigrationError where the source is not the one that the run began with."""
    source, backend = work.leaving(), work.origin.backend
    mark = await source.move_mark()
    reason = ""
    if mark is None:
        reason = "it has no mark of this run"
    elif mark.run != work.run:
        reason = f"it has the mark of another run, {mark.run}"
    else:
        source.act_for(work.run)
        for table in work.state.tables.values():
            try:
                number = await source.change_number(await backend.open_table(table.name))
            except ALTERED:
                reason = f"its table {table.name!r} is gone"
                break
            if table.since is not None and number < table.since:
                reason = f"its table {table.name!r} is older than what was copied from it"
                break
    switched = await has_switched(work)
    if switched and not reason:
        reason = "it does not say that apps were switched away from it"
    if reason:
        cure = (
            f"apps were switched to {work.goal}, so end the run (aiovec migrate finish), and name "
            "the store to use in the TOML file"
            if switched
            else "end the run (aiovec migrate abort) and start again"
        )
        raise MigrationError(
            f"{work.origin} is not the store that the run {work.run} started with: {reason}. It "
            f"was replaced or restored; {cure}"
        )


def _named(tables: tuple[str, ...] | None) -> str:
    return "all tables" if tables is None else "the tables " + ", ".join(tables)


def _model(name: str) -> str:
    return f"with {name}" if name else "without a change of model"


async def prepare(work: RunContext) -> None:
    """Have every table in the target, and know from which change on to catch up."""
    state = work.state
    source = work.origin.backend
    names = state.options.tables or tuple(await source.tables())
    there = set(await work.goal.backend.tables())
    for name in names:
        opened = await work.ends.source_table(name)
        schema = opened.schema
        if work.transform is not None:
            schema = work.transform.target_schema(schema)
        table = state.tables.get(name)
        if table is None:
            table = TableState(name, schema.to_json())
            table.made = name not in there
            if not table.made:
                await _check_empty(work, name, schema)
            table.total = await opened.count()
            feed = moves_of(source)
            if feed is not None:
                table.since = await opened.do(feed.change_number)
            state.tables[name] = table
            await work.save(table)
            await work.step("table:noted")
        elif table.schema != schema.to_json():
            raise MigrationError(
                f"the table {name!r} of the source has a different schema than when the run "
                "started, so this is another source; end the run: aiovec migrate abort"
            )
        await _create(work, table, schema, there)


async def _check_empty(work: RunContext, name: str, schema: Schema) -> None:
    found = await work.ends.target_table(name)
    differences = found.schema.differences(schema)
    if differences:
        raise MigrationError(
            f"the target already has a table {name!r} with a different schema: "
            + "; ".join(differences)
        )
    rows = await found.count()
    if rows:
        raise MigrationError(f"the target has a table {name!r} already, with {rows} rows")


async def _create(work: RunContext, table: TableState, schema: Schema, there: set[str]) -> None:
    if table.name not in there:
        if table.rows or not (table.made or table.foreign):
            raise MigrationError(
                f"the table {table.name!r} is missing in the target, so this is another target "
                f"than {work.state.target}; end the run: aiovec migrate abort"
            )
        if table.foreign:  # it is gone again
            table.made, table.foreign = True, False
            await work.save(table)
        try:
            await work.goal.backend.create_table(table.name, schema)
        except TableExistsError as exc:
            raise await _foreign(work, table) from exc
        await _created(work, table)
        await work.step("table:created")
        return
    if table.foreign:
        raise await _foreign(work, table)
    found = await work.ends.target_table(table.name)
    if table.made and not table.created:
        # A run that was killed here had copied nothing.
        if await found.count():
            raise await _foreign(work, table)
        await _created(work, table)
    differences = found.schema.differences(schema)
    if differences:
        raise MigrationError(
            f"the table {table.name!r} in the target no longer has the schema that the run gave "
            "it: " + "; ".join(differences)
        )


async def _created(work: RunContext, table: TableState) -> None:
    table.created = True
    await work.save(table)


async def _foreign(work: RunContext, table: TableState) -> MigrationError:
    """Write down that the table is somebody else's, for whoever goes on or aborts; the error."""
    table.made, table.foreign = False, True
    await work.save(table)
    return MigrationError(
        f"somebody else created the table {table.name!r} in the target when this run was about to; "
        "end the run, which keeps that table: aiovec migrate abort"
    )


async def put_in_order(work: RunContext, catch_ups: Sequence[CatchUp]) -> None:
    """Have the target rewrite what came in parts, and build its indexes.

    It would do so by itself a little later, and then in the way of the verification.
    """
    target = work.goal.backend
    await work.enter(Phase.INDEXING)
    for catch_up in catch_ups:
        table = catch_up.state
        if table.indexed:
            continue
        if await catch_up.target.count():
            await catch_up.target.do(target.optimize)
            if work.state.options.index and target.supports("indexes"):
                await _index(catch_up.target, target)
        table.indexed = True
        await work.save(table)
        await work.step("indexed")
        work.tell("table", table=table.name)


async def _index(table: OpenTable, backend: Backend) -> None:
    """Build what "auto" takes, where the target has not done so by itself."""
    there = await table.do(backend.indexes)
    if not any(index.column == table.schema.vector for index in there):
        await table.do(partial(backend.create_index, kind="auto", wait=True, options={}))


__all__ = ["Migration", "Outcome", "Transform"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run."""

    state: RunState
    report: VerifyReport | None = None


Obstacles = Callable[[Ends, str], Awaitable[Sequence[str]]]
"""Returns what prevents a switch between the open stores, in words, for the run of this name."""


async def no_obstacles(ends: Ends, run: str) -> Sequence[str]:
    """Find none."""
    return ()


class Migration:
    """One migration between two open stores.

    ``journal`` is locked by the caller (``async with journal.locked()``). ``toml`` is needed for a
    switch only, and ``obstacles`` where a run that goes on is to look for them.
    """

    def __init__(
        self,
        source: Place,
        target: Place,
        journal: Journal,
        options: Options | None = None,
        *,
        host: Host | None = None,
        toml: Toml | None = None,
        transform: Transform | None = None,
        listener: Listener = unheard,
        step: Step = no_step,
        obstacles: Obstacles = no_obstacles,
    ) -> None:
        self.ends = Ends(source, target)
        self._journal = journal
        self._options = options or Options()
        self._host = host or RealHost()
        self._toml = toml
        self._transform = transform
        self._listener = listener
        self._step = step
        self._obstacles = obstacles

    # Run

    async def run(self) -> Outcome:
        """Begin, or go on where the journal says that a run was."""
        self._check_switch(self._options)
        state = await self._journal.load()
        if state is None:
            state = await self._begin()
        else:
            check_fits(state, self)
            if state.phase is Phase.DONE:
                return Outcome(state)
            if state.released:
                await self._release(self._work(state))
                outcome = await self._done(state)
                check_fits(state, self)  # what is done without a switch cannot get one
                return outcome
            if await has_left(self.source, state.run):
                await self._complete(state)
                return await self._done(state)
            await self._resume(state)
        work = self._work(state)
        await self._mark(work)
        reports = await self._move(work)
        if not state.options.switch:
            await self._release(work)
        return await self._done(state, reports)

    async def _complete(self, state: RunState) -> None:
        """Do what is left of a switch that was decided, whatever the options say now."""
        check_config(state, self._toml)
        toml = self._check_switch(state.options)
        work = self._work(state)
        work.leaving().act_for(state.run)
        if toml is not None:
            await Cutover(work, toml, []).complete()

    async def _resume(self, state: RunState) -> None:
        """Have the state as a run goes on from it; refuse what a plan would refuse."""
        work = self._work(state)
        if taken := await work.taken():
            raise MigrationError(
                f"{taken}, so this run writes nothing more there; end it, which keeps the tables "
                "of that store: aiovec migrate abort"
            )
        if state.begun and moves_of(self.source.backend) is not None:
            await check_source(work)
        obstacles = await self._obstacles(self.ends, state.run) if self._options.switch else ()
        if obstacles:
            raise MigrationError("nothing was switched: " + "; ".join(obstacles))
        state.options = self._options
        if self._toml is not None:
            state.config = self._toml.path
        # Whoever killed the run may have done more: every row is compared again.
        for table in state.tables.values():
            table.verified = False

    async def _done(self, state: RunState, reports: Sequence[TableReport] = ()) -> Outcome:
        work = self._work(state)
        await work.enter(Phase.DONE)
        work.tell("done")
        return Outcome(state, self._report(state, reports))

    def _report(self, state: RunState, tables: Sequence[TableReport]) -> VerifyReport | None:
        """Return the report of the comparison; None if the tables were not compared."""
        if not tables:
            return None
        seconds = round(sum(table.seconds for table in tables), 3)
        return VerifyReport(
            str(state.source),
            str(state.target),
            state.started,
            seconds,
            tuple(tables),
            ignored_vector=self._transform is not None,
        )

    @property
    def source(self) -> Place:
        return self.ends.source

    @property
    def target(self) -> Place:
        return self.ends.target

    @property
    def options(self) -> Options:
        return self._options

    @property
    def transform(self) -> Transform | None:
        return self._transform

    @property
    def toml(self) -> Toml | None:
        return self._toml

    def _check_switch(self, options: Options) -> Toml | None:
        """The TOML to flip; None without a switch. MigrationError where it cannot be made."""
        if self.source.identity == self.target.identity:
            raise MigrationError(f"source and target are the same store: {self.source}")
        if not options.switch:
            return None
        if self._toml is None:
            raise MigrationError("--switch changes a TOML file: name it with --config")
        if options.has_no_way_back and not options.one_way:
            raise MigrationError(ONE_WAY)
        if not self.target.configured or not self.source.configured:
            raise MigrationError(
                "--switch leads apps from one backend of the TOML file to another, so name both "
                "backends as the file does"
            )
        if self.target.configured == self.source.configured:
            raise MigrationError(
                "source and target are the same backend of the TOML file, "
                f"{self.source.configured!r}"
            )
        self._work(self._planned()).leaving()
        return self._toml

    def _planned(self) -> RunState:
        return RunState(
            run=uuid.uuid4().hex,
            source=self.source.identity,
            target=self.target.identity,
            options=self._options,
            config="" if self._toml is None else self._toml.path,
            source_name=self.source.configured or self.source.backend.address,
            target_name=self.target.configured or self.target.backend.address,
            started=self._host.wall().isoformat(timespec="seconds"),
        )

    async def _begin(self) -> RunState:
        state = self._planned()
        goal = moves_of(self.target.backend)
        if goal is not None:
            state.generation = (await goal.move_record()).generation
        work = self._work(state)
        await work.save()
        await work.step("planned")
        return state

    def _work(self, state: RunState, *, back: bool = False) -> RunContext:
        ends = self.ends.reversed() if back else self.ends
        return RunContext(
            ends, self._journal, state, self._host, self._step, self._listener, self._transform
        )

    async def _mark(self, work: RunContext) -> None:
        """Act for the run on both stores."""
        state = work.state
        leavable = moves_of(self.source.backend) is not None
        if not state.begun:
            state.marked = leavable
            state.filled = await self._is_free(state.run)
            await work.save()
            if state.filled:
                await work.fill()
                state.filled = not await self.target.backend.tables()
            mark = await mark_of(self.target)
            if not state.filled and mark is not None and mark.filling:
                await unmark(self.target, state.run)  # somebody was faster
        await work.mark("" if self._toml is None else self._toml.path)
        work.marked_at = work.host.now()
        await work.step("marked")
        if leavable:  # a killed migrator may have left its writers in a pause
            await work.leaving().resume_writers(state.run)
        if not state.begun:
            state.begun = True
            await work.save()

    async def _is_free(self, run: str) -> bool:
        """Return whether the target can have no user yet, for it has no tables.

        Nobody else is to write to it then. Where it has some, their users go on.
        """
        goal = moves_of(self.target.backend)
        mark = None if goal is None else await goal.move_mark()
        if goal is None or (mark is not None and not (mark.filling and mark.run == run)):
            return False
        return not await self.target.backend.tables()

    async def _move(self, work: RunContext) -> list[TableReport]:
        state = work.state
        reports: list[TableReport] = []
        await prepare(work)
        tables = list(state.tables.values())
        if not all(table.copied for table in tables):
            await work.enter(Phase.COPYING)
            for table in tables:
                if not table.copied:
                    await copy_table(work, table)
        await work.enter(Phase.CATCHING_UP)
        catch_ups = await self._catch_ups(work)
        feed = moves_of(self.source.backend) is not None
        if feed:
            for catch_up in catch_ups:
                await catch_up.catch_up()
        await put_in_order(work, catch_ups)
        if feed:
            if state.options.verify:
                await work.enter(Phase.VERIFYING)
                reports = [await check_all(catch_up) for catch_up in catch_ups]
            else:
                for catch_up in catch_ups:
                    await catch_up.catch_up()
        elif not state.options.switch:
            reports = await come_to_rest(work, catch_ups)
        if state.options.switch and self._toml is not None:
            await work.enter(Phase.CUTTING_OVER)
            await Cutover(work, self._toml, catch_ups).turn()
        return reports

    async def _catch_ups(self, work: RunContext) -> list[CatchUp]:
        return [await CatchUp.of(work, table) for table in work.state.tables.values()]

    # The end

    async def _release(self, work: RunContext) -> None:
        """Let go of both stores: nothing was switched."""
        work.state.released = True
        await work.save()
        for place in (self.source, self.target):
            await unmark(place, work.run)
        await work.step("released")

    async def abort(self, *, keep_target: bool = False) -> RunState | None:
        """End an open run: the source is as it was, the tables made in the target are dropped.

        A rollback is called off instead, and the run, which is done, is the answer.
        """
        state = await self._needed()
        ended = await abort(self._work(state), self._toml, keep_target=keep_target)
        return None if ended else state

    async def finish(self) -> None:
        """Forget a run that is over: the mark in the source and the journal go."""
        await finish(self._work(await self._needed()))

    async def rollback(self) -> RunState:
        """Carry back what was written since the switch and flip the TOML back."""
        state = await self._needed()
        if state.phase is not Phase.ROLLED_BACK:
            await Rollback(self._work(state, back=True), self._toml).run()
        return state

    async def _needed(self) -> RunState:
        state = await self._journal.load()
        if state is None:
            raise MigrationError("the journal holds no migration")
        check_fits(state, self, ending=True)
        return state
