"""Every error that aiovec raises, in one tree.

AiovecError
├── ConfigError                 a target or a TOML file that cannot be used
├── BackendNotInstalledError    a known backend whose package is missing
├── ExtensionUnavailableError   no installed SQLite can load sqlite-vec
├── InvalidArgumentError        an argument or a schema option with an invalid value
├── InvalidNameError            a table, field or selected name that is not allowed
├── TableNotFoundError
├── TableExistsError
├── SchemaMismatchError         the table exists with another schema
├── ModelMismatchError          vectors of one embedding model for a table with another
├── DimensionMismatchError      a vector whose length differs from the table's
├── InvalidVectorError          NaN, a number beyond 1e15, or a zero vector under cosine
├── InvalidRowError             a field of a row that is missing or has the wrong type
├── DocumentError               a document that cannot be read, or has no text
├── EmbeddingError              an embedder that is missing, fails, or returns unusable vectors
├── DuplicateIdError            an inserted id that exists, or occurs twice in the call
├── FilterError                 a filter that does not parse or does not fit the schema
├── UnsupportedError            an ability that this backend does not have
├── StoreClosedError
├── StoreBusyError              the store stayed busy until the timeout
├── StoreFullError              no space is left for the store's files
├── StoreUnreachableError       a server or a bucket that does not answer
├── StorePermissionError        a store that this process, or its key, has no permission to use
├── OutcomeUnknownError         a write that may or may not have been saved
├── StoreMovedError             the store has been migrated to another place
├── StoreReplacedError          the file under an open store was replaced or removed
├── ChangesPrunedError          changes that the store no longer keeps
├── CorruptStoreError           a file that is damaged, or not an aiovec store
└── MigrationError

Each error has its facts as attributes, and a driver's exception, if any, as its ``__cause__``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from inspect import get_annotations
from typing import Any, ClassVar, dataclass_transform

from ._tools.messages import listed, shown


def _of_row(row: int | None, id: str | None) -> str:
    if row is None and id is None:
        return ""
    if id is None:
        return f" of row {row}"
    return f" of id {id!r}" if row is None else f" of row {row} (id {id!r})"


def _rebuild(cls: type[AiovecError], args: tuple[Any, ...], facts: dict[str, Any]) -> AiovecError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A server's response to a request that fails with an error of one class."""

    status: int
    title: str
    private: tuple[str, ...] = ()
    """The facts that a server does not send, because they name its files or hosts."""
    machine: bool = True
    """False if the message contains only the caller's values, so it cannot reveal server paths."""
    retry_after: int | None = None
    """Seconds after which the same request may succeed."""


_TARGET = ("target",)


@dataclass_transform(eq_default=False)
@dataclass(init=False, eq=False, repr=False)
class AiovecError(Exception):
    """The base class of all errors, also raised for a failure that no subclass describes.

    A subclass with fields is a dataclass: the fields are the facts. The message is ``_text`` with
    the facts filled in, or the result of ``_message``.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(500, "The store failed")
    _text: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if any("ClassVar" not in str(kind) for kind in get_annotations(cls).values()):
            dataclass(eq=False, repr=False)(cls)

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __post_init__(self) -> None:
        self.args: tuple[Any, ...] = (self._message(),)

    def _message(self) -> str:
        return self._text.format_map(vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses are constructed from facts instead of the message, so default pickling fails.
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigError(AiovecError):
    """A target, a TOML file or an environment variable that cannot be used.

    ``file`` and ``key`` name the setting.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(
        500, "The server is not set up for this", private=("file",)
    )

    message: InitVar[str]
    _: KW_ONLY
    file: str | None = None
    key: str | None = None

    def __post_init__(self, message: str) -> None:
        self.args: tuple[Any, ...] = (message,)


