"""The single writer of a store: calls that arrive during a commit share the next commit.

A separate table holds the keys of completed writes; each key is committed with its write. The first
write with a key creates the table.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar, cast

from aiovec.backend.commit import Committer, GroupCommit, WriteCall
from aiovec.backend.context import Kept, WriteKey
from aiovec.backend.limits import Gate, copy_of_error, current_deadline
from aiovec.backend.marks import PAUSED, MoveMark
from aiovec.errors import (
    AiovecError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreFullError,
    StoreReplacedError,
)

from .connection import (
    CancelledWorkError,
    Connection,
    TooLargeForGroupError,
    Transaction,
    clear_frames_of,
)
from .driver import load_driver
from .errors import failures, is_busy, translate
from .layout import change_number
from .moves import change, is_over, mark_in
from .writes import JoinedWrite

_CREATE = """CREATE TABLE IF NOT EXISTS aiovec_writes (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
    done INTEGER NOT NULL, outcome INTEGER, text_of TEXT
) STRICT"""

# Seconds for which a key is kept, and the most keys: a client retries a write soon.
_KEEP_SECONDS, _KEEP_NUMBER = 24 * 3600, 100_000
# Keys that each write checks for pruning: more than one, so that old keys become fewer.
_FORGET = 4


def find_key(db: sqlite3.Connection, key: WriteKey) -> tuple[Kept, str | None] | None:
    """Return the record of the write with this key, and the table whose text index to build."""
    sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aiovec_writes'"
    if db.execute(sql).fetchone() is None:
        return None
    row = db.execute(
        "SELECT digest, outcome, text_of FROM aiovec_writes WHERE key = ?", (key.name,)
    ).fetchone()
    if row is None:
        return None
    digest, outcome, text_of = row
    key.check(digest)
    return Kept(outcome), text_of


def _keep_key(db: sqlite3.Connection, key: WriteKey, outcome: object, text_of: str | None) -> None:
    """Keep the outcome of a write, and prune some old keys."""
    db.execute(_CREATE)
    now = int(time.time())
    number = db.execute(
        "INSERT INTO aiovec_writes (key, digest, done, outcome, text_of) VALUES (?, ?, ?, ?, ?)",
        (key.name, key.digest, now, outcome if isinstance(outcome, int) else None, text_of),
    ).lastrowid
    db.execute(
        "DELETE FROM aiovec_writes WHERE number IN ("
        "SELECT number FROM aiovec_writes ORDER BY number LIMIT ?"
        ") AND (number <= ? OR done < ?)",
        (_FORGET, (number or 0) - _KEEP_NUMBER, now - _KEEP_SECONDS),
    )


_T = TypeVar("_T")

# The most rows of calls that run together.
_MOST_ROWS_JOINED = 256
# Seconds that one try for the write lock may take. Then the waiting calls are checked again: their
# callers may have been cancelled or timed out.
_LOCK_TRY = 0.1
# Sleep between tries for the lock. SQLite's own sleeps grow to 100 ms, so other processes could
# overtake forever.
_LOCK_POLL = 0.002


class _RolledBackError(Exception):
    """SQLite has rolled back the whole transaction. Never reaches a user."""


class _Call(WriteCall):
    """A write, with its work and the state of its attempts."""

    __slots__ = (
        "alone", "changes_mark", "key", "outcome", "text_of", "tried", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: Callable[[Transaction], Any],
        *,
        changes_mark: bool,
        key: WriteKey | None,
        text_of: str | None,
    ) -> None:
        super().__init__()
        self.work = work
        # The idempotency key, stored with the work's result and with ``text_of``, the table whose
        # text index is built afterwards.
        self.key = key
        self.text_of = text_of
        # The work's result, which the caller gets after the commit.
        self.outcome: Any = None
        # True once the thread has begun the work; only the thread reads it.
        self.tried = False
        # True if the write changes a migration's mark: the mark does not stop it, and it gets a
        # separate commit.
        self.changes_mark = changes_mark
        # True if the write needs a separate commit: it is large, or SQLite rolled back its whole
        # group.
        self.alone = changes_mark

    def try_begin(self) -> bool:
        """Begin the work unless the caller was cancelled; return whether it began."""
        self.tried = self.begin()
        return self.tried

    def fail(self, error: BaseException) -> None:
        clear_frames_of(error)
        super().fail(error)

    def wait_again(self) -> None:
        self.outcome = None
        self.tried = False
        super().wait_again()


class Writer(Committer[_Call]):
    """Runs writes one after another on one connection, several in one commit.

    - Each write has its own savepoint, and a large write its own commit, so a failing write does
      not affect other writes. Small inserts or upserts into one table are first tried together, and
      one by one if that fails.
    - The thread that commits the group also takes the file's lock, because a separate hop to a
      thread would cost as much as a small write.
    """

    pause_poll = 0.005

    def __init__(
        self,
        connection: Connection,
        target: str,
        *,
        gate: Gate,
        busy_timeout: float,
        check_file: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self._connection = connection
        self._busy_timeout = busy_timeout
        self._check_file = check_file
        self._was_full = False
        self._closed = False
        # The migration run that this writer acts for; the run's mark does not stop its writes.
        self.run_acted_for: str | None = None
        self._commits = GroupCommit(self, gate)

    async def run(
        self,
        work: Callable[[Transaction], _T],
        *,
        changes_mark: bool = False,
        key: WriteKey | None = None,
        text_of: str | None = None,
    ) -> _T:
        """Run the work in a transaction; return its result after the commit.

        A ``key`` is committed with the work. If earlier work was committed under this key, the new
        work does not run, and the recorded result of the earlier work is returned.

        If the caller is cancelled before the work begins, the work never runs. If the caller is
        cancelled later, work that runs alone is rolled back unless its commit has begun; work in a
        group is committed.
        When the call returns, even after several cancellations, the outcome is final, and the
        caller's data is no longer read.
        """
        if self._closed:
            raise StoreClosedError(self.target)
        call = _Call(work, changes_mark=changes_mark, key=key, text_of=text_of)
        return cast("_T", await self._commits.run(call, current_deadline(self._busy_timeout)))

    async def close(self) -> None:
        """Stop accepting writes, and wait until the accepted writes have ended."""
        self._closed = True
        await self._commits.finish()

    # The committer

    async def take(self) -> Callable[[], Awaitable[None]]:
        return _nothing

    async def commit(self, group: list[_Call]) -> MoveMark | None:
        return await self._connection.write(partial(self._commit, group))

    def joins(self, group: list[_Call], call: _Call, size: int) -> bool:
        return not (call.alone or group[0].alone)

    def translated(self, error: Exception) -> Exception:
        """Return the error to raise to the caller for an error of its work or its commit."""
        if isinstance(error, AiovecError) or not isinstance(error, failures()):
            return error
        translated = translate(error, self.target)
        translated.__cause__ = error
        return translated

    async def pause_is_over(self, pause: MoveMark) -> bool:
        return await self._connection.write(lambda db: is_over(db, self.target, pause))

    async def end_pause(self, pause: MoveMark) -> None:
        await self._connection.write(lambda db: self._end_pause(db, pause))

    # On a thread with exclusive use of the connection

    def _end_pause(self, db: sqlite3.Connection, pause: MoveMark) -> None:
        if not _begin(db):
            return
        try:
            tx = Transaction(db, 0, alone=True)
            change(tx, self.target, lambda record: record.end_pause(pause.pause), anew=False)
            db.execute("COMMIT")
        except BaseException:
            _roll_back(db)
            raise

    def _mark_to_heed(self, state: dict[str, object]) -> MoveMark | None:
        """Return the mark of a migration that refuses writes, temporarily or permanently."""
        mark = mark_in(state, self.target)
        if mark is None or mark.run == self.run_acted_for:
            return None
        return mark if mark.left or mark.filling or mark.state == PAUSED else None

    def _commit(self, group: list[_Call], db: sqlite3.Connection) -> MoveMark | None:
        """Run a group in one transaction; return the mark of a pause that stops it.

        The caller retries the calls that have not ended.
        """
        committing = False
        try:
            if self._was_full:
                # The disk may have room again, and truncating the WAL frees the most space.
                self._was_full = False
                _cut_log(db)
            if not _begin(db):
                self.busy = f"{self.target} is locked by another process"
                return None
            self.busy = None
            state = dict(db.execute("SELECT key, value FROM aiovec_state").fetchall())
            mark = self._guard(group, state)
            if mark is not None:
                _roll_back(db)
                return mark if mark.state == PAUSED else None
            number = change_number(state.get("change"))
            tx = Transaction(db, number, alone=len(group) == 1)
            applied = self._apply_group(tx, group)
            if not applied:
                _roll_back(db)
                return None
            if tx.newest != number:
                db.execute("UPDATE aiovec_state SET value = ? WHERE key = 'change'", (tx.newest,))
            committing = True
            db.execute("COMMIT")
            committing = False
            self._check_kept()
        except _RolledBackError:
            _try_alone(group)
        except load_driver().Error as exc:
            _roll_back(db)
            self._fail(group, db, exc, committing=committing)
        except BaseException:
            _roll_back(db)
            raise
        else:
            for call in applied:
                call.succeed(call.outcome)
        return None

    def _guard(self, group: list[_Call], state: dict[str, object]) -> MoveMark | None:
        """Return the mark of a migration that stops this group, if any.

        Unless the mark is a pause, the calls fail. Raises StoreReplacedError if the target no
        longer names the open file.
        """
        self._check_file()
        mark = None if group[0].changes_mark else self._mark_to_heed(state)
        if mark is not None and mark.state != PAUSED:
            for call in group:
                call.fail(mark.refusal(self.target))
        return mark

    def _apply_group(self, tx: Transaction, group: list[_Call]) -> list[_Call]:
        """Do the work of the calls, and return the calls to commit."""
        applied: list[_Call] = []
        for calls in _runs(group):
            if len(calls) > 1 and self._apply(tx, calls) is None:
                applied += calls
                continue
            for call in calls:
                error = self._apply(tx, [call])
                if error is None:
                    applied.append(call)
                elif isinstance(error, TooLargeForGroupError):
                    call.alone = True
                    call.wait_again()
                elif tx.alone and isinstance(error, load_driver().Error):
                    raise error
                else:
                    call.fail(self.translated(error))
        return applied

    def _fail(
        self, group: list[_Call], db: sqlite3.Connection, error: Exception, *, committing: bool
    ) -> None:
        """Fail the calls of a rolled-back group, or make each call wait for a commit of its own."""
        translated = self.translated(error)
        self._was_full = full = isinstance(translated, StoreFullError)
        if full and (_cut_log(db) or len(group) > 1):
            _try_alone(group)  # the disk may have room for some of the calls
            return
        if committing and not full:
            translated = OutcomeUnknownError(self.target, str(error))
            translated.__cause__ = error
        for call in group:
            if not call.ended:
                call.fail(copy_of_error(translated))

    def _check_kept(self) -> None:
        """Raise an error unless the committed writes are in the file that the target names."""
        try:
            self._check_file()
        except StoreReplacedError:
            raise
        except AiovecError as exc:
            raise OutcomeUnknownError(self.target, str(exc.__cause__ or exc)) from exc

    def _apply(self, tx: Transaction, calls: list[_Call]) -> Exception | None:
        """Run calls in one savepoint, or a group's only call without one. Return the error, if any.

        If several calls fail together, the caller can retry them one by one.
        """
        tried = [call for call in calls if call.try_begin()]
        error: Exception | None = None if tried == calls else CancelledWorkError()
        if error is None:
            if not tx.alone:
                tx.db.execute("SAVEPOINT calls")
            try:
                _once(tx, calls)
            except Exception as exc:
                error = exc
                if tx.alone:
                    _roll_back(tx.db)
                elif tx.db.in_transaction:
                    tx.db.execute("ROLLBACK TO calls")
                else:
                    raise _RolledBackError from exc
            if not tx.alone:
                tx.db.execute("RELEASE calls")
        if error is not None and len(calls) > 1:
            for call in tried:
                call.wait_again()
        return error


def _once(tx: Transaction, calls: list[_Call]) -> None:
    """Do the work of one call or of joined calls, unless a key shows that it was already done."""
    keys = [call.key for call in calls if call.key is not None]
    kept = next(filter(None, (find_key(tx.db, key) for key in keys)), None)
    if kept is not None:
        if len(calls) > 1:
            raise CancelledWorkError  # each call is retried alone
        calls[0].outcome = kept[0].outcome
        return
    if len(calls) > 1:
        tx.call = None
        first, *others = (cast("JoinedWrite", call.work) for call in calls)
        results = first.act_with(tx, others)
    else:
        tx.call = calls[0]
        results = [calls[0].work(tx)]
    for call, result in zip(calls, results, strict=True):
        call.outcome = result
        if call.key is not None:
            _keep_key(tx.db, call.key, result, call.text_of)


def _runs(group: list[_Call]) -> Iterator[list[_Call]]:
    """Yield the calls in order, in groups that can run together."""
    run: list[_Call] = []
    rows = 0
    for call in group:
        first = run[0].work if run else None
        size = call.work.size if isinstance(call.work, JoinedWrite) else 0
        if (
            isinstance(first, JoinedWrite)
            and first.joins(call.work)
            and rows + size <= _MOST_ROWS_JOINED
        ):
            run.append(call)
            rows += size
            continue
        if run:
            yield run
        run, rows = [call], size
    yield run


def _begin(db: sqlite3.Connection) -> bool:
    """Take the write lock; return False if it did not become free within ``_LOCK_TRY`` seconds."""
    until = time.monotonic() + _LOCK_TRY
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except load_driver().Error as exc:
            if not is_busy(exc):
                raise
        else:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(_LOCK_POLL * (0.5 + random.random()))


def _try_alone(group: list[_Call]) -> None:
    """Make each call that has not ended wait for a commit of its own."""
    for call in group:
        if not call.ended:
            call.alone = True
            if call.tried:
                call.wait_again()


def _cut_log(db: sqlite3.Connection) -> bool:
    """Copy the WAL into the file and truncate the WAL; return whether this may have freed space."""
    try:
        _, frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except load_driver().Error:
        return False
    return frames > 0 and not busy


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


async def _nothing() -> None: ...
