"""The state of a migration: its options, its phase, the progress of each table, its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from aiovec.errors import AiovecError, InvalidArgumentError, MigrationError

_T = TypeVar("_T")

FORMAT = 1

MAX_BATCH = 1_000_000

ONE_WAY = (
    "a switch to another embedding model cannot be rolled back: rows written after it have no "
    "vectors of the old model. Pass --one-way to accept that, or leave out --switch and name the "
    "new backend in the TOML file yourself"
)


class Phase(StrEnum):
    """The phases of a run. Each is journalled before it begins."""

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

    @property
    def over(self) -> bool:
        return self in (Phase.DONE, Phase.ROLLED_BACK)

    @property
    def command(self) -> str:
        """The command of ``aiovec migrate`` that ends a run from here, wherever it was killed."""
        return PHASES[self][0]

    @property
    def following(self) -> frozenset[Phase]:
        """The phases that may come next."""
        return PHASES[self][1]


# A run that goes on begins with its copy again. It may also be done already, or have moved: a mark
# in the source, or the note that it was released, can say more than the phase.
_GOES_ON = frozenset({Phase.COPYING, Phase.CATCHING_UP, Phase.MOVED, Phase.DONE, Phase.ABORTING})
PHASES: Mapping[Phase, tuple[str, frozenset[Phase]]] = MappingProxyType(
    {
        Phase.PLANNED: ("run", _GOES_ON),
        Phase.COPYING: ("run", _GOES_ON),
        Phase.CATCHING_UP: ("run", _GOES_ON | {Phase.INDEXING}),
        Phase.INDEXING: ("run", _GOES_ON | {Phase.VERIFYING, Phase.CUTTING_OVER}),
        Phase.VERIFYING: ("run", _GOES_ON | {Phase.CUTTING_OVER}),
        Phase.CUTTING_OVER: ("run", _GOES_ON),
        Phase.MOVED: ("run", frozenset({Phase.MOVED, Phase.DONE})),
        Phase.DONE: ("finish", frozenset({Phase.ROLLING_BACK})),
        Phase.ROLLING_BACK: (
            "rollback", frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.DONE}),
        ),
        Phase.ROLLED_BACK: ("finish", frozenset({Phase.ABORTING})),
        Phase.ABORTING: ("abort", frozenset({Phase.ABORTING})),
    }
)  # fmt: skip
"""Of each phase, the command that ends a run from there, and the phases that may come next."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

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
    """The name of the change of embedding model, empty where vectors are moved as they are.

    A run and a plan take it from the transform that is passed to them."""
    one_way: bool = False
    """There need be no way back, as after a switch to vectors of another model."""

    @property
    def has_no_way_back(self) -> bool:
        """True if a switch cannot be rolled back: new rows lack vectors of the old model."""
        return self.switch and bool(self.reembed)

    def __post_init__(self) -> None:
        for name in ("batch_size", "attempts"):
            if not isinstance(value := getattr(self, name), int):
                raise InvalidArgumentError(name, value, "a whole number")
        if not isinstance(self.pause_limit, (int, float)):
            raise InvalidArgumentError("pause_limit", self.pause_limit, "a number of seconds")
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
                "all tables with a switch, because an app uses one backend for all of them; leave "
                "out the tables or the switch"
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
    """The progress of one table."""

    name: str
    schema: str
    """The target's schema as JSON."""
    total: int = 0
    """The source's rows when the copy began; for the rate only."""
    rows: int = 0
    """Rows copied so far."""
    made: bool = False
    """The target's table is this run's own work: noted before it is created."""
    created: bool = False
    """It was created, noted behind it. Until then it may be somebody else's that has rows."""
    foreign: bool = False
    """Somebody else made it just when this run was about to: nothing in it is this run's."""
    cursor: bytes | None = None
    """Behind the last batch that is known to be in the target."""
    copied: bool = False
    since: int | None = None
    """All changes up to this number are in the target. Read before the first batch; None where
    the source keeps no changes, or no longer the ones that are needed."""
    indexed: bool = False
    verified: bool = False

    def to_json(self) -> str:
        known = asdict(self)
        known["cursor"] = None if self.cursor is None else self.cursor.hex()
        return json.dumps(known)

    @classmethod
    def from_json(cls, text: str) -> TableState:
        """The state; ValueError, KeyError or TypeError with the reason where the text is none."""
        known = _only_known(cls, json.loads(text))
        known.setdefault("created", known.get("made", False))  # an earlier version told only that
        if known.get("cursor") is not None:
            known["cursor"] = bytes.fromhex(known["cursor"])
        return _checked(cls(**known))


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
    filled: bool = False
    """The target carries, or is about to carry, the mark by which nobody else writes to it."""
    lost: bool = False
    """An abort found the source without the mark: it was replaced, and the copies, which are whole,
    may be all that is left."""
    released: bool = False
    """All was carried and the source's mark is off, or about to be: without a switch that is all.

    What is written from then on is told to nobody, so there is no going on with such a run."""
    switched: bool = False
    """The TOML was flipped, or is about to be."""
    generation: int | None = None
    """The target's when the run began. Another one tells that another run has led stores into it,
    or out of it, since."""
    config: str = ""
    """The TOML that is flipped."""
    source_name: str = ""
    """The source as the user named it: a target, or the name of a backend in the TOML."""
    target_name: str = ""
    started: str = ""
    changed: str = ""
    rate: float | None = None
    lag: int | None = None
    left: float | None = None
    longest_pause: float = 0.0
    tables: dict[str, TableState] = field(default_factory=dict)

    @property
    def next_command(self) -> str:
        """The command of ``aiovec migrate`` that ends this run from wherever it stopped."""
        return self.phase.command

    def enter(self, phase: Phase) -> None:
        """Begin a phase. MigrationError if it cannot follow the present one."""
        if phase not in self.phase.following:
            raise MigrationError(
                f"the run {self.run} is {self.phase}, so it cannot be {phase} next; continue with "
                f"`aiovec migrate {self.next_command}`"
            )
        self.phase = phase

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
        """The state; ValueError, KeyError or TypeError with the reason where the texts are none."""
        known = _mapping(json.loads(text))
        if known.pop("format", None) != FORMAT:
            raise MigrationError(
                "another version of aiovec wrote the journal; end the run with that version"
            )
        options = _only_known(Options, known["options"])
        if options.get("tables") is not None:
            options["tables"] = tuple(options["tables"])
        known = _only_known(cls, known)
        known["source"] = _checked(Identity(**_mapping(known["source"])))
        known["target"] = _checked(Identity(**_mapping(known["target"])))
        try:
            known["options"] = _checked(Options(**options))
        except AiovecError as exc:
            raise ValueError(str(exc)) from exc
        known["phase"] = Phase(known["phase"])
        known["tables"] = {name: TableState.from_json(state) for name, state in tables.items()}
        return _checked(cls(**known))


