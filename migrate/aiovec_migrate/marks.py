"""Read and change the marks of migrations in two stores. Each change is atomic.

Changes need a backend that supports "moves". The backend object that begins a run acts for the run:
it may read and write regardless of the mark.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto

from aiovec.backend.contract import Backend
from aiovec.backend.marks import FILLING, MOVED, PAUSED, MoveMark, MoveRecord
from aiovec.errors import MigrationError

from .places import OpenPlace

# Maximum seconds that a run waits, when it begins, for writes in progress.
_FLUSH_LIMIT = 60.0


async def begin_move(backend: Backend, run: str, mark: MoveMark | None = None) -> None:
    """Act for this run from now on, and set an "open" mark unless the store already has a mark.

    ``mark`` names the run's target. If the store already has the run's mark, that mark gets this
    target.

    After this call, and until the mark is removed, changes to a schema raise MigrationError with
    the run's name, and ``changes`` reports every change of a row. Raises MigrationError if the
    store has another run's mark.
    """
    wanted = replace(mark or MoveMark(run), begun=uuid.uuid4().hex)
    _, after = await backend.change_move(lambda record: _begun(record, wanted))
    backend.act_for(run)
    if after.mark is not None and not after.mark.left:
        await backend.flush_writers(_FLUSH_LIMIT)


def _begun(record: MoveRecord, wanted: MoveMark) -> MoveRecord:
    if record.mark is None:
        return replace(record, mark=wanted)
    mark = _mark_of(record, wanted.run)
    if mark.left or mark.filling or not wanted.moved_to:
        return record
    kept = ("state", "generation", "pause", "limit", "begun")
    state = {name: getattr(mark, name) for name in kept}
    return replace(record, mark=replace(wanted, **state))


async def pause_writers(backend: Backend, run: str, limit: float) -> None:
    """Make every writer of every process wait.

    When this returns, no write is in progress. A writer that has waited for ``limit`` seconds ends
    the pause for all writers, so a run that died blocks nobody forever.
    """
    pause = uuid.uuid4().hex

    def paused(record: MoveRecord) -> MoveRecord:
        mark = _mark_of(record, run)
        if mark.left:
            raise MigrationError(f"the run {run} has already moved the store")
        return replace(record, mark=replace(mark, state=PAUSED, pause=pause, limit=limit))

    await backend.change_move(paused)
    await backend.flush_writers(limit)


async def resume_writers(backend: Backend, run: str) -> bool:
    """End the pause; return False if a writer has already ended it."""
    before, after = await backend.change_move(
        lambda record: record.end_pause(_mark_of(record, run).pause)
    )
    return before != after


async def set_moved(backend: Backend, run: str, generation: int) -> bool:
    """Change the mark from "paused" to "moved"; return False if the pause has ended.

    Once the mark is "moved", every call of every other backend object raises StoreMovedError. A
    second call by the same run returns True.
    """

    def moved(record: MoveRecord) -> MoveRecord:
        mark = _mark_of(record, run)
        if mark.state != PAUSED:
            return record
        return MoveRecord(replace(mark, state=MOVED, generation=generation), generation)

    _, after = await backend.change_move(moved)
    return after.mark is not None and after.mark.left


async def reenter(backend: Backend, run: str, source: str) -> None:
    """Act for a run whose target is this store, which an earlier run switched apps away from.

    Raises MigrationError if the mark belongs to another run that did not lead to ``source``.
    """

    def reentered(record: MoveRecord) -> MoveRecord:
        mark = record.mark
        if mark is None or mark.run == run:
            return record
        if not mark.left or mark.target != source:
            raise MigrationError(of_another_run("target", mark))
        return replace(record, mark=replace(mark, run=run))

    if (record := await backend.move_record()) != reentered(record):
        await backend.change_move(reentered)
    backend.act_for(run)


async def fill(
    backend: Backend, run: str, source: str, generation: int = 0, *, fresh: bool = False
) -> None:
    """Act for a run that copies the rows of ``source`` into this store, which is not in use.

    ``generation`` is the source's generation; ``fresh`` means that this store has no tables yet.

    When this returns, no other write is in progress. Until the mark is removed, or the run has
    switched apps to this store (``Backend.arrive``), writes of every other backend object raise
    MigrationError, but reads work. Raises MigrationError if the store has another run's mark.
    """

    def filled(record: MoveRecord) -> MoveRecord:
        if record.mark is not None:
            _mark_of(record, run)
            return record
        mark = MoveMark(run, FILLING, source=source, generation=generation, fresh=fresh)
        return replace(record, mark=mark)

    await backend.change_move(filled)
    backend.act_for(run)
    await backend.flush_writers(_FLUSH_LIMIT)


async def end_move(backend: Backend, run: str, copied: Iterable[str] | None = None) -> None:
    """Remove the run's mark, if there is one, unless it says that apps were switched away.

    If ``copied`` names tables, the store's record allows the run to update these copies later.
    """

    def ended(record: MoveRecord) -> MoveRecord:
        if record.mark is None or (mark := _mark_of(record, run)).left:
            return record
        if copied is None or not mark.filling:
            return replace(record, mark=None)
        before = record.tables if record.run == run else ()
        return MoveRecord(None, record.generation, run, tuple(sorted({*before, *copied})))

    await backend.change_move(ended)


async def forget_move(backend: Backend) -> None:
    """Remove an unreadable mark, or the mark of a store whose apps were switched away.

    The store is then independent again.
    """

    def forgotten(record: MoveRecord) -> MoveRecord:
        if record.mark is not None and not record.mark.left:
            raise MigrationError(
                f"the migration {record.mark.run} is not over; end it first: aiovec migrate abort"
            )
        return replace(record, mark=None)

    await backend.change_move(forgotten, anew=True)


def _mark_of(record: MoveRecord, run: str) -> MoveMark:
    """Return this run's mark; raise MigrationError if the store has no mark or another run's."""
    mark = record.mark
    if mark is None:
        raise MigrationError(f"the store has no mark of a migration, so none of the run {run}")
    if mark.run != run:
        raise MigrationError(of_another_run("store", mark))
    return mark


def of_another_run(store: str, mark: MoveMark) -> str:
    """Return an error text for a store with another run's mark, including the remedy."""
    if mark.left:
        return (
            f"the {store} has moved to {mark.moved_to} by the run {mark.run}; to use it "
            "independently again, remove the mark: aiovec migrate forget"
        )
    return (
        f"the {store} is part of another migration, run {mark.run}; continue that one (aiovec "
        "migrate run), or end it (aiovec migrate abort)"
    )


