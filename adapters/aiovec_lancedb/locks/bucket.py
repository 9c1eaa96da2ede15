"""Turns of the writers to object storage: a lock object for each table, beside the tables.

Lance settles there which commit comes first, by writing each version's manifest on condition that
there is none yet. It merges appends without a look at their ids, though, so writers need turns as
they do on a folder. A bucket frees no lock when its holder dies. So the holder writes the object
anew every few seconds, and who has seen it unchanged for its whole term takes it over. Every write
of it is conditional on the object that was read, and nobody compares the clocks of two machines.

A holder may only stand still for longer than the term (a suspended machine, a network that fails
and returns), and then go on. So who takes a lock over fences the table off before anything else:
it commits a version with which every commit begun before is in conflict. And a holder makes sure
that the lock is still its own after it has opened the table: either it opened a version before the
fence, and its commit fails, or it notices.

The mark of a migration is an object as well, written on condition.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, ClassVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PreconditionError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from aiovec.backend import cleaned, secrets_in
from aiovec.backend.threads import start_thread
from aiovec.errors import AiovecError, StoreBusyError

from ..errors import translate
from .local import WriteLock
from .moves import Marks, table_of_lock

TERM = 15.0
"""Seconds after which an unchanged lock counts as left behind. A default ``busy_timeout`` is
longer, so a write outlasts the death of another process that held the lock."""

# The longest term that is believed of another's lock.
_MOST_TERM = 20 * TERM
# The holder writes the lock anew after this part of the term, so that two may fail.
_RENEWALS = 4
# Seconds between two looks at a lock that another holds, each some other length.
_POLL = (0.02, 0.15)
# Seconds after which one that waits asks for the lock; those for which its holder then stays away.
_PATIENCE = 0.5
_GIVE_WAY = 0.3
# Seconds that a process which ends waits at most for requests that give locks back.
_AT_EXIT = 5.0
_TIMEOUTS = {"timeout": "5s", "connect_timeout": "5s"}
_RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
# Options of the HTTP client, which LanceDB takes together with those of the storage.
_CLIENT = frozenset(
    {
        "allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type",
        "http1_only", "http2_keep_alive_interval", "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle", "http2_max_frame_size", "http2_only", "pool_idle_timeout",
        "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url",
        "randomize_addresses", "read_timeout", "timeout", "user_agent",
    }
)  # fmt: skip
_PREFIXES = ("aws_", "google_", "azure_")

# What a lock object says, and the types of it.
_KINDS = {
    "holder": (str,), "free": (bool,), "term": (int, float), "nonce": (str,), "wanted": (bool,),
    "unfenced": (bool,),
}  # fmt: skip

_FAILURES = (BaseError, OSError, ValueError)

_log = logging.getLogger("aiovec.lancedb")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the lock objects lie; ``store()`` makes no request."""

    url: str = field(repr=False)
    shown: str
    options: Mapping[str, str] = field(repr=False)

    @property
    def secrets(self) -> frozenset[str]:
        return secrets_in(self.url, self.options)

    def store(self) -> Any:
        config: dict[str, str] = {}
        client: dict[str, str] = dict(_TIMEOUTS)
        named = {key.lower(): value for key, value in os.environ.items()}
        # The rest of the environment is read by the store itself, these it would forget.
        client |= {k: named[p + k] for p in _PREFIXES for k in _CLIENT if named.get(p + k)}
        for key, value in self.options.items():
            name = key.lower()
            bare = next((name[len(p) :] for p in _PREFIXES if name.startswith(p)), name)
            if bare in _CLIENT:
                client[bare] = value
            else:
                config[name] = value
        try:
            return self._made(config, client)
        except UnknownConfigurationKeyError:
            # LanceDB takes further options, which are of no use here.
            return self._made({k: v for k, v in config.items() if self._knows(k, v)}, client)

    def _made(self, config: dict[str, str], client: dict[str, str]) -> Any:
        options: Any = {"config": config, "client_options": client, "retry_config": _RETRIES}
        return from_url(self.url, **options)

    def _knows(self, key: str, value: str) -> bool:
        try:
            self._made({key: value}, {})
        except UnknownConfigurationKeyError:
            return False
        except Exception:  # noqa: BLE001 - known, and of no use by itself
            return True
        return True


@contextmanager
def translating(bucket: Bucket) -> Iterator[None]:
    """Let no error of the object storage pass untranslated."""
    try:
        yield
    except AiovecError:
        raise
    except NotSupportedError as exc:
        cleaned(exc, bucket.secrets)
        raise AiovecError(
            f"{bucket.shown}: this object storage does not support conditional writes, which the "
            "lock between writers needs; if one process writes, set bucket_lock = false"
        ) from exc
    except _FAILURES as exc:
        cleaned(exc, bucket.secrets)
        raise translate(exc, bucket.shown) from exc


