"""Every error that aiovec raises, in one tree.

AiovecError
├── ConfigError                 a target or a TOML file that cannot be used
├── BackendNotInstalledError    a known backend whose package is missing
├── ExtensionUnavailableError   no SQLite here can load sqlite-vec
├── InvalidArgumentError        an argument or a schema option out of its range
├── InvalidNameError            a table, field or selected name that is not allowed
├── TableNotFoundError
├── TableExistsError
├── SchemaMismatchError         a table is there with another schema
├── ModelMismatchError          vectors of one embedding model for a table of another
├── DimensionMismatchError      a vector of another length than the table's
├── InvalidVectorError          NaN, infinity, or a zero vector under cosine
├── InvalidRowError             a row's field of the wrong type, or none where one must be
├── EmbeddingError              an embedder that is missing, failed, or gave no usable vectors
├── DuplicateIdError            an insert of an id that exists, or twice in one call
├── FilterError                 a filter that does not parse or does not fit the schema
├── UnsupportedError            an ability that this backend does not have
├── StoreClosedError
├── StoreBusyError              the call got no turn within the time allowed
├── StoreFullError              no room left where the store lies
├── OutcomeUnknownError         a commit that failed so that it may be kept or not
├── StoreMovedError             the store has been migrated to another place
├── StoreReplacedError          the file under an open store was replaced or removed
├── CorruptStoreError           a file that is damaged, or not an aiovec store
└── MigrationError

Each carries its facts as attributes; a driver's exception is its ``__cause__``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any


def shown(value: object, most: int = 120) -> str:
    """A user's value for a message, cut short. Whatever it is, this takes no time and succeeds."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 20
    try:
        text = short.repr(value)
    except Exception:  # noqa: BLE001 - Python writes out no number of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _listed(names: Sequence[object], most: int = 12) -> str:
    """Names for a message: all of a few, the first of many."""
    listed = ", ".join(map(shown, names[:most]))
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed or "none"


def _rebuild(cls: type[AiovecError], args: tuple[Any, ...], facts: dict[str, Any]) -> AiovecError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


class AiovecError(Exception):
    """The root. Raised itself only for a driver's failure that no class below describes."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take their facts, not the message, so the default way back would not fit.
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigError(AiovecError):
    """A target, a TOML file or an environment variable that cannot be used.

    ``file`` and ``key`` name the place, ``accepted`` what may stand there.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        key: str | None = None,
        accepted: str | None = None,
    ) -> None:
        self.file = file
        self.key = key
        self.accepted = accepted
        super().__init__(message)


class BackendNotInstalledError(AiovecError):
    """The backend is known, but what it needs is not installed; ``extra`` names what brings it."""

    def __init__(self, backend: str, extra: str) -> None:
        self.backend = backend
        self.extra = extra
        super().__init__(
            f'the backend {backend!r} is not installed; install it with: pip install "{extra}"'
        )


class ExtensionUnavailableError(AiovecError):
    """No SQLite driver here can load the sqlite-vec extension; ``cure`` says what to install."""

    def __init__(self, reason: str, cure: str) -> None:
        self.reason = reason
        self.cure = cure
        super().__init__(f"{reason}; {cure}")


class InvalidArgumentError(AiovecError, ValueError):
    """An argument out of its range: ``argument``, ``value`` and ``expected``."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        self.argument = argument
        self.value = value
        self.expected = expected
        super().__init__(f"{argument} must be {expected}, not {shown(value)}")


class InvalidNameError(AiovecError, ValueError):
    """A name that is not allowed: ``name``, the ``kind`` of thing it names, and the ``rule``."""

    def __init__(self, name: object, kind: str, rule: str) -> None:
        self.name = name
        self.kind = kind
        self.rule = rule
        super().__init__(f"{shown(name)} cannot name a {kind}: {rule}")


class TableNotFoundError(AiovecError, LookupError):
    """There is no such ``table``; ``tables`` are those that exist."""

    def __init__(self, table: str, tables: Sequence[str] = ()) -> None:
        self.table = table
        self.tables = list(tables)
        super().__init__(f"there is no table {table!r}; the tables are: {_listed(self.tables)}")


class TableExistsError(AiovecError):
    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(
            f"the table {table!r} exists already; choose another name, or, to create_table, pass "
            "exist_ok=True to accept it"
        )


class SchemaMismatchError(AiovecError):
    """The ``table`` is there with another schema; ``differences`` lists each one."""

    def __init__(self, table: str, differences: Sequence[str]) -> None:
        self.table = table
        self.differences = list(differences)
        super().__init__(f"the table {table!r} has another schema: " + "; ".join(differences))


class ModelMismatchError(AiovecError, ValueError):
    """Vectors of the model ``given`` were offered to a ``table`` of the model ``expected``."""

    def __init__(self, table: str, expected: str | None, given: str | None) -> None:
        self.table = table
        self.expected = expected
        self.given = given
        super().__init__(
            f"the table {table!r} holds vectors of the model {expected!r}, not {given!r}; "
            "vectors of two models cannot be compared"
        )


class DimensionMismatchError(AiovecError, ValueError):
    """A vector of length ``given`` where ``expected`` is the table's; ``row``, ``id`` if known."""

    def __init__(
        self, expected: int, given: int, *, row: int | None = None, id: str | None = None
    ) -> None:
        self.expected = expected
        self.given = given
        self.row = row
        self.id = id
        super().__init__(
            f"the vector{_place(row, id)} has {given} dimensions; the table's have {expected}"
        )


