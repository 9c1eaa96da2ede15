"""A whole run, from its first mark to its last, and its cancellation by ``abort``.

The marks in the two stores hold the run's state (``aiovec.backend.marks``):

| source | target | writers |
| --- | --- | --- |
| no mark | filling, or moved to the source | apps in the source; the run in the target |
| open | the same | apps in the source, without schema changes; the run in the target |
| paused | the same | only the run, for the pause limit at most |
| moved | the same | nobody, until an app or the run puts the target into use |
| moved | no mark, but the cut-over's generation | apps in the target |

A killed run leaves the stores in one of these states, and the same command continues the run: it
compares the tables that the target already has, and copies the other tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aiovec.backend.marks import MoveMark
from aiovec.errors import AiovecError, MigrationError

from .compare import Difference
from .cut_over import Cutover, complete
from .marks import Marks, State, begin_move, end_move, fill, marks_of, reenter, resume_writers
from .moving import TableMove
from .planning import Plan, look, without_source
from .tables import OpenTable, looked
from .toml import TomlFile
from .work import Work


@dataclass(frozen=True, slots=True)
class TableReport:
    """The comparison of one table, or the ``problem`` that prevented it.

    ``removed`` counts the rows that the run removed because only the target had them. If
    ``vectors`` is False, vectors were not compared, because the target's vectors come from another
    model.
    """

    table: str
    difference: Difference = field(default_factory=Difference)
    problem: str = ""
    removed: int = 0
    vectors: bool = True

    @property
    def equal(self) -> bool:
        return not self.problem and not self.difference.total

    def to_dict(self) -> dict[str, Any]:
        rows = self.difference
        return {
            "table": self.table, "equal": self.equal, "source_rows": rows.source_rows,
            "target_rows": rows.target_rows, "missing": rows.missing, "extra": rows.extra,
            "different": rows.different, "ids": list(rows.ids), "problem": self.problem,
            "removed": self.removed, "vectors_compared": self.vectors,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run or of a comparison.

    ``switched`` is True if this run switched apps to the target; ``pause`` is the longest time in
    seconds that writers waited. ``in_use`` is True if an earlier run switched the apps: the target
    may have newer writes, so differences are not a fault.
    """

    source: str
    target: str
    tables: tuple[TableReport, ...] = ()
    switched: bool = False
    pause: float = 0.0
    in_use: bool = False

    @property
    def equal(self) -> bool:
        return all(table.equal for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        return {
            "equal": self.equal, "source": self.source, "target": self.target,
            "tables": [report.to_dict() for report in self.tables],
            "switched": self.switched, "pause": round(self.pause, 3), "in_use": self.in_use,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = []
        for report in self.tables:
            rows = report.difference
            facts = report.problem or f"{rows.source_rows:,} rows, equal"
            if not report.problem and rows.total:
                facts = f"{rows.source_rows:,} rows in the source, {rows.target_rows:,} in the "
                facts += f"target: {rows.missing:,} missing, {rows.extra:,} only in the target, "
                facts += f"{rows.different:,} different: {', '.join(rows.ids[:5])}"
                facts += " …" if rows.total > 5 else ""
            if not (report.vectors or report.problem):
                facts += " but for" if not rows.total else "; not compared were"
                facts += " the vectors, which are of two models"
            if report.removed:
                facts += f"; {report.removed:,} rows only in the target were removed"
            lines.append(f"table   {report.table}: {facts}")
        return lines


@dataclass(slots=True, eq=False)
class Migration:
    """One migration between two open stores. The caller holds their lock.

    ``toml`` is needed only for a switch. ``marks`` are the stores' marks as last read.
    """

    work: Work
    toml: TomlFile | None = None
    marks: Marks = field(init=False)

    async def look(self) -> Plan:
        """Return what a run would do and any problems that would stop it."""
        work, toml = self.work, self.toml
        self.marks = await marks_of(work.source, work.target, work.run)
        plan = await looked(partial(look, work, self.marks))
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

    async def run(self, plan: Plan | None = None) -> Report:
        """Begin the run, or continue it from the state that the marks show."""
        work = self.work
        plan = plan or await self.look()
        plan.check()
        if plan.has_moved:
            work.source.backend.act_for(work.run)
            await complete(work, self.toml)
            return self._report([], switched=True)
        await self._mark(plan)
        tables = await self._tables()
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
        if work.options.switch and self.toml is not None:
            cut_over = Cutover(work, self.toml, tables)
            await cut_over.turn()
            return replace(self._report(reports, switched=True), pause=cut_over.pause)
        await self._release([table.name for table in tables])
        return self._report(reports)

    def _report(self, tables: list[TableReport], *, switched: bool = False) -> Report:
        source, target = str(self.work.source), str(self.work.target)
        return Report(source, target, tuple(tables), switched)

    async def _mark(self, plan: Plan) -> None:
        """Mark both stores, the target first."""
        work = self.work
        source, target = work.source, work.target
        work.enter("marking")
        if target.keeps_marks:
            mark = self.marks.target
            if mark is not None and mark.left:
                await reenter(target.backend, work.run, source.backend.target)
            else:
                await self._fill(plan, mark)
            await work.step("target:marked")
        if source.keeps_marks:
            switches = work.options.switch and self.toml is not None
            mark = MoveMark(
                work.run,
                moved_to=target.backend.address,
                backend=target.configured if switches else "",
                config=self.toml.path if switches and self.toml is not None else "",
                target=target.backend.target,
                source=source.backend.address,
                target_marked=target.keeps_marks,
            )
            await begin_move(source.backend, work.run, mark)
            await resume_writers(source.backend, work.run)  # a killed run may have left it paused
        await work.step("marked")

    async def _fill(self, plan: Plan, mark: MoveMark | None) -> None:
        """Mark the target as being filled, which keeps all other writers out of it."""
        work, backend = self.work, self.work.target.backend
        if mark is not None and not plan.resumes:
            # The run was killed before it marked the source, so the tables may not be copies.
            await end_move(backend, work.run)
        fresh = not await backend.tables()
        generation = self.marks.records[0].generation
        await fill(backend, work.run, work.source.backend.address, generation, fresh=fresh)
        if plan.resumes:
            return
        # Another program may have written to the target after the check and before the mark.
        again = Plan(plan.source, plan.target) if fresh else await look(work, self.marks)
        if fresh and await backend.tables():
            again.problems.append("somebody else has just created tables in the target")
        if again.problems:
            if mark is None:
                await end_move(backend, work.run)
            again.check()

    async def _tables(self) -> list[TableMove]:
        """Create the source's tables in the target, after dropping outdated tables there."""
        work = self.work
        source, target = work.source.backend, work.target.backend
        every = await source.tables()
        names = [name for name in every if name in (work.options.tables or every)]
        existing = set(await target.tables())
        if work.options.switch:
            for name in without_source(self.marks.records[1], existing - set(every)):
                await target.open_table(name)  # raises an error for another program's table
                await target.drop_table(name)
                work.tell("note", "the source no longer has this table: dropped", table=name)
                await work.step("dropped")
        tables = []
        for name in names:
            opened = await OpenTable.open(source, name)
            schema = work.schema(opened.schema)
            if name in existing and (await target.open_table(name)).schema.differences(schema):
                # No row is lost: the run created this table, or apps were switched from the target
                # to the source, which has the rows.
                await target.drop_table(name)
                existing.remove(name)
                await work.step("dropped")
            if name not in existing:
                await target.create_table(name, schema)
                await work.step("created")
            tables.append(TableMove(work, opened, await OpenTable.open(target, name)))
        return tables

    async def _release(self, copied: Sequence[str]) -> None:
        """Remove the run's marks from both stores, without a switch."""
        work = self.work
        if work.target.keeps_marks:
            await end_move(work.target.backend, work.run, copied)
        await work.step("target:released")
        if work.source.keeps_marks:
            await end_move(work.source.backend, work.run)
        await work.step("released")

    async def abort(self, run: str = "") -> list[str]:
        """Cancel an open run; return warnings. The source is unchanged, and no app was switched.

        If the target had no tables before the run, the run's tables there are dropped. ``run`` is
        the run's name, by default ``work.run``; another name is needed if the stores' files were
        moved since the run began.
        """
        work = self.work
        run = run or work.run
        work.enter("aborting")
        marks = await marks_of(work.source, work.target, run)
        back = "the way back is a run in the other direction"
        if marks.state is State.SWITCHED:
            raise MigrationError(
                f"no migration is open: the last one switched apps to {work.target}; {back}"
            )
        if marks.has_moved:
            raise MigrationError(
                f"it is too late to abort: apps were switched to {work.target}; complete the "
                f"switch with the command that started it, then {back}"
            )
        filling = marks.target if marks.target and marks.target.filling else None
        if not (marks.source or filling):
            raise MigrationError(f"no migration from {work.source} to {work.target} is open")
        warnings: list[str] = []
        if filling:
            backend = work.target.backend
            backend.act_for(run)
            tables = await backend.tables()
            if filling.fresh and marks.source and run == work.run:
                for name in tables:
                    await backend.drop_table(name)
                    await work.step("abort:dropped")
            elif tables:
                why = "it had tables before"
                if not marks.source:
                    why = f"{work.source} has no mark of this run: it was replaced or restored"
                elif run != work.run:
                    why = "the run began when the stores lay elsewhere"
                warnings.append(f"the tables in {work.target} are kept, because {why}")
            await end_move(backend, run)
            await work.step("abort:released")
        elif not (work.target.missing or work.target.keeps_marks):
            warnings.append(f"the copies in {work.target} are kept")
        if marks.source:
            await end_move(work.source.backend, run)
            await work.step("abort:source")
        return warnings