def _only_known(cls: Any, values: object) -> dict[str, Any]:
    names = {each.name for each in fields(cls)}
    return {key: value for key, value in _mapping(values).items() if key in names}


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} in place of an object")
    return value


def _checked(made: _T) -> _T:
    """Return an object made of JSON values; ValueError if one of them has another type."""
    for name, hint in get_type_hints(type(made)).items():
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        allowed = [get_origin(kind) or kind for kind in kinds]
        if float in allowed:
            allowed.append(int)
        value = getattr(made, name)
        if not isinstance(value, tuple(allowed)):
            raise ValueError(f"its {name} is {value!r}")
    return made


Kind = Literal["phase", "progress", "table", "note", "warning", "done"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    ``kind`` is "phase" where a new phase begins, "progress" while rows pass, "table" where a table
    is through with its phase, "note" and "warning" for a sentence, "done" at the end.
    ``rows`` of ``total`` are through, at ``rate`` rows a second, with some ``left`` seconds to go;
    ``lag`` counts the changes of the source that the target does not have yet.
    What is not known is None.
    """

    kind: Kind
    phase: str
    table: str | None = None
    rows: int | None = None
    total: int | None = None
    rate: float | None = None
    left: float | None = None
    lag: int | None = None
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The event for JSON, without what is not known."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


Listener = Callable[[Event], None]


def unheard(event: Event) -> None:
    """The listener that does nothing."""