@dataclass(slots=True)
class _Sighting:
    """A lock object as this process saw it last, since when it was so, and for how long it may."""

    state: object = None
    since: float = 0.0
    term: float = TERM

    def is_over(self, tag: dict[str, str], state: Mapping[str, Any], term: float) -> bool:
        """Take a look; return whether its holder has not written for its whole term."""
        now = time.monotonic()
        # Who waits for it may write into it as well, but leaves the holder's nonce.
        seen = state.get("nonce") or tag
        if seen != self.state:
            self.state, self.since, self.term = seen, now, state.get("term", term)
        return now - self.since > self.term


@cache
def _sighting(key: str) -> _Sighting:
    """The same for every store of this process."""
    return _Sighting()


class LeasedLock(WriteLock):
    """The lock of one table for one store, for all processes that write to the bucket."""

    confirmed: ClassVar[bool] = True

    def __init__(self, key: str, bucket: Bucket, table: str, *, term: float = TERM) -> None:
        super().__init__(key, None)
        self._bucket = bucket
        self._object = f".aiovec/{table}.lock"
        self._term = term
        self._holder = f"{socket.gethostname()} {os.getpid()}"
        self._opened: Any = None
        # The object as this lock left it, where it did so last.
        self._left: dict[str, str] | None = None
        self._sighting = _sighting(key)
        # Whether another waits for the lock, and since when this one does.
        self._wanted = False
        self._waits_since: float | None = None
        self._mine: deque[str] = deque(maxlen=16)
        self._over = threading.Event()
        self._keeper: threading.Thread | None = None
        _locks.add(self)

    def watch(self) -> None:
        with translating(self._bucket):
            found = self._look()
            if found is not None:
                self._sighting.is_over(*found, self._term)

    def is_held(self) -> bool:
        """Return whether nobody has taken it over. Makes a request."""
        with translating(self._bucket):
            found = self._look()
        return found is not None and found[1].get("nonce") in self._mine

    def acquire(self, patience: float) -> bool:
        until = time.monotonic() + patience
        if not super().acquire(patience):
            return False
        kept = False
        try:
            with translating(self._bucket):
                tag = self._take(until)
                if tag is not None:
                    self._begin_to_keep(tag)
                    kept = True
        finally:
            if not kept:
                super().release()
        return kept

    def _begin_to_keep(self, tag: dict[str, str]) -> None:
        over = threading.Event()
        keeper = threading.Thread(
            target=self._keep, args=(tag, over), name="aiovec lock", daemon=True
        )
        try:
            start_thread(keeper)
        except AiovecError:
            with suppress(*_FAILURES):  # it is free for others when its term is over
                self._written(tag, free=True)
            raise
        self._over, self._keeper = over, keeper

    def release(self) -> None:
        """Returns at once; the thread that kept the lock gives it back."""
        self._over.set()

    def close(self, timeout: float | None = None) -> None:
        """Wait until it is given back."""
        if self._keeper is not None:
            self._keeper.join(timeout)

    @property
    def is_released(self) -> bool:
        return self._over.is_set()

    def _keep(self, tag: dict[str, str], over: threading.Event) -> None:
        """Write the lock anew, whatever the event loop does, and then give it back."""
        kept: dict[str, str] | None = tag
        try:
            while kept is not None and not over.wait(self._term / _RENEWALS):
                with suppress(*_FAILURES):  # the next time may do
                    kept = self._written(kept, free=False)
            over.wait()
            # That this succeeds shows that nobody else has had the lock meanwhile.
            self._left = kept and self._written(kept, free=True)
            if self._left is None:
                _log.error(
                    "a write to %s lost its lock; another process may have written at the same "
                    "time",
                    self._bucket.shown,
                )
        except _FAILURES as exc:
            # It is free for others when its term is over; what was written is written.
            _log.warning(
                "the lock %s of %s could not be removed and expires in %.0f s (%s)",
                self._object, self._bucket.shown, self._term, type(exc).__name__,
            )  # fmt: skip
        finally:
            super().release()

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = self._bucket.store()
        return self._opened

    def _take(self, until: float) -> dict[str, str] | None:
        """The object's tag once it is ours, or None where others keep it."""
        left, self._left = self._left, None
        if self._wanted:
            # Others that only look now and then would hardly ever find it free.
            self._wanted = False
            time.sleep(_GIVE_WAY)
            left = None
        taken = self._written(left, free=False) if left is not None else None
        self.undisturbed = taken is not None
        while taken is None:
            found = self._look()
            if found is None:
                taken = self._written(None, free=False)
            elif self._may_take(*found):
                taken = self._written(found[0], free=False)
            else:
                self._ask_for(*found)
                if time.monotonic() > until:
                    return None
            if taken is None:
                time.sleep(random.uniform(*_POLL))
        self._waits_since = None
        return taken

    def _may_take(self, tag: dict[str, str], state: Mapping[str, Any]) -> bool:
        # Who took it over before may have ended before it could fence the table off.
        self.overtook = bool(state.get("unfenced"))
        if state.get("free") or state.get("nonce") in self._mine:
            return True
        over = self._sighting.is_over(tag, state, self._term)
        self.overtook = self.overtook or over
        return over

    def _ask_for(self, tag: dict[str, str], state: dict[str, Any]) -> None:
        """Let the holder know that somebody has waited, so that it gives way after its write."""
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        if state.get("wanted") or time.monotonic() - self._waits_since < _PATIENCE:
            return
        # The holder's nonce stays, by which it knows that the lock is still its own.
        text = json.dumps({**state, "wanted": True}).encode()
        mode: Any = tag
        with suppress(AlreadyExistsError, PreconditionError):
            obstore.put(self._store, self._object, text, mode=mode)

    def _look(self) -> tuple[dict[str, str], dict[str, Any]] | None:
        """The object's tag and what it says, or None where there is none."""
        try:
            found = obstore.get(self._store, self._object)
        except FileNotFoundError:
            return None
        return tag_of(found.meta), _state_in(bytes(found.bytes()))

    def _written(self, tag: dict[str, str] | None, *, free: bool) -> dict[str, str] | None:
        """The new tag, or None where somebody else wrote meanwhile."""
        # Each text is another one, so that no two states have the same tag.
        nonce = uuid.uuid4().hex
        self._mine.append(nonce)
        state: dict[str, Any] = {
            "holder": self._holder, "free": free, "term": self._term, "nonce": nonce,
        }  # fmt: skip
        if self.overtook:
            state["unfenced"] = True
        text = json.dumps(state).encode()
        for _ in range(2):
            mode: Any = "create" if tag is None else tag
            try:
                return tag_of(obstore.put(self._store, self._object, text, mode=mode))
            except (AlreadyExistsError, PreconditionError):
                found = self._look()
            # It may be a write of ours, whose answer was lost.
            if found is None or found[1].get("nonce") not in self._mine:
                return None
            tag, told = found
            self._wanted = bool(told.get("wanted"))
            if told["nonce"] == nonce:
                return tag
        return None


