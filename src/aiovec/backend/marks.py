"""The mark that a migration leaves in a store, and what may become of it.

Exactly one of the stores of a migration is in use, and the marks say which: a store whose mark says
"moved" answers nobody but the migration itself, and into one that says "filling" nobody else
writes. A mark is one small record that is changed as a whole. Adapters keep it where a write can
read it under the lock, or in the transaction, that commits the write.

The marks are all that there is of a run: its name follows from its two stores, so the same command
finds them again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from ..errors import AiovecError, MigrationError, StoreMovedError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

OPEN: Final = "open"
"""Rows are being copied. Rows change as always; schemas do not."""
PAUSED: Final = "paused"
"""Writers wait."""
MOVED: Final = "moved"
"""Another place is in use."""
FILLING: Final = "filling"
"""The rows of another store, which is in use, are being copied into this one."""

MAX_PAUSE = 3600.0
"""Seconds that a pause may last at most."""


@dataclass(frozen=True, slots=True)
class MoveMark:
    """The state that a store keeps about a migration away from it, or, "filling", into it.

    ``moved_to`` is the new place as a user would name it, and ``target`` as its backend does.
    ``backend`` is its name in the TOML file ``config``, whose stores go on there by themselves;
    both are empty where the run changes no TOML. ``source`` is the store that is left. With
    ``target_marked`` the new place carries a mark of the run too, so that a store without one is
    another. ``fresh`` says of a store that is being filled that it had no tables before.

    ``generation`` rises with every cut-over, there and back; it is 0 before the first. Of a store
    that is being filled it is that of the source, so that who follows an older cut-over of the same
    stores does not put it into use. ``pause`` distinguishes one pause from the next, and ``limit``
    is how long a pause may last, in seconds. ``begun`` distinguishes this mark from others of the
    same run.
    """

    run: str
    state: Literal["open", "paused", "moved", "filling"] = OPEN
    moved_to: str = ""
    backend: str = ""
    config: str = ""
    target: str = ""
    source: str = ""
    generation: int = 0
    pause: str = ""
    limit: float = 0.0
    begun: str = ""
    target_marked: bool = False
    fresh: bool = False

    @property
    def left(self) -> bool:
        """True once another place is in use."""
        return self.state == MOVED

    @property
    def filling(self) -> bool:
        """True if it is about a migration into the store, which is not in use yet."""
        return self.state == FILLING

    def leads_to(self, record: MoveRecord) -> bool:
        """Return whether a store that keeps this record can be the one for which this was left.

        One that was emptied, replaced or lost since, or whose disk is not there, has neither the
        run's mark nor the cut-over.
        """
        if not self.target_marked or record.generation >= self.generation:
            return True
        return record.mark is not None and record.mark.run == self.run

    def refusal(self, target: str) -> AiovecError:
        """Why a write is refused, where the mark refuses all."""
        return self.moved_error(target) if self.left else self.frozen_error()

    def moved_error(self, target: str) -> StoreMovedError:
        return StoreMovedError(
            target,
            self.moved_to,
            backend=self.backend,
            config=self.config,
            generation=self.generation,
        )

    def frozen_error(self) -> MigrationError:
        """Why a change of schema is refused; in a store that is being filled, every write."""
        if self.filling:
            return MigrationError(
                f"a migration (run {self.run}) copies the rows of {self.source} into this store, "
                "and until it ends nobody else writes here; `aiovec migrate run` continues it, "
                "`aiovec migrate abort` ends it"
            )
        return MigrationError(
            f"a migration is open (run {self.run}), and until it ends no table can be created, "
            "altered or dropped; `aiovec migrate status` tells how far it is, "
            "`aiovec migrate abort` ends it"
        )


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """All that a store keeps about migrations.

    ``generation`` is that of the last cut-over into or out of the store. ``run`` is the migration
    that has copied its source into this store and led nobody here: it may do so again. Both outlive
    the mark.
    """

    mark: MoveMark | None = None
    generation: int = 0
    run: str = ""

    # What a run does. Each returns the record as it shall be.

    def begin(self, wanted: MoveMark) -> MoveRecord:
        """The record with this mark; one that is there leads where this one does, if anywhere."""
        if self.mark is None:
            return replace(self, mark=wanted)
        mark = self._own(wanted.run)
        if mark.left or mark.filling or not wanted.moved_to:
            return self
        kept = ("state", "generation", "pause", "limit", "begun")
        there = {name: getattr(mark, name) for name in kept}
        return replace(self, mark=replace(wanted, **there))

    def pause(self, run: str, limit: float, pause: str) -> MoveRecord:
        mark = self._own(run)
        if mark.left:
            raise MigrationError(f"the run {run} has moved the store already")
        return replace(self, mark=replace(mark, state=PAUSED, pause=pause, limit=limit))

    def resume(self, run: str) -> MoveRecord:
        return self.end_pause(self._own(run).pause)

    def end_pause(self, pause: str) -> MoveRecord:
        """The record without this pause; the same one where that pause is over."""
        mark = self.mark
        if mark is None or mark.state != PAUSED or mark.pause != pause:
            return self
        return replace(self, mark=replace(mark, state=OPEN))

    def move(self, run: str, generation: int) -> MoveRecord:
        """The record of a store that was left; the same one where the pause has ended."""
        mark = self._own(run)
        if mark.state != PAUSED:
            return self
        return MoveRecord(replace(mark, state=MOVED, generation=generation), generation)

    def arrive(self, run: str, generation: int) -> MoveRecord:
        """The record of a store to which the run has led, in this generation.

        A mark that leads away from it is older and of no use any more, as is one of its filling.
        """
        if self.mark is None:
            if self.generation >= generation:
                return self
            return MoveRecord(None, generation)
        over = self.mark.left or self.mark.filling
        if self.mark.run != run or not over or self.mark.generation >= generation:
            return self
        return MoveRecord(None, generation)

    def fill(self, run: str, source: str, generation: int, *, fresh: bool) -> MoveRecord:
        """The record of a store into which the run alone writes from now on."""
        if self.mark is not None:
            self._own(run)
            return self
        mark = MoveMark(run, FILLING, source=source, generation=generation, fresh=fresh)
        return replace(self, mark=mark)

    def reenter(self, run: str, source: str) -> MoveRecord:
        """Let a run write into a store that an earlier one has left for ``source``."""
        mark = self.mark
        if mark is None or mark.run == run:
            return self
        if not mark.left or mark.target != source:
            raise MigrationError(
                f"the target carries the mark of another migration, run {mark.run}: {_said(mark)}"
            )
        return replace(self, mark=replace(mark, run=run))

    def end(self, run: str, *, copied: bool = False) -> MoveRecord:
        """The record without the mark; a store that was left keeps it.

        With ``copied`` a store that was filled is a copy of its source from now on.
        """
        if self.mark is None:
            return self
        mark = self._own(run)
        if mark.left:
            return self
        return MoveRecord(None, self.generation, run if copied and mark.filling else self.run)

    def forget(self) -> MoveRecord:
        if self.mark is not None and not self.mark.left:
            raise MigrationError(
                f"the migration {self.mark.run} is not over; end it first: aiovec migrate abort"
            )
        return replace(self, mark=None)

    def _own(self, run: str) -> MoveMark:
        if self.mark is None:
            raise MigrationError(f"the store knows of no open migration, so not of the run {run}")
        if self.mark.run != run:
            raise MigrationError(
                f"another migration of this store is known: run {self.mark.run}; "
                + _said(self.mark)
            )
        return self.mark

    # As text

    def to_json(self) -> str:
        mark = None if self.mark is None else asdict(self.mark)
        return json.dumps({"generation": self.generation, "run": self.run, "mark": mark})

    @classmethod
    def from_json(cls, text: str | bytes) -> MoveRecord:
        """The record; ValueError with the reason where the text is none.

        A mark of an earlier version lacks fields, which are then empty.
        """
        from pydantic import ValidationError

        try:
            record = _reader().validate_json(text, strict=True)
        except ValidationError as exc:
            fault = exc.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise ValueError(": ".join(filter(None, (place, fault["msg"])))) from None
        if record.mark is not None and not 0 <= record.mark.limit <= MAX_PAUSE:
            raise ValueError(f"its limit is {record.mark.limit!r} seconds, not 0 to {MAX_PAUSE:g}")
        return record


@cache
def _reader() -> TypeAdapter[MoveRecord]:
    from pydantic import TypeAdapter

    return TypeAdapter(MoveRecord)


def unreadable_mark(reason: object) -> str:
    """Return the error for a store whose migration mark cannot be read."""
    return (
        f"the mark of a migration in it cannot be read ({reason}); if no migration of this store "
        "is under way, remove the mark: aiovec migrate forget"
    )


def _said(mark: MoveMark) -> str:
    """Return what a user can do about a mark."""
    if mark.left:
        return (
            f"the store has moved to {mark.moved_to}; to use it again as a store of its own, "
            "remove that mark: aiovec migrate forget"
        )
    return "go on with it (aiovec migrate run), or end it (aiovec migrate abort)"
