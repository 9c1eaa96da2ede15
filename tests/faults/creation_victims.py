"""Processes that are killed while they create a store.

    python -m tests.faults.creation_victims FOLDER ROUNDS SEED

Loads everything once and forks, so that a round takes milliseconds. First come creations that are
killed by a file-size limit: at each further page of the file, so the kill falls between two writes
of one commit. Then come those that are killed at random moments, ROUNDS of them and as many more
as it takes until a kill left a journal behind that holds pages.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

from aiovec_sqlite.opening import open_writer
from aiovec_sqlite.settings import SqliteSettings


def create(path: Path, limit: int | None) -> None:
    if limit is not None:
        # Python ignores the signal; by default it ends the process, as a kill would.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    open_writer(path, SqliteSettings())
    os.kill(os.getpid(), signal.SIGKILL)


def victim(path: Path, *, limit: int | None = None, after: float | None = None) -> int:
    child = os.fork()
    if child == 0:
        try:
            create(path, limit)
        finally:
            os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main(folder: Path, rounds: int, seed: int) -> None:
    began = time.perf_counter()
    assert victim(folder / "whole.db") == -signal.SIGKILL
    whole = time.perf_counter() - began
    for kilobytes in [0, 1, 4, *range(16, 200, 16)]:
        ended = victim(folder / f"limit{kilobytes}.db", limit=1024 * kilobytes)
        assert ended in (-signal.SIGXFSZ, -signal.SIGKILL), ended
    chance = random.Random(seed)
    for n in itertools.count():
        if n >= rounds and (left_pages(folder) or n >= 100 * rounds):
            break
        victim(folder / f"killed{n}.db", after=whole * 1.2 * chance.random())


def left_pages(folder: Path) -> bool:
    return any(file.stat().st_size > 512 for file in folder.glob("*.db-journal"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
