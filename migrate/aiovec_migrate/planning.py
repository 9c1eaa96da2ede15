"""The plan of a run, with the problems that would stop it. Planning writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from aiovec.backend import IsNull, Ref, Schema
from aiovec.backend.contract import Count
from aiovec.backend.marks import MoveRecord
from aiovec.backend.place import Place
from aiovec.errors import AiovecError, MigrationError, TableNotFoundError

from .compare import Comparison
from .embedding import Reembedding
from .marks import Marks
from .places import OpenPlace, free_room, unwritable
from .tables import AlteredError, OpenTable, looked, repeated
from .work import Work

# Bytes needed at the target: this many per byte of rows (for the copy, and for SQLite's scan file
# or LanceDB's version before compaction), plus this many for the apps' writes after the move.
_SHARE, _SPARE = 2.5, 32 * 2**20


@dataclass(frozen=True, slots=True)
class TablePlan:
    """The plan for one table: its row counts in both stores, and its size in bytes in the source.

    ``target_rows`` is None if the target lacks the table. ``removed`` counts the rows that only the
    target has, which a run would remove.
    """

    name: str
    rows: int
    bytes: int
    target_rows: int | None
    removed: int = 0


@dataclass(slots=True)
class Plan:
    """The plan of a run. ``problems`` stop the run, ``notes`` do not.

    ``resumes`` is True if the target has tables from this run or an earlier copy, or if an earlier
    run switched its apps to the source. The run then compares the tables, and copies the
    differences. ``others`` are tables that only the target has.
    """

    source: str
    target: str
    tables: list[TablePlan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    resumes: bool = False
    has_moved: bool = False
    free: int | None = None
    needed: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def check(self) -> None:
        """Raise MigrationError, listing all problems, if there are any."""
        if self.problems:
            raise MigrationError("the migration did not start: " + "; ".join(self.problems))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        lines = [f"from    {self.source}", f"to      {self.target}"]
        for table in self.tables:
            copied = ""
            if table.target_rows is not None:
                verb = "compared with" if self.resumes else "next to"
                copied = f", {verb} {table.target_rows:,} in the target"
            if table.removed:
                copied += f"; {table.removed:,} rows only in the target would be removed"
            size = f"{table.bytes / 2**20:,.1f} MiB"
            lines.append(f"table   {table.name}: {table.rows:,} rows, {size}{copied}")
        free = "unknown" if self.free is None else f"{self.free / 2**20:,.0f} MiB"
        lines.append(f"disk    {self.needed / 2**20:,.1f} MiB needed at the target, {free} free")
        if self.others:
            lines.append(f"others  tables that only the target has: {', '.join(self.others)}")
        lines += [f"note    {note}" for note in self.notes]
        lines += [f"problem {problem}" for problem in self.problems]
        return [*lines, "ready to run" if self.ok else "the run cannot start"]


async def look(work: Work, marks: Marks) -> Plan:
    """Return the plan of a run between open stores. The target may be missing."""
    plan = Plan(str(work.source), str(work.target))
    plan.resumes, plan.has_moved = marks.resumes, marks.has_moved
    if marks.has_moved:
        plan.problems += await other_vectors(work.target, work.transform)
        return plan
    plan.problems += marks.foreign
    if plan.problems:
        return plan
    if not work.source.keeps_marks:
        text = (
            f"{work.source} has no lock that all its writers use, so it can be moved only while "
            "nobody writes to it"
        )
        if work.options.switch:
            plan.problems.append(f"{text}: stop its writers, and leave out --switch")
        else:
            plan.notes.append(text)
    await _look_at_tables(work, plan, marks.records[1])
    plan.needed = int(_SHARE * sum(table.bytes for table in plan.tables)) + _SPARE
    return plan


def look_at_disk(target: Place, plan: Plan) -> None:
    """Add the target's free bytes, and any disk problems, to the plan. Blocks."""
    if reason := unwritable(target):
        plan.problems.append(f"the target cannot be written: {reason}")
    plan.free = free = free_room(target)
    if free is not None and free < plan.needed:
        plan.problems.append(
            f"the target needs about {plan.needed / 2**20:,.1f} MiB (the copy, as much again and a "
            f"half for its scan file or compaction, and {_SPARE / 2**20:.0f} MiB for the next "
            f"writes of the apps), and {free / 2**20:,.1f} MiB are free there"
        )


async def count_removed(work: Work, plan: Plan) -> None:
    """Add to the plan how many rows a run would remove. Reads all ids of both stores."""
    for number, table in enumerate(plan.tables):
        if not (plan.ok and plan.resumes and table.target_rows):
            continue
        with suppress(TableNotFoundError):
            removed = await looked(partial(_only_in_target, work, table.name))
            plan.tables[number] = replace(table, removed=removed)


async def _only_in_target(work: Work, name: str) -> int:
    """Return the number of rows that only the target's table has."""
    source = await OpenTable.open(work.source.backend, name)
    target = await OpenTable.open(work.target.backend, name)
    comparison = Comparison(source, target, work.limits, vector=False, ids_alone=True)
    return len((await repeated(comparison.unlike, source, target)).extra)


