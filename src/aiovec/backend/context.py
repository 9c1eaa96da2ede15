"""Demands of a call from another process: the state of its table, a write that is done once.

A server runs the calls of its clients within ``calling``. A call that was made for one state of a
table fails where the table has another, and a write with a key is done once, however often it is
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ..errors import InvalidArgumentError, shown


@dataclass(frozen=True, slots=True)
class WriteKey:
    """The name that a caller gave to one write, to repeat it without doing it twice.

    ``digest`` is that of the write itself: the same key with another digest is another write, which
    is refused. A backend that promises "once" commits the key with the write.
    """

    name: str
    digest: bytes

    def check(self, digest: bytes) -> None:
        """Raise InvalidArgumentError unless the write that had this key before was the same."""
        if digest != self.digest:
            reason = (
                f"the idempotency key {shown(self.name)} was used for another write; use a new key "
                "for each write"
            )
            raise InvalidArgumentError("the idempotency key", self.name, "a new key", reason=reason)


@dataclass(frozen=True, slots=True)
class Kept:
    """The trace of a write under its key."""

    outcome: int | None
    """The number of rows that the write returned, None of one that returns nothing."""


@dataclass(frozen=True, slots=True)
class CallContext:
    states: frozenset[str] | None = None
    """The states of which the table must have one; None for whatever state it has."""

    key: WriteKey | Callable[[], WriteKey] | None = None
    """The key of the one write that is made, or a function that gives it when the write begins:
    then a server has read all that the write's digest is made of."""

    retried: bool = False
    """The write may have been done before without its key: a cut-over has led to another store, or
    the store keeps no keys."""


class TableChangedError(Exception):
    """The table is no longer in the state that the call was made for. Never reaches a user."""


_CONTEXT: ContextVar[CallContext] = ContextVar("aiovec_call", default=CallContext())  # noqa: B039 - frozen


@contextmanager
def calling(context: CallContext) -> Iterator[None]:
    """Run the calls within in this context."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def call_context() -> CallContext:
    """Return the context of the running call."""
    return _CONTEXT.get()


def write_key() -> WriteKey | None:
    """Return the key of the running write.

    A backend that promises "once" commits it with the write, and gives the outcome that it kept
    where it has the key already. It asks when its method is called: the context of a task that
    commits for many is that of only one of them.
    """
    key = _CONTEXT.get().key
    return key if key is None or isinstance(key, WriteKey) else key()
