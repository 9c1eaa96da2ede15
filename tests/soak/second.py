"""The program of a soak's second process: it reads and writes the same tables as the first one.

    python -m tests.soak.second ARGUMENTS

The arguments are JSON. It tells a line of JSON for each write of its marks, and, each time that it
is told to pause, one of all that its rows are and what it holds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from tests.soak.client import Client
from tests.soak.resources import Resources
from tests.soak.world import State, World, row_of

from aiovec import Schema, VectorStore, connect

# Seconds between two writes of marks.
_BETWEEN_MARKS = 0.01


async def _main(arguments: Mapping[str, Any]) -> None:
    schemas = {name: Schema.from_json(text) for name, text in arguments["schemas"].items()}
    world = World(schemas, arguments["base_rows"], exact=arguments["exact"])
    marks = {name: (f"mark-{name}/m", 0) for name in schemas}
    async with connect(arguments["target"], config=arguments["config"]) as store:
        for name in schemas:
            owner = f"near-{name}"
            world.clients[owner] = Client(world, store, name, owner, arguments["seed"])
        async with asyncio.TaskGroup() as group:
            for client in world.clients.values():
                group.create_task(client.run())
            for name in schemas:
                group.create_task(_write_marks(world, store, name, marks))
            group.create_task(_obey(world, marks))


async def _write_marks(
    world: World, store: VectorStore, table: str, marks: dict[str, tuple[str, int]]
) -> None:
    id, number = marks[table]
    while not world.over:
        async with world.gate.inside():
            number += 1
            row = row_of(id, State(number, number), world.schemas[table])
            assert await store.upsert(table, [row]) == 1
            marks[table] = (id, number)
        _tell({"mark": [table, id, number]})
        await asyncio.sleep(_BETWEEN_MARKS)


async def _obey(world: World, marks: Mapping[str, tuple[str, int]]) -> None:
    while (word := (await asyncio.to_thread(sys.stdin.readline)).strip()) not in ("end", ""):
        if word == "go":
            world.gate.open()
            continue
        await world.pause()
        rows: dict[str, dict[str, State]] = {name: {} for name in world.schemas}
        for name, (id, number) in marks.items():
            if number:
                rows[name][id] = State(number, number)
        for client in world.clients.values():
            rows[client.table] |= client.rows
        held = Resources.now()
        resources = [held.memory, held.threads, held.files]
        _tell({"rows": rows, "resources": resources, "counts": world.counts})
    world.over = True
    world.gate.open()


def _tell(told: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
