"""The way back: what was written since the switch is carried to the source."""

from __future__ import annotations

from aiovec.backend import ChangeFeed, Moves
from aiovec.errors import MigrationError

from .catchup import Pursuit
from .checking import check_all
from .cutover import ALL_HAVE_LOOKED, Toml, Turn
from .model import Phase, TableState
from .places import Place
from .work import OpenTable, Work, unmark


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
        await unmark(self._old.backend, work.run)  # it is in use again
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
                "the vectors are of another model now, so they cannot be carried back; name the "
                "old backend in the TOML by hand if what was written since may be lost"
            )
        if self._toml is None:
            raise MigrationError("a rollback flips a TOML: say which one (--config)")
        return self._toml

    async def _has_turned(self, toml: Toml) -> bool:
        """Complete a turn back that was decided; False where none was."""
        work, state = self._work, self._work.state
        new, back = self._new.backend, self._old.configured
        if isinstance(new, Moves) and isinstance(new, ChangeFeed):
            mark = await new.move_mark()
            if mark is None or mark.run != state.run or mark.state != "moved":
                return False
            await Turn(work, toml, back, [], Phase.ROLLING_BACK).flip()
            return True
        if not state.switched or await toml.backend() != back:
            state.switched = False
            return False
        await self._act_on(self._old)
        await Turn(work, toml, back, await self._pursuits(), Phase.ROLLING_BACK).settle()
        return True

    async def _move(self, toml: Toml) -> None:
        work = self._work
        await work.host.sleep(ALL_HAVE_LOOKED)  # the switch may be as young as that
        await self._act_on(self._old)
        await self._act_on(self._new)
        await self._prepare()
        pursuits = await self._pursuits()
        if isinstance(self._new.backend, ChangeFeed):
            for pursuit in pursuits:
                await pursuit.catch_up()
                if work.state.options.verify:
                    await check_all(pursuit)
        await Turn(work, toml, self._old.configured, pursuits, Phase.ROLLING_BACK).turn()

    async def _pursuits(self) -> list[Pursuit]:
        return [await Pursuit.of(self._work, table) for table in self._work.state.tables.values()]

    async def _act_on(self, place: Place) -> None:
        if isinstance(place.backend, Moves):
            await place.backend.begin_move(self._work.run)

    # Tables

    async def _prepare(self) -> None:
        """Have in the source what was made in the target since; nothing is dropped there."""
        work, old, new = self._work, self._old.backend, self._new.backend
        tables = work.state.tables
        there, now = set(await old.tables()), await new.tables()
        for name in [name for name in tables if name not in now]:
            del tables[name]
            work.tell("warning", "was dropped since the switch; the source's is kept", table=name)
        for name in now:
            schema = (await OpenTable.open(new, name)).schema
            if name not in tables:
                tables[name] = TableState(name, schema.to_json(), copied=True)
                await work.save(tables[name])
            if name not in there:
                await old.create_table(name, schema)
                continue
            mine = (await OpenTable.open(old, name)).schema
            for field in schema.fields:
                if field not in mine.fields:
                    handle = (await OpenTable.open(old, name)).handle
                    await old.add_field(handle, field, schema.fields[field])