async def other_vectors(place: OpenPlace, transform: Reembedding | None) -> list[str]:
    """Return a problem for each table of ``place`` whose vectors are not the embedder's.

    Apps use ``place`` already: an earlier run, perhaps without this embedder, switched them to it.
    """
    problems: list[str] = []
    if transform is None or place.missing:
        return problems
    await place.act()
    for name in await place.backend.tables():
        table = await _find(place, name)
        if table is None:
            continue
        schema = table[0].schema
        try:
            differences = "; ".join(schema.differences(transform.target_schema(schema)))
        except AiovecError as exc:
            differences = str(exc)
        if differences:
            problems.append(
                f"apps use {place} already, and the vectors of its table {name!r} are not the "
                f"embedder's ({differences}); complete the switch without --embedder, if it was "
                "interrupted, and then run in the other direction with it"
            )
    return problems


async def _look_at_tables(work: Work, plan: Plan, target: MoveRecord) -> None:
    existing: list[str] = []
    if not work.target.missing:
        await work.target.act()
        existing = await work.target.backend.tables()
    names = await work.source.backend.tables()
    for name in work.options.tables or ():
        if name not in names:
            listed = ", ".join(names) or "none"
            plan.problems.append(f"the source has no table {name!r}; its tables are: {listed}")
    if not names:
        plan.notes.append("the source has no tables")
    wanted = [name for name in names if name in (work.options.tables or names)]
    for name in wanted:
        entry = await _find(work.source, name)
        if entry is None:
            continue
        handle, rows, size = entry
        schema = handle.schema
        try:
            schema = work.schema(schema)
            await _look_at_texts(work, plan, handle)
        except AlteredError:
            raise
        except AiovecError as exc:
            plan.problems.append(f"table {name!r}: {exc}")
        target_entry = await _find(work.target, name) if name in existing else None
        plan.tables.append(
            TablePlan(name, rows, size, None if target_entry is None else target_entry[1])
        )
        if target_entry is not None and not plan.resumes:
            _look_at_difference(plan, name, schema, target_entry[0].schema, target_entry[1], target)
        texts = any(field.text for field in schema.fields.values())
        if texts and not work.target.backend.supports("text"):
            plan.notes.append(f"the target has no keyword search, which table {name!r} uses")
        if schema.payload_indexes and not work.target.backend.supports("payload-indexes"):
            plan.notes.append(
                f"the target has no indexes over payload keys, so filters of the table {name!r} on "
                f"{', '.join(schema.payload_indexes)} will read every row there; add_field makes "
                "fields of them"
            )
    plan.others = [name for name in existing if name not in names]
    if not work.options.switch:
        return
    dropped = without_source(target, plan.others) if plan.resumes else []
    if kept := sorted({*plan.others} - {*dropped}):
        plan.problems.append(
            "the target has tables that the source does not have, and apps would find them after "
            f"the switch: {', '.join(kept)}; drop them, or name another target"
        )
    if dropped:
        plan.notes.append(f"a run drops tables that the source no longer has: {', '.join(dropped)}")
    for name in dropped:
        try:
            await _find(work.target, name)
        except AiovecError as exc:  # another program's table, never in the source
            plan.problems.append(str(exc))


def without_source(target: MoveRecord, others: Iterable[str]) -> list[str]:
    """Return the tables in ``others`` that a run may drop, because the source once had them.

    The source once had every table of the target if the target was empty before the run, or if an
    earlier run switched apps from the target to the source.
    """
    mark = target.mark
    every = mark is not None and (mark.left or mark.fresh)
    return sorted(name for name in others if every or name in target.tables)


def _look_at_difference(
    plan: Plan, name: str, wanted: Schema, stored: Schema, rows: int, target: MoveRecord
) -> None:
    if differences := stored.differences(wanted):
        plan.problems.append(
            f"table {name!r}: its schema in the target is different: " + "; ".join(differences)
        )
    if rows and target.mark is not None:
        plan.problems.append(
            f"table {name!r}: this run has copied {rows:,} rows to the target, but the source no "
            "longer has its mark: it was replaced or restored. End the run (aiovec migrate abort), "
            "which keeps the copies"
        )
    elif rows:
        plan.problems.append(
            f"table {name!r}: the target already has {rows:,} rows of it, and nothing shows that "
            "they come from this source; drop it, or name another target"
        )


async def _look_at_texts(work: Work, plan: Plan, table: OpenTable) -> None:
    """If rows have no text, add a note or raise an error: no row may silently lose its vector."""
    name = "" if work.transform is None else work.transform.field_of(table.schema)
    if not name or not table.schema.fields[name].nullable:
        return
    without = Count(IsNull(Ref(name)))
    missing = await table.do(lambda handle: table.backend.read(handle, without))
    if missing and table.schema.vector_nullable:
        plan.notes.append(
            f"{missing:,} rows of the table {table.name!r} have no {name!r}: if such a row has a "
            "vector it stops the run, else it stays without one"
        )
    elif missing:
        raise MigrationError(
            f"{missing:,} rows have no {name!r}, so their vectors cannot be computed; give them a "
            "text or delete them"
        )


async def _find(place: OpenPlace, name: str) -> tuple[OpenTable, int, int] | None:
    """Return a table, its number of rows, and its size in bytes; None if it was dropped."""
    try:
        table = await OpenTable.open(place.backend, name)
        stats = await table.do(place.backend.stats)
    except TableNotFoundError:
        return None
    return table, stats.rows, stats.bytes