class BackendNotInstalledError(AiovecError):
    """The ``backend`` is known, but its packages are not installed; ``extra`` names the extra to
    install."""

    http: ClassVar[HttpAnswer] = HttpAnswer(500, "The backend is not installed")

    backend: str
    extra: str

    def _message(self) -> str:
        if getattr(sys, "frozen", False) or "__compiled__" in globals():  # Nuitka defines it
            return (
                f"this app was built without the backend {self.backend!r} or a package that it "
                f'needs; install "{self.extra}" where the app is built, and name the package '
                f"aiovec_{self.backend} to the tool that builds it"
            )
        return (
            f"the backend {self.backend!r} is not installed; install it with: "
            f'pip install "{self.extra}"'
        )


class ExtensionUnavailableError(AiovecError):
    """No installed SQLite driver can load the sqlite-vec extension.

    ``reason`` says why, and ``fix`` says what to do.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(500, "SQLite lacks an extension")

    reason: str
    fix: str

    _text = "{reason}; {fix}"


class InvalidArgumentError(AiovecError, ValueError):
    """The ``argument`` has an invalid ``value``.

    ``expected`` describes the valid values, or is empty if ``reason`` is the whole message.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(422, "Invalid argument", machine=False)

    argument: str
    value: object
    expected: str = ""
    _: KW_ONLY
    reason: InitVar[str | None] = None

    def __post_init__(self, reason: str | None) -> None:
        must_be = f"{self.argument} must be {self.expected}, not {shown(self.value)}"
        self.args: tuple[Any, ...] = (reason or must_be,)


class InvalidNameError(AiovecError, ValueError):
    """The ``name`` is not allowed for this ``kind``, such as "table"; ``rule`` says why."""

    http: ClassVar[HttpAnswer] = HttpAnswer(422, "Invalid name", machine=False)

    name: object
    kind: str
    rule: str

    def _message(self) -> str:
        return f"{shown(self.name)} cannot name a {self.kind}: {self.rule}"


class TableNotFoundError(AiovecError, LookupError):
    """The ``table`` does not exist; ``tables`` lists the existing tables."""

    http: ClassVar[HttpAnswer] = HttpAnswer(404, "No such table", machine=False)

    table: str
    tables: Sequence[str] = ()

    def _message(self) -> str:
        self.tables = list(self.tables)
        tables = listed(self.tables, most=12, show=shown)
        others = f"the tables are: {tables}" if tables else "the store has no tables"
        return f"there is no table {self.table!r}; {others}"


class TableExistsError(AiovecError):
    """The ``table`` already exists."""

    http: ClassVar[HttpAnswer] = HttpAnswer(409, "The table exists", machine=False)

    table: str

    _text = (
        "the table {table!r} already exists; choose another name, add rows with upsert(), or pass "
        "its schema and exist_ok=True to create_table()"
    )


class SchemaMismatchError(AiovecError):
    """The ``table`` exists with another schema; ``differences`` lists each difference."""

    http: ClassVar[HttpAnswer] = HttpAnswer(409, "The table has another schema", machine=False)

    table: str
    differences: Sequence[str]

    def _message(self) -> str:
        self.differences = list(self.differences)
        return f"the table {self.table!r} has another schema: {'; '.join(self.differences)}"


