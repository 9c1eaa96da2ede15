"""A whole migration: from the plan to the end, and on from wherever it was killed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from aiovec.backend import ChangeFeed, Moves
from aiovec.errors import MigrationError

from .catchup import Pursuit
from .checking import check_all, come_to_rest
from .copying import copy_table
from .cutover import Toml, Turn, shown_target
from .ending import abort, finish
from .events import Listener, unheard
from .fitting import check_fits, check_source
from .host import Host, RealHost, Step, no_step
from .journal import Journal
from .model import Options, Phase, RunState
from .places import Place
from .preparing import prepare, put_in_order
from .turning_back import Rollback
from .verifying import TableReport, VerifyReport
from .work import Transform, Work

__all__ = ["Migration", "Outcome", "Transform"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    state: RunState
    report: VerifyReport | None = None


class Migration:
    """One migration between two open stores.

    ``journal`` is locked by the caller (``async with journal.locked()``). ``toml`` is needed for a
    switch only.
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

    # Run

    async def run(self) -> Outcome:
        """Begin, or go on where the journal says that a run was."""
        self._check_switch()
        state = await self._journal.load()
        if state is None:
            state = await self._begin()
        else:
            check_fits(state, self)
            if state.phase is Phase.DONE:
                return Outcome(state)
            kept = state.options
            state.options = self._options
            if state.phase is Phase.MOVED and kept.switch:
                state.options = kept
        work = self._work(state)
        reports: list[TableReport] = []
        if not await self._has_turned(work):
            await self._mark(work)
            reports = await self._move(work)
        if not state.options.switch:
            await self._release(work)
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

    def _check_switch(self) -> None:
        if self.source.identity == self.target.identity:
            raise MigrationError(f"source and target are the same store: {self.source}")
        if not self._options.switch:
            return
        if self._toml is None:
            raise MigrationError("a switch flips a TOML: say which one (--config)")
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

    async def _begin(self) -> RunState:
        state = RunState(
            run=uuid.uuid4().hex,
            source=self.source.identity,
            target=self.target.identity,
            options=self._options,
            config="" if self._toml is None else self._toml.path,
            source_name=self.source.configured or shown_target(self.source),
            target_name=self.target.configured or shown_target(self.target),
            started=self._host.wall().isoformat(timespec="seconds"),
        )
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
        """Act for the run on the source; refuse one that is not what it was."""
        source = self.source.backend
        if not isinstance(source, Moves):
            return
        state = work.state
        if state.begun:
            await check_source(work, source)
        if not state.marked:
            state.marked = True
            await work.save()
        if state.options.switch and self._toml is not None:
            await source.begin_move(
                state.run, backend=self.target.configured, config=self._toml.path
            )
        else:
            await source.begin_move(state.run)
        work.marked_at = work.host.now()
        await work.step("marked")
        # A killed migrator may have left its writers in a pause.
        await source.resume_writers(state.run)
        if not state.begun:
            state.begun = True
            await work.save()

    async def _has_turned(self, work: Work) -> bool:
        """Complete a switch that was decided; False where none was."""
        state = work.state
        if not state.options.switch or self._toml is None:
            return False
        source = self.source.backend
        if isinstance(source, Moves) and isinstance(source, ChangeFeed):
            mark = await source.move_mark()
            if mark is None or mark.run != state.run or mark.state != "moved":
                return False
            await source.begin_move(state.run)
            await Turn(work, self._toml, self.target.configured, []).flip()
            return True
        if state.phase is not Phase.MOVED:
            return False
        if await self._toml.backend() != self.target.configured:
            state.switched = False
            return False  # others may have written since, so it is compared again
        turn = Turn(work, self._toml, self.target.configured, await self._pursuits(work))
        await turn.settle()
        return True

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
        feed = isinstance(self.source.backend, ChangeFeed)
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
        source = self.source.backend
        if isinstance(source, Moves):
            work.state.begun = False
            await work.save()
            await source.end_move(work.run)
            await work.step("released")

    async def abort(self, *, keep_target: bool = False) -> None:
        """End an open run: the source is as it was, the tables made in the target are dropped."""
        await abort(self._work(await self._needed()), self._toml, keep_target=keep_target)

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
