"""The options of a run, and the events that it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aiovec.errors import InvalidArgumentError, MigrationError


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

    If ``tables`` is None, all tables are moved. With ``switch``, apps use the target afterwards;
    ``pause_limit`` is the maximum number of seconds that writers wait in an attempt to switch, and
    ``attempts`` the maximum number of attempts.
    """

    tables: tuple[str, ...] | None = None
    switch: bool = False
    pause_limit: float = 5.0
    attempts: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.pause_limit, (int, float)) or not 0 < self.pause_limit <= 3600:
            raise InvalidArgumentError(
                "pause_limit", self.pause_limit, "a number of seconds above 0, at most 3600"
            )
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidArgumentError("attempts", self.attempts, "a whole number from 1")
        if self.tables is not None and not self.tables:
            raise InvalidArgumentError("tables", self.tables, "None or at least one name")
        if self.switch and self.tables is not None:
            raise MigrationError(
                "a switch moves all tables, because an app uses one backend for all of them; leave "
                "out the tables or the switch"
            )


Kind = Literal["phase", "progress", "table", "note", "warning"]
Phase = Literal[
    "marking", "copying", "comparing", "catching up", "optimizing", "verifying", "switching",
    "aborting",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    ``kind`` is "phase" when a phase begins, "progress" while rows are processed, "table" when a
    table has completed its phase, and "note" or "warning" for a message in ``text``. ``rows`` is
    the number of rows done so far, ``total`` the number of all rows to do, ``rate`` the rows per
    second, ``left`` the seconds to go, and ``lag`` the number of changes just applied. None means
    unknown or not applicable.
    """

    kind: Kind
    phase: Phase
    table: str | None = None
    rows: int | None = None
    total: int | None = None
    rate: float | None = None
    left: float | None = None
    lag: int | None = None
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the event as a dict for JSON, without unknown values."""
        return {
            key: round(value, 3) if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if value not in (None, "")
        }


Listener = Callable[[Event], None]


def unheard(event: Event) -> None:
    """Ignore the event. This is the default listener."""
