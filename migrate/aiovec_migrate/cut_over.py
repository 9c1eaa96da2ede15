"""The last changes, and the cut-over of all apps to the target.

The source's writers wait, the last changes are applied and compared, the source's mark becomes
"moved", the target is put into use, and then the TOML is changed. The order matters: once the mark
is set, the source commits no more writes, and if the migrator is killed before it puts the target
into use, an app that follows the mark can do so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from aiovec.backend.threads import together
from aiovec.errors import AiovecError, ConfigError, MigrationError

from .marks import State, marks_of, pause_writers, resume_writers, set_moved
from .moving import TableMove
from .toml import TomlFile
from .work import Work

# The share of the pause limit after which a cut-over is called off: at the limit, the waiting
# writers end the pause themselves.
_SHARE = 0.8
# The most tables whose last changes are applied at the same time.
_AT_ONCE = 4
# Seconds before the second attempt, and maximum seconds between two attempts.
_FIRST_REST, _LONGEST_REST = 0.5, 15.0


class CalledOffError(Exception):
    """An attempt to switch failed, but another attempt may succeed. Never reaches a user."""


# Errors after which another attempt would only pause the writers and fail again: somebody changed
# the TOML, a mark or a schema.
_PERMANENT = (ConfigError, MigrationError)


@dataclass(slots=True, eq=False)
class Cutover:
    """The cut-over of one run. ``pause`` is the longest time in seconds that writers waited."""

    work: Work
    toml: TomlFile
    tables: Sequence[TableMove]
    pause: float = 0.0

    async def turn(self) -> None:
        """Switch all apps to the target.

        Makes up to ``Options.attempts`` attempts. Raises MigrationError if all attempts fail, or
        without trying again if another attempt would fail for the same reason.
        """
        work = self.work
        work.enter("switching")
        rest, reason = _FIRST_REST, ""
        for attempt in range(work.options.attempts):
            if attempt:
                work.tell("warning", f"the switch was called off and will be tried again: {reason}")
                await asyncio.sleep(rest)
                rest = min(2 * rest, _LONGEST_REST)
            try:
                await self._move()
            except CalledOffError as exc:
                reason = str(exc)
            else:
                await work.step("cut-over:moved")
                await complete(work, self.toml)
                return
        raise MigrationError(
            f"could not switch after {work.options.attempts} attempts: {reason}. Apps still use "
            f"{work.source}; run the same command to try again"
        )

    async def _move(self) -> None:
        work, source = self.work, self.work.source.backend
        for table in self.tables:
            await table.set_notes({})  # of an attempt that was called off
            if table.verified:
                await table.settle()
            else:
                await table.verify()
        await work.step("cut-over:ready")
        limit = work.options.pause_limit
        now = asyncio.get_running_loop().time
        began = now()
        try:
            # Check before any writer waits, and once more at the end, because the file may be
            # edited at any time, and apps follow the mark once it is set.
            await self.toml.check(work.source, work.target)
            async with asyncio.timeout(limit * _SHARE):
                await pause_writers(source, work.run, limit)
                await work.step("cut-over:paused")
                await self._last_changes()
                records = [await place.record() for place in (work.source, work.target)]
                mark = records[1].mark
                if work.target.keeps_marks and (mark is None or mark.run != work.run):
                    raise MigrationError(f"the mark of this run in {work.target} was removed")
                await self.toml.check(work.source, work.target)
        except BaseException as exc:
            await self._release()
            if isinstance(exc, _PERMANENT):
                raise MigrationError(
                    f"cannot switch: {exc}. Apps still use {work.source}; correct this, and run "
                    "the same command again"
                ) from exc
            if isinstance(exc, TimeoutError):
                share = f"{_SHARE:.0%} of the pause limit, {limit:g} s"
                raise CalledOffError(f"the last changes took longer than {share}") from exc
            if isinstance(exc, AiovecError):
                raise CalledOffError(str(exc)) from exc
            raise
        finally:
            self.pause = max(self.pause, now() - began)
        if not await self._set_moved(1 + max(record.generation for record in records)):
            raise CalledOffError("the pause reached its limit and ended before the switch")

    async def _release(self) -> None:
        """Let the writers continue. If this fails, they end the pause themselves at its limit."""
        with suppress(AiovecError):
            await asyncio.shield(resume_writers(self.work.source.backend, self.work.run))

    async def _last_changes(self) -> None:
        """Apply and compare the changes made before the pause, several tables at a time."""

        async def last(table: TableMove) -> None:
            if wrong := await table.last_changes():
                raise CalledOffError(wrong)

        await together([partial(last, table) for table in self.tables], _AT_ONCE)
        await self.work.step("cut-over:checked")

    async def _set_moved(self, generation: int) -> bool:
        run, source = self.work.run, self.work.source
        try:
            return await set_moved(source.backend, run, generation)
        except AiovecError as exc:
            # The mark may have been set in spite of the error.
            with suppress(AiovecError):
                mark = (await source.record()).mark
                if mark is not None and mark.left:
                    return True
                await self._release()
                raise CalledOffError(str(exc)) from exc
            raise MigrationError(
                f"{source} did not confirm the switch ({exc}); run the same command again, which "
                "completes or repeats it"
            ) from exc


async def complete(work: Work, toml: TomlFile | None) -> None:
    """Do the steps that remain once the source's mark is "moved"."""
    source, target = work.source, work.target
    marks = await marks_of(source, target, work.run)
    mark = marks.source
    if mark is None or not mark.left:
        raise MigrationError(f"the mark of {source} does not say that its apps were switched")
    if marks.state is State.LOST:
        raise MigrationError(
            f"{source} was left for {target}, but the store there is not the one that its rows "
            "were moved to: it was replaced, emptied or removed, or its disk is missing. Put it "
            f"back and run this again; if it is lost, {source} has the rows from before the "
            f"switch: aiovec migrate forget {source.configured or source.backend.address}"
        )
    if target.keeps_marks:
        await target.backend.arrive(work.run, mark.generation)
    await work.step("cut-over:arrived")
    if toml is None or toml.path != mark.config:
        raise MigrationError(
            f"apps use {target} now, but the TOML file of this switch was not given, so it still "
            f"names the old store; add --config {mark.config}"
        )
    if by_hand := await toml.flip(target):
        work.tell("warning", f"apps use {target} now; for apps that start later, {by_hand}")
    await work.step("cut-over:flipped")
