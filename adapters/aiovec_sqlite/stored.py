"""What a file holds is checked before it is believed: a disk or a program may have changed it.

SQLite keeps any type in any column once the file is damaged, so each value that is read back has
its type looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from .errors import DamageError

_T = TypeVar("_T")


def stored(value: object, kind: type[_T], what: str) -> _T:
    """The value, or DamageError where it is of another type. ``what`` names it in the error."""
    if type(value) is not kind:
        raise DamageError(f"{what} is {_told(value)}, not {kind.__name__}")
    return value


def check_stored(values: Iterable[object], kind: type, what: str, *, null: bool = False) -> None:
    """Raise DamageError where a value of a column is of another type."""
    allowed = {kind, type(None)} if null else {kind}
    if not allowed.issuperset(map(type, values)):
        wrong = next(value for value in values if type(value) not in allowed)
        raise DamageError(f"{what} holds {_told(wrong)}, not {kind.__name__}")


def _told(value: object) -> str:
    return "NULL" if value is None else f"a {type(value).__name__}"
