"""A run from its first mark to its last, and its end by ``abort``.

The marks in the two stores are the run (``aiovec.backend.marks``):

| source | target | who writes |
| --- | --- | --- |
| no mark | filling, or left for the source | apps in the source; the run in the target |
| open | the same | apps in the source, but no schemas; the run in the target |
| paused | the same | the run alone; at most for the pause limit |
| moved | the same | nobody, until an app or the run puts the target into use |
| moved | no mark, with the cut-over's generation | apps in the target |

A killed run leaves one of these rows, and the same command goes on from it: it compares the tables
that the target has, and copies those that it does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from aiovec.backend.marks import MoveMark, MoveRecord
from aiovec.errors import AiovecError, MigrationError

from .compare import Difference
from .cut_over import Cutover, complete
from .events import Listener, Options, unheard
from .host import Host, RealHost, Step, no_step
from .moving import TableMove
from .places import OpenPlace
from .planning import Plan, count_removed, drops_others, look
from .tables import OpenTable
from .toml import Toml
from .work import Transform, Work


@dataclass(frozen=True, slots=True)
class TableReport:
    """The comparison of one table; ``problem`` says why it could not be compared.

    ``removed`` counts the rows that only the target had, and that the run has removed.
    """

    table: str
    difference: Difference = field(default_factory=Difference)
    problem: str = ""
    removed: int = 0

    @property
    def equal(self) -> bool:
        return not self.problem and not self.difference.total


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run or of a comparison.

    ``switched`` says that apps use the target, and ``pause`` how long writers waited, in seconds.
    """

    source: str
    target: str
    tables: tuple[TableReport, ...] = ()
    switched: bool = False
    pause: float = 0.0

    @property
    def equal(self) -> bool:
        return all(table.equal for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        tables = [
            {
                "table": one.table,
                "equal": one.equal,
                "source_rows": one.difference.source_rows,
                "target_rows": one.difference.target_rows,
                "missing": one.difference.missing,
                "extra": one.difference.extra,
                "different": one.difference.different,
                "ids": list(one.difference.ids),
                "problem": one.problem,
                "removed": one.removed,
            }
            for one in self.tables
        ]
        return {
            "equal": self.equal, "source": self.source, "target": self.target, "tables": tables,
            "switched": self.switched, "pause": round(self.pause, 3),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The report for people."""
        lines = []
        for one in self.tables:
            found = one.difference
            facts = one.problem or f"{found.source_rows:,} rows, equal"
            if not one.problem and found.total:
                facts = f"{found.source_rows:,} rows in the source, {found.target_rows:,} in the "
                facts += f"target: {found.missing:,} missing, {found.extra:,} only in the target, "
                facts += f"{found.different:,} different: {', '.join(found.ids[:5])}"
                facts += " …" if found.total > 5 else ""
            if one.removed:
                facts += f"; {one.removed:,} rows only in the target were removed"
            lines.append(f"table   {one.table}: {facts}")
        return lines


class Migration:
    """One migration between two open stores, whose lock the caller holds.

    ``toml`` is needed for a switch only.
    """

    def __init__(
        self,
        source: OpenPlace,
        target: OpenPlace,
        options: Options | None = None,
        *,
        host: Host | None = None,
        toml: Toml | None = None,
        transform: Transform | None = None,
        listener: Listener = unheard,
        step: Step = no_step,
    ) -> None:
        host, options = host or RealHost(), options or Options()
        self._work = Work(source, target, options, host, listener, step, transform)
        self._toml = toml

    async def plan(self) -> Plan:
        """Return what ``look`` does, with the rows that would be removed counted."""
        plan = await self.look()
        await count_removed(self._work, plan)
        return plan

    async def look(self) -> Plan:
        """Return what a run would do and what would stop it."""
        work, toml = self._work, self._toml
        plan = await look(work)
        if plan.has_moved:
            return plan
        if toml is None:
            if work.options.switch:
                plan.problems.append("a switch changes a TOML file: name it with --config")
            return plan
        try:
            if work.options.switch:
                await toml.check(work.source, work.target)
            elif work.target.configured and await toml.current() == work.target.configured:
                plan.problems.append(f"the target is the store in use: {toml.path} names it")
        except AiovecError as exc:
            plan.problems.append(str(exc))
        return plan

    async def run(self) -> Report:
        """Begin, or go on where the marks say that a run was."""
        work = self._work
        plan = await self.look()
        plan.check()
        if plan.has_moved:
            work.source.backend.act_for(work.run)
            await complete(work, self._toml)
            return self._report([], switched=True)
        record = await self._mark(plan)
        tables = await self._tables(record)
        for table in tables:
            await table.bring()
            if work.has_feed:
                await table.catch_up()
        work.enter("optimizing")
        for table in tables:
            if await table.target.count():
                await table.target.do(work.target.backend.optimize)
                await work.step("optimized")
        work.enter("verifying")
        reports = [
            TableReport(table.name, await table.verify(), removed=table.removed) for table in tables
        ]
        if work.options.switch and self._toml is not None:
            cut_over = Cutover(work, self._toml, tables)
            await cut_over.turn()
            return replace(self._report(reports, switched=True), pause=cut_over.pause)
        await self._release()
        return self._report(reports)

    def _report(self, tables: list[TableReport], *, switched: bool = False) -> Report:
        source, target = str(self._work.source), str(self._work.target)
        return Report(source, target, tuple(tables), switched)

    async def _mark(self, plan: Plan) -> MoveRecord:
        """Mark both stores, the target first; return what the target keeps."""
        work = self._work
        source, target = work.source, work.target
        work.enter("marking")
        before = await target.record()
        if target.keeps_marks:
            if before.mark is not None and before.mark.left:
                await target.backend.reenter(work.run, source.backend.target)
            else:
                await self._fill(plan, before)
            await work.step("target:marked")
        if source.keeps_marks:
            switches = work.options.switch and self._toml is not None
            mark = MoveMark(
                work.run,
                moved_to=target.backend.address,
                backend=target.configured if switches else "",
                config=self._toml.path if switches and self._toml is not None else "",
                target=target.backend.target,
                source=source.backend.address,
                target_marked=target.keeps_marks,
            )
            await source.backend.begin_move(work.run, mark)
            await source.backend.resume_writers(work.run)  # a killed run may have left a pause
        await work.step("marked")
        return await target.record()

    async def _fill(self, plan: Plan, before: MoveRecord) -> None:
        """Keep everybody else from writing to the target."""
        work, backend = self._work, self._work.target.backend
        if before.mark is not None and not plan.resumes:
            # Of a run that did not come to mark the source: what is there may be somebody's own.
            await backend.end_move(work.run)
        fresh = not await backend.tables()
        generation = (await work.source.record()).generation
        address = work.source.backend.address
        await backend.fill(work.run, address, generation, fresh=fresh)
        if plan.resumes:
            return
        # What nobody has marked may have been written since it was looked at.
        again = await look(work)
        if fresh and await backend.tables():
            again.problems.append("somebody else has just created tables in the target")
        if again.problems:
            if before.mark is None:
                await backend.end_move(work.run)
            again.check()

    async def _tables(self, record: MoveRecord) -> list[TableMove]:
        """Have every table of the source in the target, and none that must not be there."""
        work = self._work
        source, target = work.source.backend, work.target.backend
        every = await source.tables()
        names = [name for name in every if name in (work.options.tables or every)]
        there = set(await target.tables())
        if work.options.switch and drops_others(record):
            for name in sorted(there - set(every)):
                await target.open_table(name)  # another program's cannot be opened
                await target.drop_table(name)
                work.tell("note", "the source has no such table any more: dropped", table=name)
                await work.step("dropped")
        tables = []
        for name in names:
            opened = await OpenTable.open(source, name)
            schema = work.schema(opened.schema)
            if name in there and (await target.open_table(name)).schema.differences(schema):
                # It is the run's own, or was left: the source has all that counts.
                await target.drop_table(name)
                there.remove(name)
                await work.step("dropped")
            if name not in there:
                await target.create_table(name, schema)
                await work.step("created")
            tables.append(TableMove(work, opened, await OpenTable.open(target, name)))
        return tables

    async def _release(self) -> None:
        """Let go of both stores: nothing was switched."""
        work = self._work
        if work.target.keeps_marks:
            await work.target.backend.end_move(work.run, copied=True)
        await work.step("target:released")
        if work.source.keeps_marks:
            await work.source.backend.end_move(work.run)
        await work.step("released")

    async def abort(self, run: str = "") -> list[str]:
        """End an open run; return warnings. The source is as it was, and nobody was switched.

        Tables that the run made in a target that had none are dropped. ``run`` is the run's name
        where that is not the one of these stores, because they lay elsewhere when it began.
        """
        work = self._work
        run = run or work.run
        work.enter("aborting")
        source, target = await work.source.record(), await work.target.record()
        here, there = source.mark, target.mark
        open_here = here is not None and here.run == run and not here.left
        filling = there is not None and there.run == run and there.filling
        if here is not None and here.run == work.run and here.left:
            # The target has the cut-over's generation once it is in use.
            done = there is None and target.generation >= here.generation
            rest = "" if done else "complete the switch with the command that started it; "
            raise MigrationError(
                f"it is too late to abort: apps were switched to {work.target}; {rest}the way back "
                "is a run in the other direction"
            )
        if not open_here and not filling:
            raise MigrationError(f"no migration from {work.source} to {work.target} is open")
        warnings: list[str] = []
        if filling and there is not None:
            backend = work.target.backend
            backend.act_for(run)
            tables = await backend.tables()
            if there.fresh and open_here and run == work.run:
                for name in tables:
                    await backend.drop_table(name)
                    await work.step("abort:dropped")
            elif tables:
                why = "it had tables before"
                if not open_here:
                    why = f"{work.source} has no mark of this run: it was replaced or restored"
                elif run != work.run:
                    why = "the run began when the stores lay elsewhere"
                warnings.append(f"the tables in {work.target} are kept, for {why}")
            await backend.end_move(run)
            await work.step("abort:released")
        elif not (work.target.missing or work.target.keeps_marks):
            warnings.append(f"what was copied to {work.target} is kept")
        if open_here:
            await work.source.backend.end_move(run)
            await work.step("abort:source")
        return warnings
