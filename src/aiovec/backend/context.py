"""Conditions of a call from another process: the table's state, the write's key, the response size.

A server runs its clients' calls within ``calling``. A call for one state of a table fails if the
table is in another state; a write with a key is done once, however often it is requested; a read
fails if its rows have too many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .._tools.messages import shown
from ..errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class WriteKey:
    """A caller's name for one write, so that a repeated request does not write twice.

    ``digest`` identifies the write: the same key with another digest is refused. A backend with the
    ability "once" commits the key with the write.
    """

    name: str
    digest: bytes

    def check(self, digest: bytes) -> None:
        """Raise InvalidArgumentError if the key was used for another write."""
        if digest != self.digest:
            reason = (
                f"the idempotency key {shown(self.name)} was used for another write; use a new key "
                "for each write"
            )
            raise InvalidArgumentError("the idempotency key", self.name, reason=reason)


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept result of a write with a key."""

    outcome: int | None
    """The number of rows that the write returned; None if it returns nothing."""


@dataclass(frozen=True, slots=True)
class CallContext:
    states: frozenset[str] | None = None
    """The table must be in one of these states; None accepts any state."""

    key: WriteKey | Callable[[], WriteKey] | None = None
    """The key of the call's write, or a function that returns it when the write begins: by then a
    server has read the whole request, which the digest needs."""

    retried: bool = False
    """True if the client repeats a request, so the write may have been done before."""

    check_bytes: Callable[[int], object] | None = None
    """Called, in any thread, with the number of bytes that a read has brought into memory so far.
    An error that it raises ends the read, and is the error of the call."""


FEW_ROWS = 32
"""A read of at most this many rows needs no meter; a longer read counts the bytes of about this
many rows at a time."""


class Meter:
    """Counts the bytes of one read, and ends the read with an error when they are too many."""

    __slots__ = ("_check", "_nbytes", "refused")

    def __init__(self, check: Callable[[int], object]) -> None:
        self._check = check
        self.restart()

    def restart(self) -> None:
        """Count from 0 again, because the rows will be read again."""
        self._nbytes = 0
        # True if this meter ended the read; several callers, each with a meter, may share a read.
        self.refused: bool = False

    def add(self, nbytes: int, values: int = 0) -> None:
        """Count bytes that were read.

        ``values`` is the number of values in the JSON that was read; parsed, each takes 8 bytes or
        more.
        """
        self._nbytes += nbytes + 8 * values
        try:
            self._check(self._nbytes)
        except BaseException:
            self.refused = True
            raise


def values_in(text: str) -> int:
    """Estimate the number of values in JSON, for a meter; a list or an object counts as 8."""
    return text.count(",") + 8 * (text.count("[") + text.count("{"))


class TableChangedError(Exception):
    """The table is no longer in the state that the call needs. Never reaches a user."""


_CONTEXT: ContextVar[CallContext] = ContextVar("aiovec_call", default=CallContext())  # noqa: B039 - frozen


@contextmanager
def calling(context: CallContext) -> Iterator[None]:
    """Run the calls of the block in this context."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def call_context() -> CallContext:
    """Return the context of the running call."""
    return _CONTEXT.get()


def new_meter(rows: int | None) -> Meter | None:
    """Return a meter for a read of at most ``rows`` rows or values; None means any number.

    Return None if the rows are few or their bytes are not limited.
    """
    check = _CONTEXT.get().check_bytes
    few = rows is not None and rows <= FEW_ROWS
    return None if check is None or few else Meter(check)


def write_key() -> WriteKey | None:
    """Return the key of the running write.

    A backend with the ability "once" commits the key with the write, and returns the kept result if
    it has the key already. It must call this function in the context of the call: a task that
    commits for many calls has the context of only one of them.
    """
    key = _CONTEXT.get().key
    return key if key is None or isinstance(key, WriteKey) else key()