class InvalidVectorError(AiovecError, ValueError):
    """A vector that cannot be compared, or is none at all: ``reason``, ``row`` and ``id``."""

    def __init__(self, reason: str, *, row: int | None = None, id: str | None = None) -> None:
        self.reason = reason
        self.row = row
        self.id = id
        super().__init__(f"the vector{_place(row, id)} {reason}")


class InvalidRowError(AiovecError, ValueError):
    """A value that does not fit the schema: ``row``, ``id``, ``field`` and ``reason``."""

    def __init__(
        self,
        reason: str,
        *,
        row: int | None = None,
        id: str | None = None,
        field: str | None = None,
    ) -> None:
        self.reason = reason
        self.row = row
        self.id = id
        self.field = field
        where = (
            f"field {shown(field)}"
            if field is not None
            else "the row"
            if row is not None
            else "rows"
        )
        super().__init__(f"{where}{_place(row, id)}: {reason}")


class EmbeddingError(AiovecError):
    """The ``embedder`` gave no usable vector for a text; nothing of the call was written.

    ``row`` and ``id`` name the row of the text, if it is one's, ``model`` is the embedder's,
    ``status`` the HTTP status of its service, and ``retryable`` is true where the same call may
    succeed later.
    """

    def __init__(
        self,
        embedder: str,
        reason: str,
        *,
        model: str | None = None,
        row: int | None = None,
        id: str | None = None,
        status: int | None = None,
        retryable: bool = False,
    ) -> None:
        self.embedder = embedder
        self.reason = reason
        self.model = model
        self.row = row
        self.id = id
        self.status = status
        self.retryable = retryable
        of = f" ({model})" if model else ""
        later = "; the same call may succeed later" if retryable else ""
        super().__init__(
            f"the embedder {embedder!r}{of} gave no vector for the text{_place(row, id)}: "
            f"{reason}{later}"
        )


class DuplicateIdError(AiovecError, ValueError):
    """``ids`` that ``table`` has already, or with ``within_call`` that stand twice in one call."""

    def __init__(self, table: str, ids: Sequence[str], *, within_call: bool = False) -> None:
        self.table = table
        self.ids = list(ids)
        self.within_call = within_call
        what = "stand twice in the call" if within_call else f"exist already in table {table!r}"
        super().__init__(f"these ids {what}: {_listed(self.ids)}; nothing was inserted")


class FilterError(AiovecError, ValueError):
    """A filter that cannot be used.

    For a text filter, ``position`` counts the characters before the fault and ``expected`` says
    what could stand there.
    """

    def __init__(
        self,
        message: str,
        *,
        text: str | None = None,
        position: int | None = None,
        expected: str | None = None,
    ) -> None:
        self.text = text
        self.position = position
        self.expected = expected
        shown = message
        if expected is not None:
            shown += f"; expected {expected}"
        if text is not None and position is not None:
            start, end = max(0, position - 30), position + 30
            excerpt = ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
            shown += f" (at position {position}: {excerpt!r})"
        super().__init__(shown)


class UnsupportedError(AiovecError):
    """The ``backend``, or a ``table`` of it, does not have this ``ability``."""

    def __init__(
        self, ability: str, backend: str, hint: str | None = None, *, table: str | None = None
    ) -> None:
        self.ability = ability
        self.backend = backend
        self.table = table
        lacks = f"the {backend} backend" if table is None else f"the table {table!r}"
        super().__init__(f"{lacks} does not support {ability!r}" + (f"; {hint}" if hint else ""))


