"""The process whose calls to the system fail: the writers of ``crash_writer``, which learn from
each error what it says of their rows, readers beside them, and a task that chooses what fails.

    python -m tests.faults.fault_writer TARGET TABLE TURN SEED

Beside what ``crash_writer`` tells, a line of
JSON says that a call has failed, so that nothing of it may be there, and how many calls to the
system failed.
"""

from __future__ import annotations

import asyncio
import errno
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from aiovec import AiovecError, CorruptStoreError, OutcomeUnknownError, VectorStore, connect

from . import shim
from .crash_writer import Content, State, TableWorker, Worker, say

KINDS = (
    shim.READ, shim.WRITE, shim.SYNC, shim.TRUNCATE, shim.RENAME, shim.OPEN, shim.UNLINK,
    shim.WRITE | shim.SYNC, shim.READ | shim.OPEN, 127,
)  # fmt: skip
ERRORS = (errno.EIO, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES)
PARTS = {
    "sqlite": ("", "", "-wal", "-shm", "-journal"),
    "lancedb": ("", "", ".lance", "/_versions/", "/_transactions/", "/data/", "/_indices/"),
}


class FailedError(Exception):
    """Nothing of a call is there."""


class UnknownError(Exception):
    """All of a call may be there, some of it, or nothing."""


def look(exc: AiovecError) -> None:
    """What no error may say where only calls to the system failed."""
    if isinstance(exc, CorruptStoreError):
        raise exc


class FaultyWorker(Worker):
    """Begins with rows of other names after a call whose outcome nobody knows."""

    unknown = False
    begun_anew = 0

    async def run(self) -> None:
        plain = self.name
        while True:
            try:
                await self.step()
                await self.read()
            except AiovecError as exc:
                look(exc)
            if self.unknown:
                self.begun_anew += 1
                self.name, self.rows, self.unknown = f"{plain}x{self.begun_anew}", {}, False

    async def told(self, states: dict[str, State | None], call: Any) -> None:
        number = f"{self.name}#{self.calls + 1}"
        try:
            await super().told(states, call)
        except OutcomeUnknownError:
            self.unknown = True
        except AiovecError as exc:
            look(exc)
            say("failed", number)

    async def read(self) -> None:
        """An answer, where there is one, is right while calls fail."""
        if self.unknown:
            return
        ids = self.some_ids(20)
        found = await self.store.get(self.table, ids)
        assert [record.id for record in found] == ids
        for record in found:
            assert not self.rows[record.id].problems(record, self.name), record.id
        if ids:
            nearest = await self.store.search(
                self.table, found[0].vector, limit=5, exact=True, where=f"id = '{ids[0]}'"
            )
            assert [hit.id for hit in nearest] == ids[:1]


class FaultyTableWorker(TableWorker):
    async def run(self) -> None:
        while True:
            try:
                await self.create()
                for _ in range(self.random.choice([2, 15, 60])):
                    await self.changed()
                await self.told("drop", None, self.store.drop_table(self.table))
            except (FailedError, UnknownError):
                pass  # with another table

    async def changed(self) -> None:
        try:
            await self.change()
        except FailedError:
            pass
        except AiovecError as exc:
            look(exc)  # what a change asked before it began

    async def told(self, kind: str, after: Content | None, call: Any) -> None:
        try:
            await super().told(kind, after, call)
        except OutcomeUnknownError as exc:
            raise UnknownError from exc
        except AiovecError as exc:
            look(exc)
            if kind == "import":  # of many calls, so some of its rows may be there
                raise UnknownError from exc
            say("table-failed", self.table)
            raise FailedError from exc

    async def keep_version(self) -> None:
        try:
            await super().keep_version()
        except AiovecError as exc:
            look(exc)  # the call before it was acknowledged


async def fail(kind: str, path: str, chance: random.Random) -> None:
    faults = shim.here()
    while True:
        faults.arm(
            chance.choice(KINDS),
            path + chance.choice(PARTS[kind]),
            skip=chance.choice([0, 0, 1, 3, 10, 50, 200]),
            fail=chance.choice([1, 1, 1, 2, 3, 10, 40]),
            error=chance.choice(ERRORS),
        )
        await asyncio.sleep(0.1 * chance.random())
        failed = faults.disarm()
        await asyncio.sleep(0.05 * chance.random())
        say("faults", failed)


async def write(target: str, table: str, turn: str, seed: int, folder: Path) -> None:
    kind = "lancedb" if target.startswith("lancedb:") else "sqlite"
    path = target.removeprefix("lancedb://")  # part of the path of every file of the store
    async with connect(target) as store, asyncio.TaskGroup() as tasks:
        for worker in workers(store, table, turn, seed, folder):
            tasks.create_task(worker.run())
        tasks.create_task(fail(kind, path, random.Random(seed)))


def workers(
    store: VectorStore, table: str, turn: str, seed: int, folder: Path
) -> list[FaultyWorker | FaultyTableWorker]:
    return [
        FaultyTableWorker(store, f"own{turn}", seed * 1000 + 500, folder),
        *(FaultyWorker(store, table, f"r{turn}w{n}", seed * 1000 + n) for n in range(4)),
    ]


async def main(target: str, table: str, turn: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await write(target, table, turn, seed, Path(folder))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
