"""Decide which versions upkeep keeps: recent versions, and versions that reads or tags use.

On a folder, a pin makes every process keep a version. A pin is a locked file named after the
version, which the system unlocks when its process ends, even in a crash. On object storage, upkeep
cannot see reads, so it keeps versions for longer.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiovec.backend.files import lock_file, unlock_file
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import AiovecError

from .session import Session, Snapshot, Version

if TYPE_CHECKING:
    from .settings import LancedbSettings

_READERS = "readers"
# Seconds to wait for a pin's lock, which other processes take only for a brief check.
_PATIENCE = 30.0
# The time for which every replaced version is kept, for reads without a pin. A read that takes
# longer is repeated, and an export pins its version. Upkeep cannot see reads on other machines.
_GRACE_ON_A_FOLDER = timedelta(seconds=5)
_GRACE = timedelta(hours=1)

_numbers = itertools.count()


class Pins:
    """Decides which versions of each table are kept, by pins and by the settings.

    Without a folder there are no pins.
    """

    def __init__(
        self, folder: Path | None, settings: LancedbSettings, keep_all: Callable[[], bool]
    ) -> None:
        """``keep_all``, which may read the disk, returns whether all versions are in use."""
        grace = _GRACE if folder is None else _GRACE_ON_A_FOLDER
        self.retention = Retention(settings.kept_versions(), settings.max_versions, grace)
        self._keep_all = keep_all
        self._folder = None if folder is None else folder / _READERS

    def pin(self, table: str, version: int) -> Pin:
        """Return a context manager that keeps the version while its block runs."""
        if self._folder is None:
            return Pin(None)
        return Pin(self._folder / table / f"{version}-{os.getpid()}-{next(_numbers)}")

    async def first_kept(self, table: Snapshot, versions: Sequence[Version]) -> Version | None:
        """Return the first version to keep; None if all are kept.

        Lance removes no versions if one of them has a tag, so a tag counts as a pin. So does the
        start of a branch: Lance keeps it only if the branch was created with the same form of the
        store's address.
        """
        pinned = await in_thread(self._pinned, table.name) + await table.referred_to()
        return self.retention.first_kept(versions, datetime.now(UTC), min(pinned, default=None))

    def _pinned(self, table: str) -> list[int]:
        """Return the versions that any process has pinned. Reads the disk."""
        if self._keep_all():
            return [0]
        return [] if self._folder is None else [*_pinned(self._folder / table)]


class Pin:
    """Keeps a version while its block runs.

    This is a class, not a generator: an event loop that shuts down closes async generators in any
    order, which breaks nested generators.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock: int | None = None

    async def __aenter__(self) -> None:
        try:
            await in_thread(self._take)
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *exception: object) -> None:
        await to_its_end(in_thread(self._give_back))

    def _take(self) -> None:
        if self._path is None:
            return
        # Reading must work without write permission and on a full disk. In these cases, no writer
        # sees the pin, and the read fails with an error if its version is removed.
        with suppress(OSError):
            self._lock = lock_file(self._path, patience=_PATIENCE)

    def _give_back(self) -> None:
        lock, self._lock = self._lock, None
        if self._path is not None and lock is not None:
            _remove(self._path, lock)


async def check_kept(session: Session, table: str, version: int) -> None:
    """Raise AiovecError if upkeep has removed a version that was being read.

    In a bucket there are no pins, and readers without write permission cannot make any.
    """
    lance, _ = await session.open_any(table)
    versions: Any = await session.run(lance.list_versions())  # type: ignore[no-untyped-call]
    if all(kept["version"] != version for kept in versions):
        raise AiovecError(
            f"version {version} of the table {table!r} was removed by upkeep while it was read; "
            "raise keep_versions in the settings of the store that writes"
        )


def _remove(path: Path, lock: int) -> None:
    # If an open file cannot be removed, the next search for pins removes it.
    with suppress(OSError):
        path.unlink()
    unlock_file(lock)


def _pinned(folder: Path) -> Iterator[int]:
    """Yield the versions that locked files name, and remove unlocked files."""
    for path in folder.glob("*-*"):
        version, _, _ = path.name.partition("-")
        if not version.isdecimal():
            continue  # not a pin
        try:
            lock = lock_file(path, create=False)
        except FileNotFoundError:
            continue
        except OSError:
            lock = None
        if lock is None:
            yield int(version)
        else:
            _remove(path, lock)


@dataclass(frozen=True, slots=True)
class Retention:
    """The rule that decides which versions are kept.

    The newest version is kept. An older version is kept if it or a version before it is pinned, if
    it was replaced less than ``grace`` and less than ``keep`` ago, because a read may still use it,
    or if it was replaced less than ``keep`` ago and is among the ``most`` newest versions. If a
    version is kept, all later versions are kept too.
    """

    keep: timedelta
    most: int
    grace: timedelta

    def first_kept(
        self, versions: Sequence[Version], now: datetime, pinned: int | None
    ) -> Version | None:
        """Return the oldest version to keep; None if all versions are kept.

        ``versions`` begins with the oldest.
        """
        first = len(versions) - 1
        while first > 0:
            version, replaced = versions[first - 1], now - versions[first].created
            in_use = replaced < min(self.grace, self.keep) or (
                pinned is not None and version.number >= pinned
            )
            wanted = replaced < self.keep and len(versions) - first < self.most
            if not (in_use or wanted):
                return versions[first]
            first -= 1
        return None