class ModelMismatchError(AiovecError, ValueError):
    """Vectors of the model ``given`` were passed for a ``table`` with the model ``expected``.

    ``embedder`` and ``own`` are the kinds of the caller's embedder and of the table's embedder.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(
        409, "The table has another embedding model", machine=False
    )

    table: str
    expected: str | None
    given: str | None
    _: KW_ONLY
    embedder: InitVar[str | None] = None
    own: InitVar[str | None] = None

    def __post_init__(self, embedder: str | None, own: str | None) -> None:
        leave_out = ""
        if own is not None:
            which = "the embedder" if embedder is None else f"the embedder {embedder!r}"
            leave_out = f"leave {which} out, and the store uses the table's own, {own!r}, or "
        text = (
            f"the table {self.table!r} holds vectors of the model {self.expected!r}, not "
            f"{self.given!r}; vectors of two models cannot be compared: {leave_out}embed every "
            "row again, as aiovec migrate run --to TARGET --embedder NAME does"
        )
        self.args: tuple[Any, ...] = (text,)


class DimensionMismatchError(AiovecError, ValueError):
    """A vector of length ``given`` for a table with vectors of length ``expected``.

    ``row`` and ``id`` are set if known, ``embedder`` if an embedder made the vector.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(422, "The vector has another length", machine=False)

    expected: int
    given: int
    _: KW_ONLY
    row: int | None = None
    id: str | None = None
    embedder: InitVar[str | None] = None

    def __post_init__(self, embedder: str | None) -> None:
        text = (
            f"the vector{_of_row(self.row, self.id)} has {self.given} dimension"
            f"{'' if self.given == 1 else 's'}, but this table's vectors have {self.expected}"
        )
        if embedder is not None:
            text = (
                f"the embedder {embedder!r} makes vectors of {self.given} numbers; the table's "
                f"have {self.expected}: leave dim out of a new table's schema"
            )
        self.args: tuple[Any, ...] = (text,)


class InvalidVectorError(AiovecError, ValueError):
    """A vector is invalid or missing; ``reason`` says why. ``row`` and ``id`` are set if known."""

    http: ClassVar[HttpAnswer] = HttpAnswer(422, "Invalid vector", machine=False)

    reason: str
    _: KW_ONLY
    row: int | None = None
    id: str | None = None

    def _message(self) -> str:
        return f"the vector{_of_row(self.row, self.id)} {self.reason}"


class InvalidRowError(AiovecError, ValueError):
    """A row does not fit the schema; ``reason`` says why.

    ``row``, ``id`` and ``field`` are set if known.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(422, "Invalid row", machine=False)

    reason: str
    _: KW_ONLY
    row: int | None = None
    id: str | None = None
    field: str | None = None

    def _message(self) -> str:
        row = _of_row(self.row, self.id)
        if self.field is not None:
            return f"field {shown(self.field)}{row}: {self.reason}"
        return f"{row.removeprefix(' of ') or 'rows'}: {self.reason}"


class DocumentError(AiovecError, ValueError):
    """The document ``source`` cannot be read, or has no text; ``reason`` says why."""

    http: ClassVar[HttpAnswer] = HttpAnswer(422, "Unreadable document", machine=False)

    source: str
    reason: str

    _text = "{source}: {reason}"


class EmbeddingError(AiovecError):
    """The ``embedder`` returned no usable vector for a text; the call wrote nothing.

    ``reason`` describes the failure. ``row`` and ``id`` name the text's row, if it has one,
    ``model`` is the embedder's model, ``status`` is the HTTP status from the embedder's service,
    and ``retryable`` is true if the same call may succeed later. ``table`` is set if the store has
    no embedder for that table; then ``fix`` explains how to pass an embedder.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(502, "The embedder gave no vector")

    embedder: str
    reason: str
    _: KW_ONLY
    model: str | None = None
    row: int | None = None
    id: str | None = None
    status: int | None = None
    retryable: bool = False
    table: str | None = None
    fix: str = ""

    def _message(self) -> str:
        of = f" ({self.model})" if self.model else ""
        if self.table is not None:
            needs = f"the table {self.table!r} needs the embedder {self.embedder!r}{of}"
            return f"{needs}, {self.reason}; {self.fix}"
        later = "; the same call may succeed later" if self.retryable else ""
        return (
            f"the embedder {self.embedder!r}{of} gave no vector for the text"
            f"{_of_row(self.row, self.id)}: {self.reason}{later}"
        )