# The state of a run, according to the marks of both stores


class State(Enum):
    """How far the apps' switch from the source to the target has progressed."""

    STAYED = auto()  # apps use the source, or writers wait
    MOVED = auto()  # an app or the run still has to put the target into use
    SWITCHED = auto()  # apps use the target
    LOST = auto()  # apps should use the target, but another store is in its place


@dataclass(frozen=True, slots=True)
class Marks:
    """The migration records of both stores as last read, with the marks of this run.

    ``resumes`` is True if the target's tables come from the source: a run compares them, and copies
    the differences. ``foreign`` has an error text for each mark of another run.
    """

    state: State
    records: tuple[MoveRecord, MoveRecord]
    source: MoveMark | None
    target: MoveMark | None
    resumes: bool
    foreign: tuple[str, ...]

    @property
    def has_moved(self) -> bool:
        return self.state is not State.STAYED


async def marks_of(source: OpenPlace, target: OpenPlace, run: str) -> Marks:
    """Read the marks of both stores for this run."""
    records = await source.record(), await target.record()
    of_source, of_target = (record.mark for record in records)
    foreign = []
    if of_source is not None and (of_source.run != run or of_source.filling):
        foreign.append(of_another_run("source", of_source))
        of_source = None
    if of_target is not None and not (
        (of_target.left and of_target.target == source.backend.target)
        or (of_target.run == run and (of_target.left or of_target.filling))
    ):
        foreign.append(of_another_run("target", of_target))
        of_target = None
    state = State.STAYED
    resumes = is_copy = records[1].run == run
    if of_source is not None and of_source.left:
        lost = target.missing or not of_source.leads_to(records[1])
        state = State.LOST if lost else State.MOVED
        if records[1].generation >= of_source.generation:
            state = State.SWITCHED
    elif of_source is not None:
        resumes = is_copy or of_target is not None or not target.keeps_marks
    elif of_target is not None and not foreign:
        resumes = is_copy or of_target.left or not source.keeps_marks
    return Marks(state, records, of_source, of_target, resumes, tuple(foreign))
