"""Two processes that insert and upsert the same new ids at once.

    python -m tests.lancedb.racing TARGET NAME ROUNDS

Each says "ready", waits for a line, and tells at last how many of its inserts were accepted.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping

import aiovec

from .support import ROOT


async def write(target: str, me: str, rounds: int) -> int:
    won = 0
    async with aiovec.connect(target) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        for n in range(rounds):
            row = {"embedding": [1.0, 2.0, 3.0, 4.0], "name": me}
            try:
                await store.insert("notes", [{"id": f"i{n}", **row}])
                won += 1
            except aiovec.DuplicateIdError:
                pass
            await store.upsert("notes", [{"id": f"u{n}", **row}, {"id": f"u{n + 1}", **row}])
    return won


def race(target: str, rounds: int, environment: Mapping[str, str]) -> list[int]:
    """Return what each of the two won. Afterwards there are 2 * rounds + 1 rows more."""
    return list(map(int, told_by_two("tests.lancedb.racing", target, rounds, environment)))


def told_by_two(module: str, target: str, rounds: int, environment: Mapping[str, str]) -> list[str]:
    """Run a module in two processes, which begin at once; return what each says at its end."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", module, target, name, str(rounds)],
            cwd=ROOT, text=True, env={**os.environ, **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    told = []
    for writer in writers:
        output, complaints = writer.communicate(timeout=600)
        assert not writer.returncode, complaints[-3000:]
        told.append(output)
    return told


if __name__ == "__main__":
    told = asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    sys.stdout.write(f"{told}\n")