class DuplicateIdError(AiovecError, ValueError):
    """The ``ids`` already exist in ``table`` or, with ``within_call``, occur twice in the call."""

    http: ClassVar[HttpAnswer] = HttpAnswer(409, "The id exists", machine=False)

    table: str
    ids: Sequence[str]
    _: KW_ONLY
    within_call: bool = False

    def _message(self) -> str:
        self.ids = list(self.ids)
        verb = f"already exist in the table {self.table!r}"
        fix = "upsert() replaces such rows; insert(on_conflict='skip') leaves the new ones out"
        if self.within_call:
            verb = "occur more than once in this call"
            fix = "upsert() keeps the last row of each id; insert(on_conflict='skip') the first"
        ids = listed(self.ids, most=12, show=shown)
        return f"these ids {verb}: {ids}; nothing was inserted. {fix}"


class FilterError(AiovecError, ValueError):
    """A filter that cannot be used.

    For a text filter, ``text`` is the filter, ``position`` the number of characters before the
    error, and ``expected`` describes the valid input there, such as the existing fields.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(422, "Invalid filter", machine=False)

    message: InitVar[str]
    _: KW_ONLY
    text: str | None = None
    position: int | None = None
    expected: str | None = None

    def __post_init__(self, message: str) -> None:
        if self.expected is not None:
            message += f"; expected {self.expected}"
        text, position = self.text, self.position
        if text is not None and position is not None:
            start, end = max(0, position - 30), position + 30
            excerpt = ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
            message += f" (at position {position}: {excerpt!r})"
        self.args: tuple[Any, ...] = (message,)


class UnsupportedError(AiovecError):
    """The ``backend`` or, if ``table`` is set, that table does not support this ``ability``.

    Examples are a keyword search in a table without a field with ``text=True``, and on LanceDB a
    search of more than ``scan_limit`` rows without an index. ``hint`` says what to do instead.
    ``backend`` is empty if a Python package is missing.
    """

    # Not 501, which means that the server supports this for no store; other stores may support it.
    http: ClassVar[HttpAnswer] = HttpAnswer(422, "The backend does not support this")

    ability: str
    backend: str
    hint: str | None = None
    _: KW_ONLY
    table: str | None = None

    def _message(self) -> str:
        if not self.backend:
            return f"{self.ability} {self.hint}"
        lacks = f"the {self.backend} backend" if self.table is None else f"the table {self.table!r}"
        hint = f"; {self.hint}" if self.hint else ""
        return f"{lacks} does not support {self.ability!r}{hint}"


class StoreClosedError(AiovecError):
    """The store at ``target`` is closed; ``reason`` says why if the app did not close it."""

    http: ClassVar[HttpAnswer] = HttpAnswer(
        503, "The store is closed", private=_TARGET, retry_after=5
    )

    target: str
    reason: str | None = None

    def _message(self) -> str:
        return f"the store {self.target} is closed" + (f": {self.reason}" if self.reason else "")


_EARLIER_STEPS = "the earlier steps of the call are saved, and a repeat does the rest"


class StoreBusyError(AiovecError):
    """The store was busy for ``waited`` seconds, until the timeout.

    ``reason`` says what the call waited for. If ``in_part`` is true, the earlier steps of a call
    such as ``optimize`` are saved; otherwise the call changed nothing.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(503, "The store is busy", retry_after=1)

    reason: str
    waited: float
    _: KW_ONLY
    in_part: bool = False

    def _message(self) -> str:
        time = f" (waited {self.waited:.1f} s)" if self.waited else ""
        return f"{self.reason}{time}; {_EARLIER_STEPS if self.in_part else 'nothing was done'}"


class StoreFullError(AiovecError):
    """No space is left for the files of the store at ``target``.

    ``reason`` is the system's error. If ``in_part`` is true, the earlier steps of a call such as
    ``optimize`` are saved; otherwise the call saved nothing.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(507, "The store is full", private=_TARGET)

    target: str
    reason: str
    _: KW_ONLY
    in_part: bool = False

    def _message(self) -> str:
        saved = _EARLIER_STEPS if self.in_part else "this call saved nothing"
        return (
            f"no space left to write to {self.target} ({self.reason}); {saved}, and earlier writes "
            "are safe"
        )


class StoreUnreachableError(AiovecError):
    """The server or the bucket at ``target`` does not answer; ``reason`` says what failed."""

    http: ClassVar[HttpAnswer] = HttpAnswer(
        503, "The store does not answer", private=_TARGET, retry_after=5
    )

    target: str
    reason: str

    _text = "no answer from {target}: {reason}"


class StorePermissionError(AiovecError):
    """This process, or its key, has no permission to use the store at ``target``.

    ``reason`` says what is not allowed.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(
        500, "The server may not use its store", private=_TARGET
    )

    target: str
    reason: str

    _text = "no permission for {target}: {reason}"


