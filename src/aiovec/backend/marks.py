"""The mark that a migration leaves in a store.

Exactly one of the stores of a migration is in use, and the marks say which: a store marked "moved"
serves only the migration, and only the migration writes into a store marked "filling". A mark is
one small record that is replaced as a whole. Adapters keep it where a write can read it under the
lock, or in the transaction, that commits the write.

A run stores nothing except the marks: its name is derived from its two stores, so the same command
finds the marks again.
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
"""Rows are being copied. Rows can be written; schemas cannot be changed."""
PAUSED: Final = "paused"
"""Writers wait."""
MOVED: Final = "moved"
"""Another store is in use instead of this one."""
FILLING: Final = "filling"
"""The rows of another store, which is in use, are being copied into this store."""

MAX_PAUSE = 3600.0
"""Maximum length of a pause, in seconds."""


@dataclass(frozen=True, slots=True)
class MoveMark:
    """A store's record of a running or finished migration from the store or, if "filling", into it.

    ``moved_to`` is the target as a user would write it, ``target`` as its backend writes it.
    ``backend`` names the target's backend in the TOML file ``config``; apps that use this file
    follow the move. ``backend`` and ``config`` are empty if the run changes no TOML file.
    ``source`` is the source store. With ``target_marked``, the target has a mark of the run too, so
    a store without such a mark is not the target. ``fresh`` is True if a store that is being filled
    had no tables at first.

    ``generation`` rises with every cut-over in either direction; it is 0 before the first. A store
    being filled has the generation of its source, so that a process that follows an older cut-over
    of the same stores does not put it into use. ``pause`` distinguishes one pause from the next,
    and ``limit`` is its maximum length in seconds. ``begun`` distinguishes this mark from other
    marks of the same run.
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
        """True once another store is in use instead of this one."""
        return self.state == MOVED

    @property
    def filling(self) -> bool:
        """True if the migration is into this store, which is not in use yet."""
        return self.state == FILLING

    def leads_to(self, record: MoveRecord) -> bool:
        """Return whether a store with this record can be the target of this mark.

        A store that has since been emptied or replaced has neither the run's mark nor its cut-over.
        """
        if not self.target_marked or record.generation >= self.generation:
            return True
        return record.mark is not None and record.mark.run == self.run

    def refusal(self, target: str) -> AiovecError:
        """Return the error that writes raise while this mark forbids them."""
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
        """Return the error for a schema change or, in a store that is being filled, for a write."""
        if self.filling:
            return MigrationError(
                f"a migration (run {self.run}) copies the rows of {self.source} into this store, "
                "and until it ends, no one else can write here; `aiovec migrate run` continues it, "
                "`aiovec migrate abort` ends it"
            )
        return MigrationError(
            f"a migration is open (run {self.run}), and until it ends, no table can be created, "
            "altered or dropped; `aiovec migrate status` shows its progress, "
            "`aiovec migrate abort` ends it"
        )


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """A store's record of migrations.

    ``generation`` is the number of the last cut-over into or out of the store. ``run`` is a
    migration that copied ``tables`` of its source into this store without a cut-over, and may do so
    again. ``generation``, ``run`` and ``tables`` stay when the mark is removed.
    """

    mark: MoveMark | None = None
    generation: int = 0
    run: str = ""
    tables: tuple[str, ...] = ()

    def end_pause(self, pause: str) -> MoveRecord:
        """Return the record without this pause; the same record if the pause is over."""
        mark = self.mark
        if mark is None or mark.state != PAUSED or mark.pause != pause:
            return self
        return replace(self, mark=replace(mark, state=OPEN))

    def arrive(self, run: str, generation: int) -> MoveRecord:
        """Return the record after this run has put the store into use, in this generation.

        An older mark of the same run is dropped.
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
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> MoveRecord:
        """Parse a record; raise ValueError with the reason if the text is not a record.

        Fields that an earlier version did not write are empty.
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
    """Return the text of the error for a store whose migration mark cannot be read."""
    return (
        f"the mark of a migration in it cannot be read ({reason}); if no migration of this store "
        "is under way, remove the mark: aiovec migrate forget"
    )
