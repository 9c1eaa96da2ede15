"""The way back: what was written since the switch is carried to the source."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial

from aiovec.backend import Backend, Schema, TableHandle, moves_of
from aiovec.errors import AiovecError, MigrationError

from .catchup import Pursuit
from .checking import check_all
from .cutover import Toml, Turn
from .model import Phase, TableState
from .work import OpenTable, Work, everything, looked_at


class Rollback:
    """A cut-over from the target, where the stores are, to the source, where they were."""

    def __init__(self, work: Work, toml: Toml | None) -> None:
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
            for table in state.tables.values():
                table.since = None
                table.verified = False
            state.phase = Phase.ROLLING_BACK
            state.switched = False
            await work.save(*state.tables.values())
            work.tell("phase")
            await work.step("phase:rolling-back")
        if not await self._has_turned(toml):
            await self._move(toml)
        await work.step("rollback:released")
        await work.enter(Phase.ROLLED_BACK)
        work.tell("done", "the stores are back where they were")

    def _checked(self) -> Toml:
        state = self._work.state
        if not state.options.switch:
            raise MigrationError("only a migration that has switched can be rolled back")
        if state.phase not in (Phase.DONE, Phase.ROLLING_BACK):
            raise MigrationError(
                f"the run is {state.phase}: complete it first (aiovec migrate run)"
            )
        if state.options.reembed:
            raise MigrationError(
                "the vectors are of another model now, so they cannot be carried back. If what "
                "was written since the switch may be lost: end the run (aiovec migrate finish), "
                "let the old store be in use again (aiovec migrate forget), and name its backend "
                "in the TOML"
            )
        if self._toml is None:
            raise MigrationError("a rollback flips a TOML: say which one (--config)")
        return self._toml

    async def _has_turned(self, toml: Toml) -> bool:
        """Complete a turn back that was decided; False where none was."""
        work = self._work
        new = work.leaving()
        mark = await new.move_mark()
        if mark is None or mark.run != work.run or not mark.left:
            return False
        new.act_for(work.run)
        await Turn(work, toml, self._old.configured, [], Phase.ROLLING_BACK).complete()
        return True

    async def _move(self, toml: Toml) -> None:
        work = self._work
        await self._check_stores()
        await work.mark(toml.path)
        await work.step("rollback:marked")
        # A killed migrator may have left its writers in a pause.
        await work.leaving().resume_writers(work.run)
        await self._prepare()
        pursuits = await self._pursuits()
        for pursuit in pursuits:
            await pursuit.catch_up()
            if work.state.options.verify:
                await check_all(pursuit)
        await Turn(work, toml, self._old.configured, pursuits, Phase.ROLLING_BACK).turn()

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
                    f"{store} is not the store that the run {run} has switched: it was replaced, "
                    "restored or emptied since, so nothing is carried from it or into it. "
                    "What ends the run, without a way back: aiovec migrate finish"
                )
        if record.mark is not None and record.mark.run != run:
            raise MigrationError(
                f"another migration, run {record.mark.run}, is open on {self._new}: end that first"
            )

    async def _check_tables(self) -> None:
        """The error that a table of the store in use gives where it cannot be read at all."""
        backend = self._new.backend
        for name in await backend.tables():
            await looked_at(backend, name, partial(_read, backend, whole=False))

    async def _pursuits(self) -> list[Pursuit]:
        return [await Pursuit.of(self._work, table) for table in self._work.state.tables.values()]

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
            opened = await OpenTable.open(new, name)
            schema = opened.schema
            if name not in tables:
                tables[name] = TableState(name, schema.to_json(), copied=True)
                await work.save(tables[name])
            if name in there and not await self._fits(name, schema):
                # What is dropped here is all that is left where the new one cannot be read.
                await opened.do(partial(_read, new, whole=True))
                await old.drop_table(name)
                await work.step("rollback:dropped")
                work.tell("note", "was made anew since the switch, so it is here too", table=name)
                there.discard(name)
            if name not in there:
                await old.create_table(name, schema)
                await work.step("rollback:created")

    async def _drop_or_keep(self, name: str) -> None:
        work, old = self._work, self._old.backend
        rows = await (await OpenTable.open(old, name)).count()
        if rows:
            text = (
                f"the table {name!r} is missing in {self._new}; its {rows:,} rows of before the "
                f"switch stay in {self._old}: drop it there if that was meant"
            )
            work.tell("warning", text, table=name)
            await work.step("rollback:kept")
            return
        await old.drop_table(name)
        await work.step("rollback:dropped")
        work.tell("note", "was dropped since the switch, so it goes here too", table=name)

    async def _fits(self, name: str, schema: Schema) -> bool:
        """Whether the source's table has the schema, once it has the fields that were added."""
        old = self._old.backend
        known = (await OpenTable.open(old, name)).schema
        wanted = known
        added = [field for field in schema.fields if field not in known.fields]
        try:
            for field in added:
                wanted = wanted.with_field(field, schema.fields[field])
        except AiovecError:
            return False
        if wanted.differences(schema):
            return False
        for field in added:
            handle = (await OpenTable.open(old, name)).handle
            await old.add_field(handle, field, schema.fields[field])
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
