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

    def end_pause(self, pause: str) -> MoveRecord:
        """The record without this pause; the same one where that pause is over."""
        mark = self.mark
        if mark is None or mark.state != PAUSED or mark.pause != pause:
            return self
        return replace(self, mark=replace(mark, state=OPEN))

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