class StoreClosedError(AiovecError):
    """The store at ``target`` cannot be used any more; ``reason`` where nobody closed it."""

    def __init__(self, target: str, reason: str | None = None) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"the store {target} is closed" + (f": {reason}" if reason else ""))


_EARLIER_STEPS = "the earlier steps of the call are kept, and a repeat does the rest"


class StoreBusyError(AiovecError):
    """The call got no turn within ``waited`` seconds; nothing of it was done.

    With ``in_part`` the call has several steps, as ``optimize`` has, and those before are kept.
    """

    def __init__(self, reason: str, waited: float, *, in_part: bool = False) -> None:
        self.reason = reason
        self.waited = waited
        self.in_part = in_part
        time = f" (waited {waited:.1f} s)" if waited else ""
        done = _EARLIER_STEPS if in_part else "nothing of the call was done"
        super().__init__(f"{reason}{time}; {done}")


class StoreFullError(AiovecError):
    """No room is left where the store lies; nothing of the call was kept.

    With ``in_part`` the call has several steps, as ``optimize`` has, and those before are kept.
    """

    def __init__(self, target: str, reason: str, *, in_part: bool = False) -> None:
        self.target = target
        self.reason = reason
        self.in_part = in_part
        kept = _EARLIER_STEPS if in_part else "nothing of the call was kept"
        super().__init__(
            f"no room to write to {target} ({reason}); {kept}, what was acknowledged before is safe"
        )


class OutcomeUnknownError(AiovecError):
    """Committing to ``target`` failed for ``reason`` in a way that may leave the call kept.

    All of the call is kept, or none of it. Look (``get``, ``count``) before you go on, or repeat
    the call by ``upsert``, ``update`` or ``delete``, which is right in either case. Where the file
    system failed, the rows may come to light only after the store is opened again.
    """

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(
            f"whether the call was kept in {target} is not known, since its commit failed "
            f"({reason}); look, or repeat it by upsert"
        )


class StoreMovedError(AiovecError):
    """The store has been migrated from ``target`` to ``moved_to``.

    Stores that were opened from the TOML ``config`` go on there by themselves, with its
    ``backend``; both are empty where the move changed no TOML. ``generation`` rises with every
    cut-over, there and back.
    """

    def __init__(
        self,
        target: str,
        moved_to: str,
        *,
        backend: str = "",
        config: str = "",
        generation: int = 0,
        reason: str = "",
    ) -> None:
        self.target = target
        self.moved_to = moved_to
        self.backend = backend
        self.config = config
        self.generation = generation
        super().__init__(
            f"the store {target} has moved to {moved_to}" + (f"; {reason}" if reason else "")
        )


class StoreReplacedError(AiovecError):
    """Another store than the open one, or none, lies at ``target``; ``reason`` says what happened.

    Nothing of the call is at ``target``: where a write had been committed already, its rows went to
    the old file or folder. ``backup`` of a store in a SQLite file still copies the old one. Close
    the store and open it again to use what is there now.
    """

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(
            f"{target} is no longer what this store has open: {reason}; nothing of this call was "
            "kept there; close this store and open it again"
        )


class CorruptStoreError(AiovecError):
    """The data at ``target`` is damaged, or is not a store that this version reads."""

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"{target}: {reason}")


class MigrationError(AiovecError):
    """A migration that cannot start, go on or be trusted."""


def _place(row: int | None, id: str | None) -> str:
    if row is None and id is None:
        return ""
    if id is None:
        return f" of row {row}"
    return f" of id {id!r}" if row is None else f" of row {row} (id {id!r})"


__all__ = [
    "AiovecError",
    "BackendNotInstalledError",
    "ConfigError",
    "CorruptStoreError",
    "DimensionMismatchError",
    "DuplicateIdError",
    "EmbeddingError",
    "ExtensionUnavailableError",
    "FilterError",
    "InvalidArgumentError",
    "InvalidNameError",
    "InvalidRowError",
    "InvalidVectorError",
    "MigrationError",
    "ModelMismatchError",
    "OutcomeUnknownError",
    "SchemaMismatchError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreFullError",
    "StoreMovedError",
    "StoreReplacedError",
    "TableExistsError",
    "TableNotFoundError",
    "UnsupportedError",
]
