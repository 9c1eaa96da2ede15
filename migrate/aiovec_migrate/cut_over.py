"""The last changes, and the cut-over of all stores to the goal.

The origin's writers wait, the last changes are applied and compared, the origin's mark turns to
"moved", the goal is put into use, and then the TOML is changed. In this order: from the mark on no
write is committed in the origin, however late it is, and whoever is sent on by the mark may put
the goal into use where the migrator was killed before it could.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from aiovec.backend.contract import Backend, moves_of
from aiovec.errors import AiovecError, MigrationError

from .catch_up import CatchUp, check_all
from .ends import RunContext, leads_nowhere
from .locate import Place
from .state import Phase, RunState

# The share of the pause limit after which a cut-over is called off: the writers that wait end
# their pause by themselves at the limit.
_SHARE = 0.8
# Tables whose last changes are applied at the same time.
_AT_ONCE = 4
# Seconds between two tries: the first, and the longest.
_FIRST_REST, _LONGEST_REST = 0.5, 15.0


class Toml(Protocol):
    """The TOML whose stores are led to another backend. ``toml`` has the real one."""

    @property
    def path(self) -> str:
        """Its absolute path."""
        ...

    async def check(self, origin: Place, goal: Place) -> None:
        """AiovecError where it does not lead apps to the origin, or could not lead them to the
        goal by naming another backend."""
        ...

    async def flip(self, goal: Place) -> None:
        """Name the goal's backend, atomically. Nothing where it is named already.

        AiovecError where that name leads elsewhere by now, and nothing is changed.
        """
        ...


def check_config(state: RunState, toml: Toml | None) -> None:
    """MigrationError where the TOML at hand is not the one that the run switches."""
    config = "" if toml is None else toml.path
    if state.config != config:
        raise MigrationError(
            f"the journal is of a switch of {state.config}, not of {config or 'no TOML'}; name "
            "that TOML (--config), or another journal (--journal)"
        )


class CalledOffError(Exception):
    """This try failed, and a further one may not. Never reaches a user."""


class Cutover:
    """The cut-over of one run."""

    def __init__(
        self,
        work: RunContext,
        toml: Toml,
        catch_ups: Sequence[CatchUp],
        phase: Phase = Phase.MOVED,
    ) -> None:
        self._work = work
        self._toml = toml
        self._catch_ups = catch_ups
        self._phase = phase

    async def turn(self) -> None:
        """Lead all stores to the goal; MigrationError after some tries, and nothing is changed."""
        work = self._work
        origin = work.leaving()
        rest = _FIRST_REST
        reason = ""
        for attempt in range(1, work.state.options.attempts + 1):
            if attempt > 1:
                work.tell("warning", f"the switch was called off and will be tried again: {reason}")
                await work.host.sleep(rest)
                rest = min(2 * rest, _LONGEST_REST)
            try:
                await self._move(origin)
            except CalledOffError as exc:
                reason = str(exc)
            else:
                await work.step("cut-over:moved")
                await self.complete()
                return
        raise MigrationError(
            f"the switch was tried {work.state.options.attempts} times and called off each time, "
            f"the last time because {reason}; no app was switched, and the same command continues "
            "from here"
        )

    async def _move(self, origin: Backend) -> None:
        work = self._work
        if work.goal.backend.name != work.origin.backend.name:
            notice = work.marked_at + work.host.limits.notice - work.host.now()
            await work.host.sleep(max(0.0, notice))
        verify = work.state.options.verify
        for catch_up in self._catch_ups:
            if verify and not catch_up.state.verified:
                await check_all(catch_up)
            await catch_up.catch_up(check=verify)
        await work.step("cut-over:ready")
        limit = work.state.options.pause_limit
        began = work.host.now()
        moved = False
        try:
            # Before anybody waits, and again as the last thing that can call it off: the file may
            # be edited at any time, and from the mark on apps go where it leads them.
            await self._toml.check(work.origin, work.goal)
            try:
                async with asyncio.timeout(limit * _SHARE):
                    await origin.pause_writers(work.run, limit)
                    await work.step("cut-over:paused")
                    await self._last_changes()
                    if taken := await work.taken():
                        raise CalledOffError(taken)
                    generation = await self._next_generation(origin)
                    await self._toml.check(work.origin, work.goal)
            except TimeoutError:
                raise CalledOffError(
                    f"the last changes took longer than {_SHARE:.0%} of the pause limit of "
                    f"{limit:g} s"
                ) from None
            if work.host.now() - began > limit * _SHARE:
                raise CalledOffError(f"the pause limit of {limit:g} s was too short")
            moved = await self._set_moved(origin, generation)
            if not moved:
                raise CalledOffError("the pause had ended, because its limit was over")
        except AiovecError as exc:
            raise CalledOffError(str(exc)) from exc
        finally:
            if not moved:
                await self._release(origin)
            work.state.longest_pause = max(work.state.longest_pause, work.host.now() - began)

    async def _release(self, origin: Backend) -> None:
        """Let the writers go on. Where even that fails, they do so by themselves."""
        with suppress(AiovecError):
            mark = await origin.move_mark()
            if mark is not None and mark.run == self._work.run and mark.state == "paused":
                await asyncio.shield(origin.resume_writers(self._work.run))

    async def _last_changes(self) -> None:
        """Apply and check what came until the writers stopped."""
        work = self._work
        # Several tables at once: writers wait for the last of them.
        room = asyncio.Semaphore(_AT_ONCE)

        async def last(catch_up: CatchUp) -> None:
            async with room:
                await self._last_of(catch_up)

        try:
            async with asyncio.TaskGroup() as tasks:
                for catch_up in self._catch_ups:
                    tasks.create_task(last(catch_up))
        except BaseExceptionGroup as group:
            error = group.exceptions[0]
            raise error from error.__cause__
        known = {catch_up.state.name for catch_up in self._catch_ups}
        others = sorted(set(await work.origin.backend.tables()) ^ known)
        if others:
            raise CalledOffError(
                f"tables were created or dropped during the switch: {', '.join(others)}"
            )
        await work.step("cut-over:checked")

    async def _last_of(self, catch_up: CatchUp) -> None:
        verify, table = self._work.state.options.verify, catch_up.state
        await catch_up.catch_up(check=verify)
        if verify and catch_up.suspects:
            catch_up.suspects = set(await catch_up.unlike(sorted(catch_up.suspects)))
            if catch_up.suspects:
                some = ", ".join(sorted(catch_up.suspects)[:5])
                raise CalledOffError(
                    f"{len(catch_up.suspects)} rows of table {table.name!r} are not "
                    f"the same in both stores: {some}"
                )
        left, reached = await catch_up.source.count(), await catch_up.target.count()
        if left != reached:
            table.verified = False  # every row is compared before the next try
            raise CalledOffError(
                f"table {table.name!r} has {left} rows in the source and {reached} in the target"
            )

    async def _next_generation(self, origin: Backend) -> int:
        """One above all that either store has seen."""
        goal = moves_of(self._work.goal.backend)
        seen = [(await moves.move_record()).generation for moves in (origin, goal) if moves]
        return max(seen) + 1

    async def _set_moved(self, origin: Backend, generation: int) -> bool:
        try:
            return await origin.set_moved(self._work.run, generation)
        except AiovecError:
            # It may have been done all the same.
            mark = await origin.move_mark()
            if mark is not None and mark.run == self._work.run and mark.left:
                return True
            raise

    async def complete(self) -> None:
        """Do what is left to do once the origin says that it has moved."""
        work = self._work
        mark = await work.leaving().move_mark()
        goal = moves_of(work.goal.backend)
        if await leads_nowhere(work.origin, work.goal, work.run):
            ways = (
                f"end the run (aiovec migrate finish), and make {work.origin} independent again "
                "(aiovec migrate forget)"
            )
            if work.state.phase is Phase.ROLLING_BACK:
                ways = f"call the rollback off (aiovec migrate abort): apps stay on {work.origin}"
            raise MigrationError(
                f"{work.origin} was left for {work.goal}, and what is there is not the store into "
                "which the rows were carried: that was replaced, emptied or removed, or its disk "
                f"is missing. Put it back and call this again; if it is lost, {ways}"
            )
        if goal is not None and mark is not None:
            await goal.arrive(work.run, mark.generation)
        await work.step("cut-over:arrived")
        work.state.switched = True
        await work.enter(self._phase)
        await self._toml.flip(work.goal)
        await work.step("cut-over:flipped")
