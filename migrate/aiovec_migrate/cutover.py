"""The last changes, and the turn of all stores to the goal.

From an origin with a mark: its writers wait, the last changes are applied and compared, the mark
turns to "moved", and then the TOML is flipped. In this order: a migrator that was killed between
the two must not leave writers of the origin beside others that are in the goal already.

From an origin without one: only where no version came between the last comparison and the flip.
Stores look at the TOML once a second, so what they wrote in that second is carried over after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from aiovec.backend import ChangeFeed, Columns, Moves
from aiovec.errors import AiovecError, MigrationError

from .catchup import Pursuit, newest_version
from .comparing import differing_ids
from .model import Phase
from .places import Place
from .sides import LOOKED_UP, rows_to_arrow
from .work import Work, everything, unmark

# The share of the pause limit after which a cut-over is called off: the writers that wait end
# their pause by themselves at the limit.
_SHARE = 0.8
# Seconds within which every store has looked at the TOML, which it does each second, and has ended
# the call that it was in.
ALL_HAVE_LOOKED = 2.0
# Seconds from the mark to the first pause: by then stores that are in use have opened once where
# they are about to be led, with all that its driver takes to be imported.
NOTICE = 3.0
# Seconds between two tries: the first, and the longest.
_FIRST_REST, _LONGEST_REST = 0.5, 15.0
# Rows that may have been written late and are looked at one by one.
_MOST_LATE = 100_000
_SYNC_ROUNDS = 5


class Toml(Protocol):
    """The TOML whose stores are led to another backend. ``tomlfile`` has the real one."""

    @property
    def path(self) -> str:
        """Its absolute path."""
        ...

    async def backend(self) -> str:
        """What ``[retrieval] backend`` names now."""
        ...

    async def flip(self, backend: str) -> None:
        """Name another backend, atomically. Nothing where it is named already."""
        ...


class CalledOffError(Exception):
    """This try failed, and a further one may not. Never reaches a user."""


class Turn:
    """The cut-over of one run. ``backend`` is the goal's name in the TOML."""

    def __init__(
        self,
        work: Work,
        toml: Toml,
        backend: str,
        pursuits: Sequence[Pursuit],
        phase: Phase = Phase.MOVED,
    ) -> None:
        self._work = work
        self._toml = toml
        self._backend = backend
        self._pursuits = pursuits
        self._phase = phase

    async def turn(self) -> None:
        """Lead all stores to the goal; MigrationError after some tries, and nothing is changed."""
        work = self._work
        origin = work.origin.backend
        marked = isinstance(origin, Moves) and isinstance(origin, ChangeFeed)
        rest = _FIRST_REST
        reason = ""
        for attempt in range(1, work.state.options.attempts + 1):
            if attempt > 1:
                work.tell("warning", f"the cut-over was called off: {reason}; it is tried again")
                await work.host.sleep(rest)
                rest = min(2 * rest, _LONGEST_REST)
            try:
                if marked:
                    await self._by_mark()
                else:
                    await self._by_stillness()
            except CalledOffError as exc:
                reason = str(exc)
            else:
                return
        raise MigrationError(
            f"the cut-over was tried {work.state.options.attempts} times and called off each "
            f"time, the last time because {reason}; nobody was switched, and the same command "
            "goes on from here"
        )

    # By the mark

    async def _by_mark(self) -> None:
        work = self._work
        origin = work.origin.backend
        if not isinstance(origin, Moves):
            raise MigrationError(f"{work.origin} has no mark")
        if work.goal.backend.name != work.origin.backend.name:
            await work.host.sleep(max(0.0, work.marked_at + NOTICE - work.host.now()))
        for pursuit in self._pursuits:
            await pursuit.catch_up(check=work.state.options.verify)
        await work.step("cut-over:ready")
        limit = work.state.options.pause_limit
        began = work.host.now()
        moved = False
        try:
            try:
                async with asyncio.timeout(limit * _SHARE):
                    await origin.pause_writers(work.run, limit)
                    await work.step("cut-over:paused")
                    await self._last_changes()
            except TimeoutError:
                raise CalledOffError(
                    f"the last changes took longer than {_SHARE:.0%} of the pause limit of "
                    f"{limit:g} s"
                ) from None
            await self._free_goal()
            if work.host.now() - began > limit * _SHARE:
                raise CalledOffError(f"the pause limit of {limit:g} s was too short")
            moved = await self._set_moved(origin)
            if not moved:
                raise CalledOffError("the waiting writers had ended the pause")
        except AiovecError as exc:
            raise CalledOffError(str(exc)) from exc
        finally:
            if not moved:
                await self._release(origin)
            work.state.longest_pause = max(work.state.longest_pause, work.host.now() - began)
        await work.step("cut-over:moved")
        await self.flip()

    async def _release(self, origin: Moves) -> None:
        """Let the writers go on. Where even that fails, they do so by themselves."""
        with suppress(AiovecError):
            mark = await origin.move_mark()
            if mark is not None and mark.run == self._work.run and mark.state == "paused":
                await asyncio.shield(origin.resume_writers(self._work.run))

    async def _last_changes(self) -> None:
        """Apply and check what came until the writers stopped."""
        for pursuit in self._pursuits:
            verify = self._work.state.options.verify
            await pursuit.catch_up(check=verify)
            if verify and pursuit.suspects:
                pursuit.suspects = set(await pursuit.unlike(sorted(pursuit.suspects)))
                if pursuit.suspects:
                    some = ", ".join(sorted(pursuit.suspects)[:5])
                    raise CalledOffError(
                        f"{len(pursuit.suspects)} rows of table {pursuit.state.name!r} are not "
                        f"the same in both stores: {some}"
                    )
            mine, theirs = await pursuit.source.count(), await pursuit.target.count()
            if mine != theirs:
                raise CalledOffError(
                    f"table {pursuit.state.name!r} has {mine} rows in the source and {theirs} in "
                    "the target"
                )
        await self._work.step("cut-over:checked")

    async def _set_moved(self, origin: Moves) -> bool:
        work = self._work
        try:
            return await origin.set_moved(
                work.run,
                shown_target(work.goal),
                backend=self._backend,
                config=self._toml.path,
            )
        except AiovecError:
            # It may have been done all the same.
            mark = await origin.move_mark()
            if mark is not None and mark.run == work.run and mark.state == "moved":
                return True
            raise

    async def _free_goal(self) -> None:
        """Remove the mark that leads away from the goal, where it has been an origin before."""
        await unmark(self._work.goal.backend, self._work.run)

    async def flip(self) -> None:
        """Flip the TOML; everything before it has been done."""
        work = self._work
        work.state.switched = True
        await work.enter(self._phase)
        await self._toml.flip(self._backend)
        await work.step("cut-over:flipped")

    # By standing still

    async def _by_stillness(self) -> None:
        work = self._work
        versions = await self._still()
        held = await self._hold_goal()
        try:
            for pursuit in self._pursuits:
                pursuit.state.version = versions[pursuit.state.name]
                pursuit.state.since = await self._goal_number(pursuit)
            await work.save(*(pursuit.state for pursuit in self._pursuits))
            if await self._versions() != versions:
                raise CalledOffError("it was written to while the target was made ready")
            await work.step("cut-over:still")
            await self.flip()
            await self._late()
        except AiovecError as exc:
            if work.state.switched:
                raise
            raise CalledOffError(str(exc)) from exc
        finally:
            if held is not None:
                with suppress(AiovecError):
                    await asyncio.shield(held.resume_writers(work.run))
        await self._free_goal()

    async def _still(self) -> dict[str, int]:
        """Make the goal equal; the versions that were there before and after."""
        for _ in range(_SYNC_ROUNDS):
            before = await self._versions()
            differing = 0
            for pursuit in self._pursuits:
                differing += (await pursuit.synced()).total
            if not differing and await self._versions() == before:
                return before
            await self._work.step("cut-over:synced")
        raise CalledOffError("it is written to all the time, and has no mark that stops writers")

    async def _versions(self) -> dict[str, int]:
        """The newest version of each table; the rows' number where a store has none."""
        found = {}
        for pursuit in self._pursuits:
            version = await newest_version(pursuit.source)
            found[pursuit.state.name] = await pursuit.source.count() if version is None else version
        return found

    async def _hold_goal(self) -> Moves | None:
        """Let writers that are quick to follow wait until the slow ones have followed too."""
        goal = self._work.goal.backend
        if not isinstance(goal, Moves):
            return None
        await self._free_goal()
        await goal.begin_move(self._work.run)
        await goal.pause_writers(self._work.run, self._work.state.options.pause_limit)
        return goal

    async def _goal_number(self, pursuit: Pursuit) -> int | None:
        backend = self._work.goal.backend
        if not isinstance(backend, ChangeFeed):
            return None
        return await pursuit.target.do(backend.change_number)

    async def settle(self) -> None:
        """What is left to do where a migrator was killed behind the flip."""
        await self._late()
        await self._free_goal()

    async def _late(self) -> None:
        """Carry over what stores wrote to the origin before they looked at the TOML."""
        await self._work.host.sleep(ALL_HAVE_LOOKED)
        await self._work.step("cut-over:looked")
        for pursuit in self._pursuits:
            version = await newest_version(pursuit.source)
            if version is not None and version == pursuit.state.version:
                continue
            found = await differing_ids(
                self._work.origin.backend,
                self._work.goal.backend,
                pursuit.state.name,
                host=self._work.host,
                ignore_vector=self._work.transform is not None,
                most=_MOST_LATE,
            )
            if await self._written_in_goal(pursuit) is None:
                # Then a row that only the goal has may be its own.
                ids = found.missing_ids
                if found.different or found.extra:
                    self._work.tell(
                        "warning",
                        f"{found.different + found.extra} rows were written in both stores at the "
                        "moment of the switch; the target's were kept",
                        table=pursuit.state.name,
                    )
            else:
                ids = found.ids
            await self._carry(pursuit, ids)

    async def _written_in_goal(self, pursuit: Pursuit) -> set[str] | None:
        """The ids that others wrote in the goal since the flip; None where that is not known."""
        goal = self._work.goal.backend
        since = pursuit.state.since
        if not isinstance(goal, ChangeFeed) or since is None:
            return None
        written: set[str] = set()
        complete = False
        while not complete:
            start = since
            page = await pursuit.target.do(lambda handle: goal.changes(handle, start))  # noqa: B023
            written.update(page.deleted, page.upserted.column("id").to_pylist())
            since, complete = page.number, page.complete
        return written

    async def _carry(self, pursuit: Pursuit, ids: Sequence[str]) -> None:
        """Bring these rows as they are in the origin, but for those that the goal has anew."""
        source, target = pursuit.source, pursuit.target
        columns: Columns = everything(source.schema)
        for start in range(0, len(ids), LOOKED_UP):
            # Right before they are written: where the pause has ended, others write there too.
            written = await self._written_in_goal(pursuit) or set()
            block = [id for id in ids[start : start + LOOKED_UP] if id not in written]
            rows = await source.do(lambda handle: source.backend.get(handle, block, columns))  # noqa: B023
            gone = sorted(set(block) - set(rows.ids))
            if gone:
                await target.do(lambda handle: target.backend.delete(handle, ids=gone, where=None))  # noqa: B023
            if rows.ids:
                found = await self._work.host.in_thread(rows_to_arrow, rows, source.schema)
                changed = await self._work.changed(found)
                await target.do(lambda handle: target.backend.upsert(handle, changed))  # noqa: B023


def shown_target(place: Place) -> str:
    """The place as a user would name it."""
    target = place.backend.target
    plain = "://" in target or place.backend.name == "sqlite"
    return target if plain else f"{place.backend.name}://{target}"
