"""Changes of the record that a store keeps about migrations, each in one step.

They are for backends with "moves". The object that a run begins with acts for the run: it reads and
writes whatever the mark says.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

from aiovec.backend.contract import Backend
from aiovec.backend.marks import FILLING, MOVED, PAUSED, MoveMark, MoveRecord
from aiovec.errors import MigrationError

# Seconds that the writes in progress may take when a run begins.
_FLUSH_LIMIT = 60.0


async def begin_move(backend: Backend, run: str, mark: MoveMark | None = None) -> None:
    """Act for this run from now on, and set the mark "open" where there is none.

    ``mark`` says where the run leads. A mark of the run that is there already leads there too.

    When this returns, changes of schema raise MigrationError with the run's name, and every
    later change of a row is in ``changes`` until the mark is removed. MigrationError where
    another run's mark stands.
    """
    wanted = replace(mark or MoveMark(run), begun=uuid.uuid4().hex)
    _, after = await backend.change_move(lambda record: _begun(record, wanted))
    backend.act_for(run)
    if after.mark is not None and not after.mark.left:
        await backend.flush_writers(_FLUSH_LIMIT)


def _begun(record: MoveRecord, wanted: MoveMark) -> MoveRecord:
    if record.mark is None:
        return replace(record, mark=wanted)
    mark = _own(record, wanted.run)
    if mark.left or mark.filling or not wanted.moved_to:
        return record
    kept = ("state", "generation", "pause", "limit", "begun")
    there = {name: getattr(mark, name) for name in kept}
    return replace(record, mark=replace(wanted, **there))


async def pause_writers(backend: Backend, run: str, limit: float) -> None:
    """Let every writer of every process wait.

    When this returns, no write is under way. A waiting writer that has seen the pause for
    ``limit`` seconds ends it for all, so a run that died holds nobody for ever.
    """
    pause = uuid.uuid4().hex

    def paused(record: MoveRecord) -> MoveRecord:
        mark = _own(record, run)
        if mark.left:
            raise MigrationError(f"the run {run} has moved the store already")
        return replace(record, mark=replace(mark, state=PAUSED, pause=pause, limit=limit))

    await backend.change_move(paused)
    await backend.flush_writers(limit)


async def resume_writers(backend: Backend, run: str) -> bool:
    """End the pause; False where a writer had ended it already."""
    before, after = await backend.change_move(
        lambda record: record.end_pause(_own(record, run).pause)
    )
    return before != after


async def set_moved(backend: Backend, run: str, generation: int) -> bool:
    """Turn the pause into "moved"; False, and nothing done, where the pause had ended.

    From then on every call of every other object raises StoreMovedError. Done a second time
    by the same run it is True.
    """

    def moved(record: MoveRecord) -> MoveRecord:
        mark = _own(record, run)
        if mark.state != PAUSED:
            return record
        return MoveRecord(replace(mark, state=MOVED, generation=generation), generation)

    _, after = await backend.change_move(moved)
    return after.mark is not None and after.mark.left


async def reenter(backend: Backend, run: str, source: str) -> None:
    """Act for a run that leads into this store, which an earlier one has left.

    MigrationError where the mark of another run stands that did not lead to ``source``.
    """
    if (record := await backend.move_record()) != reentered(record, run, source):
        await backend.change_move(lambda record: reentered(record, run, source))
    backend.act_for(run)


def reentered(record: MoveRecord, run: str, source: str) -> MoveRecord:
    """Let a run write into a store that an earlier one has left for ``source``."""
    mark = record.mark
    if mark is None or mark.run == run:
        return record
    if not mark.left or mark.target != source:
        raise MigrationError(
            f"the target carries the mark of another migration, run {mark.run}: {_cure(mark)}"
        )
    return replace(record, mark=replace(mark, run=run))


async def fill(
    backend: Backend, run: str, source: str, generation: int = 0, *, fresh: bool = False
) -> None:
    """Act for a run that copies the rows of ``source`` into this store, which is not in use.

    ``generation`` is that of the source, and ``fresh`` says that this store has no tables yet.

    When this returns nobody else's write is under way, and until the mark is removed, or the
    run has led here (``Backend.arrive``), every other object's raises MigrationError. They still
    read. MigrationError where another mark stands.
    """

    def filled(record: MoveRecord) -> MoveRecord:
        if record.mark is not None:
            _own(record, run)
            return record
        mark = MoveMark(run, FILLING, source=source, generation=generation, fresh=fresh)
        return replace(record, mark=mark)

    await backend.change_move(filled)
    backend.act_for(run)
    await backend.flush_writers(_FLUSH_LIMIT)


async def end_move(backend: Backend, run: str, *, copied: bool = False) -> None:
    """Remove the mark; a store that was left keeps it. Nothing where there is none.

    With ``copied`` a store that was filled stays known as a copy that this run may bring up to
    date.
    """

    def ended(record: MoveRecord) -> MoveRecord:
        if record.mark is None or (mark := _own(record, run)).left:
            return record
        return MoveRecord(None, record.generation, run if copied and mark.filling else record.run)

    await backend.change_move(ended)


async def forget_move(backend: Backend) -> None:
    """Remove the mark of a store that was left, or one that cannot be read.

    The store is then a store of its own again.
    """

    def forgotten(record: MoveRecord) -> MoveRecord:
        if record.mark is not None and not record.mark.left:
            raise MigrationError(
                f"the migration {record.mark.run} is not over; end it first: aiovec migrate abort"
            )
        return replace(record, mark=None)

    await backend.change_move(forgotten, anew=True)


def _own(record: MoveRecord, run: str) -> MoveMark:
    """Return the mark of this run; MigrationError where there is none, or that of another."""
    mark = record.mark
    if mark is None:
        raise MigrationError(f"the store knows of no open migration, so not of the run {run}")
    if mark.run != run:
        raise MigrationError(
            f"another migration of this store is known: run {mark.run}; {_cure(mark)}"
        )
    return mark


def _cure(mark: MoveMark) -> str:
    """Return what a user can do about a mark."""
    if mark.left:
        return (
            f"the store has moved to {mark.moved_to}; to use it again as a store of its own, "
            "remove that mark: aiovec migrate forget"
        )
    return "go on with it (aiovec migrate run), or end it (aiovec migrate abort)"
