"""Two processes whose tasks write to the same rows of one table, with calls of every kind.

    python -m tests.lancedb.contest TARGET NAME ROUNDS

Each prints "ready", waits for a line, and prints at the end which of its inserts were accepted.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping

from tests.harness.processes import python

import aiovec

TASKS = 6


def row(id: str) -> dict[str, object]:
    return {"id": id, "embedding": [1.0, 2.0, 3.0, 4.0]}


async def write(target: str, me: str, rounds: int) -> list[str]:
    won: list[str] = []
    async with aiovec.connect(target) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)

        async def task(number: int) -> None:
            shared, own = f"shared{number}", f"{me}{number}"
            for n in range(rounds):
                # A key of its own in the payload of a row to which both write.
                assert await store.update("notes", {me: n}, ids=[shared]) == 1
                # What one deletes, the other changes before that, or not at all.
                if me == "one":
                    assert await store.delete("notes", f"g{number}-{n}") == 1
                else:
                    assert await store.update("notes", {"year": n}, ids=[f"g{number}-{n}"]) in (
                        0,
                        1,
                    )
                assert await store.upsert("notes", [{**row(own), "year": n}]) == 1
                # Those of several rows overlap with the ones before, of either process.
                ids = [f"c{number}-{n + more}" for more in range(1 + number % 2)]
                try:
                    await store.insert("notes", [{**row(id), "name": me} for id in ids])
                    won.extend(ids)
                except aiovec.DuplicateIdError:
                    pass
                if n % 2 and n < rounds - 1:
                    assert await store.delete("notes", own) == 1
                else:
                    assert await store.update("notes", {"name": f"{n}"}, ids=[own]) == 1

        await asyncio.gather(*map(task, range(TASKS)))
    return won


def outputs_of_two(target: str, rounds: int, environment: Mapping[str, str]) -> list[str]:
    """Run this module in two processes at the same time; return the last output of each."""
    writers = [
        python(
            "-m", "tests.lancedb.contest", target, name, str(rounds),
            env={**os.environ, **environment},
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
    reported = []
    for writer in writers:
        output, complaints = writer.communicate(timeout=600)
        assert not writer.returncode, complaints[-3000:]
        reported.append(output)
    return reported


if __name__ == "__main__":
    won = asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    sys.stdout.write(json.dumps(won) + "\n")
