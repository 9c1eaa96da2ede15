"""What a migration knows of itself: its options, its phase, and how far each table is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from aiovec.errors import InvalidArgumentError, MigrationError

FORMAT = 1

MAX_BATCH = 1_000_000


class Phase(StrEnum):
    """How far a run is. Each is journalled before it begins."""

    PLANNED = "planned"
    COPYING = "copying"
    CATCHING_UP = "catching-up"
    INDEXING = "indexing"
    VERIFYING = "verifying"
    CUTTING_OVER = "cutting-over"
    MOVED = "moved"
    """The source sends everybody on; the TOML is still to be flipped."""
    DONE = "done"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    ABORTING = "aborting"
    ABORTED = "aborted"

    @property
    def over(self) -> bool:
        return self in (Phase.DONE, Phase.ROLLED_BACK, Phase.ABORTED)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose.

    ``tables`` None moves all. ``pause_limit`` bounds, in seconds, how long writers wait at the
    cut-over; ``attempts`` how often it is tried.
    """

    tables: tuple[str, ...] | None = None
    batch_size: int = 1000
    switch: bool = False
    pause_limit: float = 5.0
    attempts: int = 5
    verify: bool = True
    index: bool = True
    reembed: str = ""
    """The name of the change of embedding model, empty where vectors are moved as they are."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise InvalidArgumentError(
                "batch_size", self.batch_size, f"a whole number from 1 to {MAX_BATCH}"
            )
        if not 0 < self.pause_limit <= 3600:
            raise InvalidArgumentError(
                "pause_limit", self.pause_limit, "a number of seconds above 0, at most 3600"
            )
        if self.attempts < 1:
            raise InvalidArgumentError("attempts", self.attempts, "at least 1")
        if self.tables is not None and not self.tables:
            raise InvalidArgumentError("tables", self.tables, "None or at least one name")
        if self.switch and self.tables is not None:
            raise MigrationError(
                "a switch moves all tables, for a store opened from the TOML finds all of them in "
                "one backend; leave out the tables, or the switch"
            )


@dataclass(frozen=True, slots=True)
class Identity:
    """A store as the journal names it: the backend, and where it lies, without secrets."""

    backend: str
    target: str

    def __str__(self) -> str:
        return f"{self.target} ({self.backend})"


@dataclass(slots=True)
class TableState:
    """How far one table is."""

    name: str
    schema: str
    """The target's schema as JSON."""
    total: int = 0
    """The source's rows when the copy began; for the rate only."""
    rows: int = 0
    """Rows copied so far."""
    made: bool = False
    """The target's table is this run's own work: noted before it is created."""
    cursor: bytes | None = None
    """Behind the last batch that is known to be in the target."""
    copied: bool = False
    since: int | None = None
    """All changes up to this number are in the target. Read before the first batch; None where
    the source keeps no changes, or no longer the ones that are needed."""
    version: int | None = None
    """The source's newest version when the copy began, where it has versions."""
    indexed: bool = False
    verified: bool = False

    def to_json(self) -> str:
        known = asdict(self)
        known["cursor"] = None if self.cursor is None else self.cursor.hex()
        return json.dumps(known)

    @classmethod
    def from_json(cls, text: str) -> TableState:
        known = _only_known(cls, json.loads(text))
        if known.get("cursor") is not None:
            known["cursor"] = bytes.fromhex(known["cursor"])
        return cls(**known)


@dataclass(slots=True)
class RunState:
    """A whole run, as the journal holds it."""

    run: str
    source: Identity
    target: Identity
    options: Options
    phase: Phase = Phase.PLANNED
    marked: bool = False
    """The source carries, or is about to carry, this run's mark."""
    begun: bool = False
    """The mark was seen on the source, so its absence means another source."""
    switched: bool = False
    """The TOML was flipped, or is about to be."""
    config: str = ""
    """The TOML that is flipped."""
    source_name: str = ""
    """How the source is named: a target, or the name of a backend in the TOML."""
    target_name: str = ""
    started: str = ""
    changed: str = ""
    rate: float | None = None
    lag: int | None = None
    left: float | None = None
    longest_pause: float = 0.0
    tables: dict[str, TableState] = field(default_factory=dict)

    def to_json(self) -> str:
        """All but the tables."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        del known["tables"]
        known["format"] = FORMAT
        known["source"] = asdict(self.source)
        known["target"] = asdict(self.target)
        known["options"] = asdict(self.options)
        return json.dumps(known)

    @classmethod
    def from_json(cls, text: str, tables: Mapping[str, str]) -> RunState:
        known = json.loads(text)
        if known.pop("format", None) != FORMAT:
            raise MigrationError(
                "the journal was written by another version of aiovec; end the run with that one"
            )
        options = _only_known(Options, known["options"])
        if options.get("tables") is not None:
            options["tables"] = tuple(options["tables"])
        known = _only_known(cls, known)
        known["source"] = Identity(**known["source"])
        known["target"] = Identity(**known["target"])
        known["options"] = Options(**options)
        known["phase"] = Phase(known["phase"])
        known["tables"] = {name: TableState.from_json(state) for name, state in tables.items()}
        return cls(**known)


def _only_known(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(cls)}
    return {key: value for key, value in values.items() if key in names}
