"""What a migration tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
