"""Eight tasks that write, search and read one table, round after round.

    python -m tests.faults.mixed_load TARGET

Each line of the standard input has a seed and the seconds of a round. After each round, and after
the store is closed, the program prints the resources that the process holds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import sys
import time
from pathlib import Path

import aiovec
from aiovec import Embed, Field, Schema, StoreBusyError, VectorStore

ROWS, IDS, USERS = 10_000, 12_000, 20
SCHEMA = Schema(
    fields={"body": Field(str, text=True), "user": Field(str, index="btree")}, embed=Embed("body")
)
WORDS = [
    "".join(random.Random(n).choices("abcdefghiklmnoprstuv", k=3 + n % 7)) for n in range(20_000)
]


def text(chance: random.Random, count: int) -> str:
    """Return random words; a few are frequent, as in a natural language."""
    return " ".join(WORDS[int(len(WORDS) ** chance.random()) - 1] for _ in range(count))


def held() -> dict[str, int]:
    """Return the process's numbers of descriptors, of descriptors of removed files, of threads, and
    of MiB of private memory."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        if int(name) < 3:  # the standard streams
            continue
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of the listing itself
            continue
        if not link.startswith("/dev/"):
            links.append(link)
    private = re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text("ascii"))
    return {
        "descriptors": len(links),
        "removed": sum(link.endswith(" (deleted)") for link in links),
        "threads": len(os.listdir("/proc/self/task")),
        "private": int(private[1]) // 1024 if private else 0,
    }


def tell(calls: int, busy: int) -> None:
    sys.stdout.write(json.dumps({"calls": calls, "busy": busy, **held()}) + "\n")
    sys.stdout.flush()


async def one_call(store: VectorStore, chance: random.Random) -> None:
    kind, id = chance.random(), str(chance.randrange(IDS))
    own = f"user = 'u{int(id) % USERS}'"
    if kind < 0.3:
        row = {"id": id, "body": text(chance, 12), "user": f"u{int(id) % USERS}"}
        await store.upsert("notes", [row])
    elif kind < 0.35:
        await store.delete("notes", id)
    elif kind < 0.4:
        await store.update("notes", {"seen": int(id)}, ids=[id])
    elif kind < 0.65:
        await store.search_hybrid("notes", text(chance, 4), where=own)
    elif kind < 0.85:
        await store.search("notes", text(chance, 4))
    elif kind < 0.95:
        await store.get("notes", [id])
    else:
        await store.find("notes", where=own, limit=20)


async def one_round(store: VectorStore, seed: int, seconds: float) -> tuple[int, int]:
    """Let eight tasks call the store; return the number of calls, and of calls that failed with
    StoreBusyError."""
    ends = time.monotonic() + seconds
    count = busy = 0

    async def calls(chance: random.Random) -> None:
        nonlocal count, busy
        while time.monotonic() < ends:
            count += 1
            try:
                await one_call(store, chance)
            except StoreBusyError:  # possible on a busy machine
                busy += 1

    await asyncio.gather(*(calls(random.Random(f"{seed} {n}")) for n in range(8)))
    return count, busy


async def main(target: str) -> None:
    chance = random.Random(0)
    async with aiovec.connect(target, embedder="local") as store:
        await store.create_table("notes", SCHEMA)
        for start in range(0, ROWS, 1000):
            ids = range(start, start + 1000)
            rows = [{"id": f"{n}", "body": text(chance, 12), "user": f"u{n % USERS}"} for n in ids]
            await store.insert("notes", rows)
        tell(0, 0)
        while line := await asyncio.to_thread(sys.stdin.readline):
            seed, seconds = line.split()
            tell(*await one_round(store, int(seed), float(seconds)))
    gc.collect()
    tell(0, 0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
