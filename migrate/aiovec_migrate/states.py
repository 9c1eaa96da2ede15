"""What the marks of two stores say about the run from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from aiovec.backend.marks import MoveMark, MoveRecord

from .marks import of_another_run
from .places import OpenPlace


class State(Enum):
    """The states between two runs, and within one."""

    APART = auto()  # neither store shows anything of the run
    COPIED = auto()  # the target is a copy that an earlier run without a switch made
    LEFT = auto()  # the target's apps were switched to the source: a run leads back
    FILLING = auto()  # only the target is marked: killed there, or the source was replaced
    OPEN = auto()  # apps write to the source, or wait
    MOVED = auto()  # an app or the run still has to put the target into use
    SWITCHED = auto()  # apps use the target
    LOST = auto()  # apps are to use the target, but the store there is another one
    OTHERS = auto()  # a store is part of another run


@dataclass(frozen=True, slots=True)
class Marks:
    """One look at the records of both stores, and at the marks of this run in them.

    ``resumes`` says that the tables of the target come from the source: they are compared, and the
    differences brought over. ``foreign`` has a problem for each mark of another run.
    """

    state: State
    records: tuple[MoveRecord, MoveRecord]
    source: MoveMark | None
    target: MoveMark | None
    resumes: bool
    foreign: tuple[str, ...]

    @property
    def has_moved(self) -> bool:
        return self.state in (State.MOVED, State.SWITCHED, State.LOST)


async def marks_of(source: OpenPlace, target: OpenPlace, run: str) -> Marks:
    """Look at the marks of both stores for this run."""
    records = await source.record(), await target.record()
    mine, theirs = (record.mark for record in records)
    foreign = []
    if mine is not None and (mine.run != run or mine.filling):
        foreign.append(of_another_run("source", mine))
        mine = None
    if theirs is not None and not (
        (theirs.left and theirs.target == source.backend.target)
        or (theirs.run == run and (theirs.left or theirs.filling))
    ):
        foreign.append(of_another_run("target", theirs))
        theirs = None
    is_copy = records[1].run == run
    resumes = is_copy
    if mine is not None and mine.left:
        lost = target.missing or not mine.leads_to(records[1])
        state = State.LOST if lost else State.MOVED
        if records[1].generation >= mine.generation:
            state = State.SWITCHED
    elif mine is not None:
        state = State.OPEN
        resumes = is_copy or theirs is not None or not target.keeps_marks
    elif foreign:
        state = State.OTHERS
    elif theirs is None:
        state = State.COPIED if is_copy else State.APART
    else:
        state = State.LEFT if theirs.left else State.FILLING
        resumes = is_copy or theirs.left or not source.keeps_marks
    return Marks(state, records, mine, theirs, resumes, tuple(foreign))