class OutcomeUnknownError(AiovecError):
    """A write to ``target`` that may or may not have been saved; ``reason`` says what happened.

    Either the whole call was saved or nothing. Check with ``get`` or ``count``, or repeat the call
    with ``upsert``, ``update`` or ``delete``, which is safe in either case. If the file system
    failed, the rows may appear only after the store is opened again. If a change of fields raises
    this error, the index of a field is incomplete; ``optimize`` completes it.
    """

    # Not 503: a client that retries automatically could do the write twice.
    http: ClassVar[HttpAnswer] = HttpAnswer(500, "The outcome is not known", private=_TARGET)

    target: str
    reason: str

    _text = (
        "the write to {target} may or may not have been saved: {reason}. Check with get() or "
        "count(), or repeat it with upsert()"
    )


class StoreMovedError(AiovecError):
    """The store has been migrated from ``target`` to ``moved_to``.

    Stores opened from the TOML file ``config`` automatically switch to its ``backend``; ``config``
    and ``backend`` are empty if the migration changed no TOML file. ``generation`` grows with every
    move, including a move back. ``reason`` says why the open store did not switch to it.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(
        503, "The store has moved", private=("target", "moved_to", "config"), retry_after=2
    )

    target: str
    moved_to: str
    _: KW_ONLY
    backend: str = ""
    config: str = ""
    generation: int = 0
    reason: str = ""

    def _message(self) -> str:
        reason = f"; {self.reason}" if self.reason else ""
        return f"the store {self.target} has moved to {self.moved_to}{reason}"


class StoreReplacedError(AiovecError):
    """The file or folder at ``target`` was replaced or removed; ``reason`` says what happened.

    The call saved nothing at ``target``: a write that was already committed went to the old file or
    folder. For a SQLite store, ``backup`` still copies the old file. Close the store and open it
    again to use the new file or folder.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(
        503, "The store was replaced", private=_TARGET, retry_after=10
    )

    target: str
    reason: str

    _text = (
        "{target} is no longer the store that was opened: {reason}; nothing of this call was saved "
        "there; close this store and open it again"
    )


class ChangesPrunedError(AiovecError):
    """The changes since a number are no longer kept, or the number is not of this table.

    ``floor`` is a number that a call may pass now.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(410, "The changes are no longer kept", machine=False)

    floor: int

    _text = (
        "the changes since this number are no longer kept, or the number is not of this table; "
        "drop the rows read so far, and start again with since=0"
    )


class CorruptStoreError(AiovecError):
    """The data at ``target`` is damaged, or is not a store that this version can read.

    ``reason`` says which. The data was not changed.
    """

    http: ClassVar[HttpAnswer] = HttpAnswer(500, "The store is damaged", private=_TARGET)

    target: str
    reason: str

    _text = "{target}: {reason}"


class MigrationError(AiovecError):
    """A migration that cannot start or continue, or whose copy cannot be trusted."""

    http: ClassVar[HttpAnswer] = HttpAnswer(409, "The migration cannot do this")


__all__ = [
    "AiovecError",
    "BackendNotInstalledError",
    "ChangesPrunedError",
    "ConfigError",
    "CorruptStoreError",
    "DimensionMismatchError",
    "DocumentError",
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
    "StorePermissionError",
    "StoreReplacedError",
    "StoreUnreachableError",
    "TableExistsError",
    "TableNotFoundError",
    "UnsupportedError",
]
