"""A whole migration: from the plan to the end, and on from wherever it was killed."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiovec.backend import moves_of
from aiovec.errors import MigrationError

from .catchup import Pursuit
from .checking import check_all, come_to_rest
from .copying import copy_table
from .cutover import Toml, Turn
from .ending import abort, finish
from .events import Listener, unheard
from .fitting import check_config, check_fits, check_source
from .host import Host, RealHost, Step, no_step
from .journal import Journal
from .model import ONE_WAY, Options, Phase, RunState
from .places import Place
from .preparing import prepare, put_in_order
from .turning_back import Rollback
from .verifying import TableReport, VerifyReport
from .work import Transform, Work, has_left, shown_target, unmark

__all__ = ["Migration", "Outcome", "Transform"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    state: RunState
    report: VerifyReport | None = None


Obstacles = Callable[[str], Awaitable[Sequence[str]]]
"""What stands in the way of a switch, in words, for the run of this name."""


async def no_obstacles(run: str) -> Sequence[str]:
    """Sees nothing."""
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
        self.source = source
        self.target = target
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
        check_config(state, self)
        toml = self._check_switch(state.options)
        work = self._work(state)
        work.leaving().act_for(state.run)
        if toml is not None:
            await Turn(work, toml, self.target.configured, []).complete()

    async def _resume(self, state: RunState) -> None:
        """Have the state as a run goes on from it; refuse what a plan would refuse."""
        if state.begun:
            await check_source(self._work(state))
        obstacles = await self._obstacles(state.run) if self._options.switch else ()
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
        """What the comparison of the tables came to; None where they were not compared."""
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
            raise MigrationError("a switch flips a TOML: say which one (--config)")
        if options.has_no_way_back and not options.one_way:
            raise MigrationError(ONE_WAY)
        if not self.target.configured or not self.source.configured:
            raise MigrationError(
                "a switch leads stores from one backend of the TOML to another, so name both by "
                "their names there"
            )
        if self.target.configured == self.source.configured:
            raise MigrationError(
                f"the TOML cannot tell the target from the source: both are its backend "
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
            source_name=self.source.configured or shown_target(self.source),
            target_name=self.target.configured or shown_target(self.target),
            started=self._host.wall().isoformat(timespec="seconds"),
        )

    async def _begin(self) -> RunState:
        state = self._planned()
        work = self._work(state)
        await work.save()
        await work.step("planned")
        return state

    def _work(self, state: RunState, *, back: bool = False) -> Work:
        origin, goal = (self.target, self.source) if back else (self.source, self.target)
        return Work(
            origin, goal, self._journal, state, self._host, self._step, self._listener,
            self._transform,
        )  # fmt: skip

    async def _mark(self, work: Work) -> None:
        """Act for the run on both stores."""
        if moves_of(self.source.backend) is None:
            return
        state = work.state
        if not state.marked:
            state.marked = True
            await work.save()
        await work.mark("" if self._toml is None else self._toml.path)
        work.marked_at = work.host.now()
        await work.step("marked")
        # A killed migrator may have left its writers in a pause.
        await work.leaving().resume_writers(state.run)
        if not state.begun:
            state.begun = True
            await work.save()

    async def _move(self, work: Work) -> list[TableReport]:
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
        pursuits = await self._pursuits(work)
        feed = moves_of(self.source.backend) is not None
        if feed:
            for pursuit in pursuits:
                await pursuit.catch_up()
        await put_in_order(work, pursuits)
        if feed:
            if state.options.verify:
                await work.enter(Phase.VERIFYING)
                reports = [await check_all(pursuit) for pursuit in pursuits]
            else:
                for pursuit in pursuits:
                    await pursuit.catch_up()
        elif not state.options.switch:
            reports = await come_to_rest(work, pursuits)
        if state.options.switch and self._toml is not None:
            await work.enter(Phase.CUTTING_OVER)
            await Turn(work, self._toml, self.target.configured, pursuits).turn()
        return reports

    async def _pursuits(self, work: Work) -> list[Pursuit]:
        return [await Pursuit.of(work, table) for table in work.state.tables.values()]

    # The end

    async def _release(self, work: Work) -> None:
        """Let go of the source: nothing was switched."""
        if moves_of(self.source.backend) is not None:
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
        ended = await abort(self._work(state), keep_target=keep_target)
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
            raise MigrationError("the journal knows of no migration")
        check_fits(state, self, ending=True)
        return state