def _state_in(text: bytes) -> dict[str, Any]:
    """The content of a lock object, checked: anybody may have written it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    state = {key: found[key] for key, kinds in _KINDS.items() if type(found.get(key)) in kinds}
    if not 0 < state.get("term", TERM) <= _MOST_TERM:
        del state["term"]
    return state


def tag_of(found: Mapping[str, Any]) -> dict[str, str]:
    return {key: found[key] for key in ("e_tag", "version") if found.get(key) is not None}


_locks: weakref.WeakSet[LeasedLock] = weakref.WeakSet()


@atexit.register
def _give_back() -> None:
    """Let the threads that give locks back do so before the process ends.

    Stores that were never closed would leave them behind for the whole term. A lock that is not
    released yet stays: what it guards may still be committed.
    """
    until = time.monotonic() + _AT_EXIT
    for lock in list(_locks):
        if lock.is_released:
            lock.close(max(0.0, until - time.monotonic()))


_OWN_FOLDER = ".aiovec"

_RECORD = f"{_OWN_FOLDER}/_move.json"

# Attempts at a change that others were in the way of.
_MARK_ATTEMPTS = 20


class BucketMarks(Marks):
    poll = 0.2

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._opened: Any = None

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = self._bucket.store()
        return self._opened

    def read(self) -> bytes | None:
        with translating(self._bucket):
            found = self._get(_RECORD)
        return None if found is None else found[1]

    def _get(self, name: str) -> tuple[dict[str, str], bytes] | None:
        try:
            found = obstore.get(self._store, name)
        except FileNotFoundError:
            return None
        return tag_of(found.meta), bytes(found.bytes())

    def change(self, change: Callable[[bytes | None], bytes | None]) -> None:
        with translating(self._bucket):
            for _ in range(_MARK_ATTEMPTS):
                found = self._get(_RECORD)
                text = change(None if found is None else found[1])
                if text is None:
                    return
                mode: Any = "create" if found is None else found[0]
                try:
                    obstore.put(self._store, _RECORD, text, mode=mode)
                except (AlreadyExistsError, PreconditionError):
                    continue  # by another, or by this one, whose answer was lost
                return
        raise StoreBusyError("other processes keep changing the mark of the migration", 0.0)

    def locked_tables(self) -> list[str]:
        with translating(self._bucket):
            found = obstore.list_with_delimiter(self._store, _OWN_FOLDER)["objects"]
        names = [str(one["path"]).rpartition("/")[2] for one in found]
        return [table for name in names if (table := table_of_lock(name)) is not None]
