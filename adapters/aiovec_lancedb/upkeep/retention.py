"""The versions that upkeep keeps: recent ones, and those that somebody reads for long.

On a folder a pin keeps a version, for every process: a locked file whose name tells the version.
The system frees it when its process ends, however that ends. On object storage reads are not known,
and versions are kept for longer.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aiovec.backend.threads import in_thread, to_its_end

from ..errors import READ_ONLY, translate
from ..locks.local import LockedFile
from ..session import Opened, Session

if TYPE_CHECKING:
    from ..settings import LancedbSettings

_READERS = "readers"

_numbers = itertools.count()


class _Pin(NamedTuple):
    """One pin: a locked file."""

    locked: LockedFile
    path: Path


class Pins:
    """The pins on the tables of one folder; without a folder, none."""

    def __init__(self, folder: Path | None, keep_all: Callable[[], bool] = lambda: False) -> None:
        """``keep_all`` tells whether all versions are in use; it may read the disk."""
        self._keep_all = keep_all
        self._folder = None if folder is None else folder / _READERS
        self._taken: set[_Pin] = set()

    def held(self, table: str, version: int) -> Hold:
        """Keep a version that is the newest, or was a moment ago."""
        return Hold(self, table, version)

    async def close(self) -> None:
        """Give back what reads have left whose event loop was closed amid them."""
        for pin in list(self._taken):
            await in_thread(self.give_back, pin)

    def take(self, table: str, version: int) -> _Pin | None:
        """Pin a version; None where this process may not write to the folder.

        Whoever can write there does not see the pin then: reading needs no right to write.
        """
        if self._folder is None:
            return None
        path = self._folder / table / f"{version}-{os.getpid()}-{next(_numbers)}"
        file = None
        try:
            while (
                file is None
            ):  # another took it, just made and not yet locked, for one left behind
                file = LockedFile.at(path)
        except OSError as exc:
            if exc.errno in READ_ONLY:
                return None
            raise translate(exc, str(self._folder)) from exc
        pin = _Pin(file, path)
        self._taken.add(pin)
        return pin

    def give_back(self, pin: _Pin | None) -> None:
        if pin is not None:
            self._taken.discard(pin)
            _remove(pin)

    def oldest(self, table: str) -> int | None:
        """The oldest version that is pinned, by whomever. Reads the disk."""
        if self._keep_all():
            return 0
        return None if self._folder is None else min(_in_use(self._folder / table), default=None)


class Hold:
    """Keeps a version while its block runs.

    It is no generator: an event loop that ends closes all of these at the same time, also one that
    another one is within.
    """

    def __init__(self, pins: Pins, table: str, version: int) -> None:
        self._pins = pins
        self._place = (table, version)
        self._taking: asyncio.Future[_Pin | None] | None = None

    async def __aenter__(self) -> None:
        self._taking = asyncio.ensure_future(in_thread(self._pins.take, *self._place))
        try:
            await asyncio.shield(self._taking)
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *exception: object) -> None:
        # Whoever is cancelled now must not leave it taken: a thread's work that is cancelled
        # before it began is never done.
        await to_its_end(self._released())

    async def _released(self) -> None:
        taking = self._taking
        if taking is not None:
            await asyncio.wait({taking})
            if not taking.cancelled() and taking.exception() is None:
                await in_thread(self._pins.give_back, taking.result())


def _remove(pin: _Pin) -> None:
    # Where an open file cannot be removed, it goes with the next look for the oldest.
    with suppress(OSError):
        pin.path.unlink()
    pin.locked.close()


def _in_use(folder: Path) -> Iterator[int]:
    """The versions of the files that are locked. Files that a process left behind go."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        version, _, _ = name.partition("-")
        if not version.isdecimal():
            continue  # it is no pin
        try:
            file = LockedFile.at(folder / name, create=False)
        except FileNotFoundError:
            continue
        except OSError:
            file = None
        if file is None:
            yield int(version)
        else:
            _remove(_Pin(file, folder / name))


class Version(NamedTuple):
    number: int
    created: datetime


@dataclass(frozen=True, slots=True)
class Retention:
    """The versions that are kept: the newest, and each for which one of these holds.

    It is, or is newer than, one that somebody reads for long. It was the newest until less than
    ``grace`` ago, so that somebody may be reading it. Or it was the newest at some moment within
    ``keep``, and is one of the ``most`` newest.
    """

    keep: timedelta
    most: int
    grace: timedelta

    def first_kept(
        self, versions: Sequence[Version], now: datetime, pinned: int | None
    ) -> Version | None:
        """The oldest of the versions to keep; None where that is the oldest there is.

        ``versions`` come in their order, the oldest first.
        """
        first = len(versions) - 1
        while first > 0:
            one, replaced = versions[first - 1], now - versions[first].created
            in_use = replaced < min(self.grace, self.keep) or (
                pinned is not None and one.number >= pinned
            )
            wanted = replaced < self.keep and len(versions) - first < self.most
            if not (in_use or wanted):
                return versions[first]
            first -= 1
        return None


async def versions_of(session: Session, table: Opened) -> list[Version]:
    """Every version that is kept, the oldest first."""
    found = await session.versions(table.lance)
    return [Version(int(one["version"]), one["timestamp"].astimezone(UTC)) for one in found]


# How long, at most, a version that was replaced is kept for those who may still be reading it,
# whatever else tells that it may go. A read that takes longer is repeated, and an export pins its
# version. Those of other machines cannot be seen.
_GRACE_ON_A_FOLDER = timedelta(seconds=5)
_GRACE = timedelta(hours=1)


def retention_of(settings: LancedbSettings, *, on_folder: bool) -> Retention:
    return Retention(
        settings.kept_versions(),
        settings.max_versions,
        _GRACE_ON_A_FOLDER if on_folder else _GRACE,
    )
