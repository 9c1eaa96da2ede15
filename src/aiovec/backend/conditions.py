"""Conditions under which a call from another process runs.

A server runs the calls of its clients within ``under``. A call made for one state of a table fails
where the table has another, and a write with a key is done once, however often it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .contract import TableHandle
from .keys import WriteKey


class TableChangedError(Exception):
    """The table is no longer in the state that the call was made for. Never reaches a user."""


@dataclass(frozen=True, slots=True)
class Conditions:
    state: str | None = None
    """The state of the table, as ``state_of`` names it; None for whatever state it has."""

    key: WriteKey | Callable[[], WriteKey] | None = None
    """The key of the one write that is made under these conditions, or a function that gives it
    when the write begins: then a server has read all that the write's digest is made of."""

    retried: bool = False
    """The write may have been done before without its key: a cut-over has led to another store, or
    the store loses keys. Then it counts as done where the store shows that it was."""


_CONDITIONS: ContextVar[Conditions] = ContextVar("aiovec_conditions", default=Conditions())  # noqa: B039 - frozen


@contextmanager
def under(conditions: Conditions) -> Iterator[None]:
    """Run the calls within under these conditions."""
    before = _CONDITIONS.set(conditions)
    try:
        yield
    finally:
        _CONDITIONS.reset(before)


def write_key() -> WriteKey | None:
    """Return the key of the write that is running.

    A backend that promises "once" commits it with the write, and gives the outcome that it kept
    where it has the key already. It asks when its method is called: the context of a task that
    commits for many is that of only one of them.
    """
    key = _CONDITIONS.get().key
    return key if key is None or isinstance(key, WriteKey) else key()


def is_retried() -> bool:
    """Return whether the write that is running may have been done before without its key."""
    return _CONDITIONS.get().retried


def now() -> Conditions:
    """Return the conditions under which the running call was made."""
    return _CONDITIONS.get()


def wanted_state() -> str | None:
    """Return the state of the table that the running call was made for."""
    return _CONDITIONS.get().state


def state_of(handle: TableHandle) -> str:
    """Return a name for the state of a table, the same in every process that has it open."""
    text = f"{handle.name}\0{handle.schema.to_json()}\0{handle.token!r}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
