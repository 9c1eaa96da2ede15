"""Looking at both ends before a run: what it will do, and what would stop it. Writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend import IsNull, Ref, Schema
from aiovec.backend.contract import (
    Backend,
    TableHandle,
    TableStats,
    moves_of,
)
from aiovec.backend.marks import FINISHED, MoveRecord
from aiovec.backend.threads import to_its_end
from aiovec.errors import AiovecError, ConfigError, MigrationError

from .. import toml
from ..ends import ALTERED, Ends, looked_at
from ..host import Host, RealHost
from ..locate import (
    Located,
    PathText,
    config_file,
    configured_name,
    free_room,
    locate,
    unwritable,
)
from ..state import ONE_WAY, Identity, Options
from .probe import probe
from .report import Obstacle, Plan, Problem, Rates, TablePlan

if TYPE_CHECKING:
    import pyarrow as pa

    from ..migration import Transform


# What the target takes for the rows with what lies beside them, the same where it keeps the version
# before they were put in order, and what it takes for a moment while it builds an index.
_AT_LEAST, _WITH_VERSIONS, _FOR_A_MOMENT = 1.25, 2.25, 3.0
_SPARE = 2**20


async def make_plan(
    source: PathText | None,
    target: PathText | None,
    *,
    config: PathText | None = None,
    options: Options | None = None,
    transform: Transform | None = None,
    host: Host | None = None,
    run: str = "",
    measure: bool = True,
    ends: Ends | None = None,
) -> Plan:
    """Return what a run would do and what would stop it.

    ``run`` is the one that plans, so that its own mark in the source is no obstacle. Without
    ``measure`` no time is expected. ``ends`` are the two stores where they are open already.
    Errors are raised only where a store cannot be looked at.
    """
    host = RealHost() if host is None else host
    look = _Look(options or Options(), transform, host, run)
    return await look.plan(source, target, config, measure=measure, ends=ends)


@dataclass(frozen=True, slots=True)
class _Found:
    """A table as one side has it."""

    handle: TableHandle
    stats: TableStats

    @property
    def schema(self) -> Schema:
        return self.handle.schema


class _Look:
    """One look at both stores, and what was found."""

    def __init__(self, options: Options, transform: Transform | None, host: Host, run: str) -> None:
        self._options = options
        self._transform = transform
        self._host = host
        self._run = run
        self._forget = ""
        """The command to run on the target first, if an earlier run has left it."""
        self._problems: list[Problem] = []
        self._notes: list[str] = []

    async def plan(
        self,
        source: PathText | None,
        target: PathText | None,
        config: PathText | None,
        *,
        measure: bool,
        ends: Ends | None,
    ) -> Plan:
        in_thread = self._host.in_thread
        if target is None:
            raise MigrationError(
                "name the target store: a target, or the name of a backend in the TOML file"
            )
        here = await in_thread(locate, source, config)
        there = await in_thread(locate, target, config)
        file = await in_thread(config_file, config)
        if not await in_thread(here.exists):
            raise ConfigError(
                f"there is no store at {here.location}", key="source", accepted="a store's path"
            )
        exists = await in_thread(there.exists)
        same = await in_thread(here.location.same_as, there.location)
        if same:
            self._problem("same-place", "the source and the target are the same store")
        await in_thread(self._look_at_places, here, there, file)
        async with AsyncExitStack() as stack:
            goal: Backend | None = None
            if ends is not None:
                origin, shape = ends.source.backend, ends.target.backend
                if not same and not ends.target.missing:
                    goal = shape
            else:
                origin = await stack.enter_async_context(_opened(here, self._host))
                shape = await in_thread(there.backend)
                if exists and not same:
                    goal = shape = await stack.enter_async_context(_opened(there, self._host))
            tables = await self._tables(origin)
            present = [] if goal is None else await self._present(origin, goal)
            plans = [await self._table(origin, found, goal, present, shape) for found in tables]
            moved = {plan.name for plan in plans}
            others = tuple(name for name in present if name not in moved)
            if others and self._options.switch:
                self._problem(
                    "other-tables",
                    "the target has tables that the source does not have, and apps would find "
                    f"them after the switch: {', '.join(others)}; {self._forget}drop them, or "
                    "name another target",
                )
            self._look_at_abilities(origin, shape, tables)
            rates = None
            largest = max(tables, key=lambda found: found.stats.bytes, default=None)
            if measure and largest is not None and largest.stats.rows and not self._problems:
                with suppress(*ALTERED):
                    rates = await self._probe(origin, largest, there)
            if rates is not None and largest is not None:
                plans = [
                    replace(plan, seconds=self._seconds(rates, plan, largest.stats))
                    for plan in plans
                ]
        free = await in_thread(free_room, there)
        needed = self._look_at_room(free, plans, shape.supports("snapshots"))
        return Plan(
            source=Identity(here.name, origin.target),
            target=Identity(there.name, shape.target),
            tables=tuple(plans),
            problems=tuple(self._problems),
            notes=tuple(self._notes),
            other_tables=others,
            target_exists=exists,
            switch=self._options.switch,
            config=str(file) if self._options.switch and file is not None else "",
            free=free,
            needed=needed,
            rates=rates,
        )

    def _problem(self, kind: Obstacle, text: str, table: str | None = None) -> None:
        self._problems.append(Problem(kind, text, table))

    # The places

    def _look_at_places(self, here: Located, there: Located, file: Path | None) -> None:
        """Check the places on the disk. Runs in a thread."""
        if reason := unwritable(there):
            self._problem("not-writable", f"the target cannot be written: {reason}")
        if not self._options.switch:
            return
        if self._options.has_no_way_back and not self._options.one_way:
            self._problem("one-way", ONE_WAY)
        if file is None:
            self._problem("no-config", "--switch changes a TOML file; name it with --config")
            return
        backend = configured_name(there, file)
        if not backend:
            self._problem(
                "not-configured",
                f"no backend of {file} stores at {there.location}; write that address into the "
                "file, or name a backend of the file as the target",
            )
            return
        present = toml.backend_in(file)
        if configured_name(here, file) != present:
            self._problem(
                "not-present",
                f"{file} names the backend {present!r}, which is not the source; after the switch, "
                "apps would miss the rows in it",
            )
        try:
            toml.check(file, backend)
        except AiovecError as exc:
            self._problem("toml", str(exc))
        if (held := toml.variable_that_holds()) is not None:
            variable, value = held
            self._notes.append(
                f"the environment variable {variable} keeps apps on {value!r}, whatever the TOML "
                "file says; those apps will raise StoreMovedError after the switch, so unset it "
                "first"
            )

    def _look_at_room(self, free: int | None, plans: list[TablePlan], versions: bool) -> int:
        """Return the bytes that the target needs; note it if there are too few."""
        size = sum(_target_bytes(plan) for plan in plans)
        needed = int((_WITH_VERSIONS if versions else _AT_LEAST) * size) + _SPARE
        if free is not None and free < needed:
            self._problem(
                "room", f"the target needs about {needed:,} bytes, and {free:,} are free there"
            )
        elif free is not None and free < _FOR_A_MOMENT * size:
            self._notes.append(
                f"space is tight: {free:,} bytes are free, and the target may briefly need up to "
                f"{int(_FOR_A_MOMENT * size):,} while it builds an index or compacts"
            )
        return needed

    # The tables

    async def _present(self, origin: Backend, goal: Backend) -> list[str]:
        """The target's tables. A store that an earlier run has left may be written to again."""
        moves = moves_of(goal)
        record = MoveRecord() if moves is None else await moves.move_record()
        if moves is not None and record.mark is not None:
            try:
                record.reenter(self._run or "", origin.target)
            except MigrationError as exc:
                self._problem("moved", str(exc))
            moves.act_for(record.mark.run)
            if record.mark.state == FINISHED:
                self._forget = (
                    "an earlier migration moved away from this store, so first make it an "
                    f"independent store again: aiovec migrate forget {goal.address}; then "
                )
        return await goal.tables()

    async def _tables(self, origin: Backend) -> list[_Found]:
        """The tables that will be moved, unless the source is on its way already."""
        moves = moves_of(origin)
        mark = None if moves is None else await moves.move_mark()
        if mark is not None and mark.run != self._run:
            if mark.left:
                text = f"the source has already moved to {mark.moved_to}"
                if mark.state == FINISHED:
                    text += "; to use it as an independent store again: aiovec migrate forget"
                self._problem("moved", text)
                return []
            self._problem(
                "run-open",
                f"the migration {mark.run} is open on the source; continue it with the command "
                "that started it, or end it with: aiovec migrate abort",
            )
        names = await origin.tables()
        wanted = names if self._options.tables is None else self._options.tables
        looks = {name: await _find(origin, name) for name in names if name in wanted}
        found = {name: table for name, table in looks.items() if table is not None}
        if self._options.tables is not None:
            listed = ", ".join(name for name in names if name in found or name not in looks)
            for name in self._options.tables:
                if name not in found:
                    text = f"the source has none; its tables are: {listed or 'none'}"
                    self._problem("missing-table", text, name)
        elif not found:
            self._notes.append("the source has no tables")
        return list(found.values())

    async def _table(
        self,
        origin: Backend,
        found: _Found,
        goal: Backend | None,
        present: list[str],
        shape: Backend,
    ) -> TablePlan:
        name, schema = found.handle.name, found.schema
        if self._transform is not None:
            try:
                schema = self._transform.target_schema(schema)
            except AiovecError as exc:
                self._problem("reembed", str(exc), name)
            else:
                await self._look_at_texts(origin, found)
        there: int | None = None
        differences: list[str] = []
        other = await _find(goal, name) if goal is not None and name in present else None
        if other is not None:
            there = other.stats.rows
            differences = other.schema.differences(schema)
            self._look_at_differences(name, schema, other, differences)
        index = "none: every search is exact"
        if shape.supports("indexes") and self._options.index:
            index = shape.index_for(schema, found.stats.rows) or "as the target chooses"
        elif not self._options.index:
            index = "none, as requested"
        return TablePlan(
            name=name,
            rows=found.stats.rows,
            bytes=found.stats.bytes,
            schema=schema.to_dict(),
            arrow=tuple(_column(column) for column in schema.to_arrow()),
            index=index,
            there=there,
            differences=tuple(differences),
            grows=4 * found.stats.rows * (schema.dim - found.schema.dim),
        )

    def _look_at_differences(
        self, name: str, schema: Schema, other: _Found, differences: list[str]
    ) -> None:
        mine = other.schema
        if mine.dim != schema.dim:
            self._problem(
                "dim", f"the target's table has {mine.dim} dimensions, not {schema.dim}", name
            )
        if mine.model != schema.model:
            self._problem(
                "model",
                f"the target's table holds vectors of the model {mine.model!r}, not "
                f"{schema.model!r}",
                name,
            )
        rest = [text for text in differences if not text.startswith(("dim is", "model is"))]
        if rest:
            self._problem(
                "schema", "the target's table has a different schema: " + "; ".join(rest), name
            )
        if other.stats.rows:
            self._problem(
                "rows",
                f"the target's table already holds {other.stats.rows:,} rows; {self._forget}drop "
                "it, name another target, or copy only the differences with: aiovec migrate sync",
                name,
            )

    async def _look_at_texts(self, origin: Backend, found: _Found) -> None:
        """Rows without a text can get no vector, and must not be lost in silence."""
        field = getattr(self._transform, "field", "")
        embed = found.schema.embed
        if field and embed is not None and getattr(self._transform, "using", None) is None:
            self._notes.append(
                f"the table {found.handle.name!r} makes vectors of texts with the embedder "
                f"{embed.using!r}: after the switch that has to be one of the new model, or calls "
                "with a text raise ModelMismatchError"
            )
        if not field or not found.schema.fields[field].nullable:
            return
        missing = 0
        with suppress(*ALTERED):
            missing = await origin.count(found.handle, IsNull(Ref(field)))
        if missing and found.schema.vector_nullable:
            self._notes.append(
                f"{missing:,} rows of the table {found.handle.name!r} have no {field!r}: those of "
                "them that have a vector stop the run, for it cannot be computed anew; the others "
                "stay without one"
            )
        elif missing:
            self._problem(
                "null-text",
                f"{missing:,} rows have no {field!r}, so their vectors cannot be computed; give "
                "them a text or delete them",
                found.handle.name,
            )

    def _look_at_abilities(self, origin: Backend, shape: Backend, tables: list[_Found]) -> None:
        if moves_of(origin) is None:
            text = (
                f"{origin.target} has no lock that all its writers use, so it can be moved only "
                "while nobody writes to it"
            )
            if self._options.switch:
                self._problem("no-lock", f"{text}: stop its writers, and leave out --switch")
            else:
                self._notes.append(text)
        texts = [
            found.handle.name
            for found in tables
            if any(field.text for field in found.schema.fields.values())
        ]
        if texts and origin.supports("text") and not shape.supports("text"):
            self._notes.append(
                f"the {shape.name} backend has no keyword search, which these tables use: "
                + ", ".join(texts)
            )
        if texts and origin.supports("text-prefix") and not shape.supports("text-prefix"):
            self._notes.append(
                f"the {shape.name} backend finds whole words, not prefixes: keyword searches such "
                f"as word* will raise UnsupportedError in: {', '.join(texts)}"
            )
        if self._transform is not None:
            self._notes.append("the estimate does not include the time to compute the new vectors")

    # The time

    async def _probe(self, origin: Backend, found: _Found, there: Located) -> Rates:
        memory = await self._host.in_thread(there.in_memory)
        return await probe(
            origin, found.handle, memory, batch_size=self._options.batch_size, host=self._host
        )

    def _seconds(self, rates: Rates, plan: TablePlan, largest: TableStats) -> float:
        # What was measured are rows of the largest table; others count by what their rows weigh.
        weight = plan.bytes / max(1.0, largest.bytes / largest.rows)
        return rates.seconds(weight, verify=self._options.verify)


def _column(column: pa.Field) -> str:
    return f"{column.name}: {column.type}{'' if column.nullable else ' not null'}"


def _target_bytes(plan: TablePlan) -> int:
    return max(0, plan.bytes + plan.grows)


async def _find(backend: Backend, name: str) -> _Found | None:
    async def look(handle: TableHandle) -> _Found:
        return _Found(handle, await backend.stats(handle))

    return await looked_at(backend, name, look)


@asynccontextmanager
async def _opened(place: Located, host: Host) -> AsyncIterator[Backend]:
    backend = await host.in_thread(place.backend)
    backend.upkeep = False
    try:
        await backend.open()
        yield backend
    finally:
        await to_its_end(backend.close())


__all__ = ["Plan", "Problem", "TablePlan", "make_plan"]
