"""Compare ``aiovec migrate`` with a plain loop: move a table from SQLite to LanceDB and back."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

import aiovec
import aiovec_migrate

from .data import TABLE, generate
from .measure import Options, Result, fresh, interleaved, medians, most_memory, ratios
from .stores import fill

_ROWS, _DIM, _ROUNDS = 100_000, 768, 3


async def run(options: Options) -> list[Result]:
    data = generate(options.rows(_ROWS), _DIM)
    original, back = str(options.folder / "original.db"), str(options.folder / "back.db")
    lance = f"lancedb://{options.folder / 'there'}"
    async with aiovec.connect(original) as store:
        await fill(store, data)
    results = [
        await _measured(f"{direction}, {data}", source, target, len(data), options)
        for direction, source, target in (
            ("SQLite to LanceDB", original, lance), ("LanceDB to SQLite", lance, back)
        )
    ]  # fmt: skip
    first, last = await _rows(original), await _rows(back)
    if not first.equals(last):
        results[-1].wrong.append("the rows are not the same, there and back again")
    return results


async def _measured(compared: str, source: str, target: str, rows: int, options: Options) -> Result:
    memory: dict[str, float] = {}

    async def moved(how: str) -> float:
        _remove(target)
        settings = {"how": how, "source": source, "target": target}
        result = await fresh("migrate", settings)
        memory[how] = max(memory.get(how, 0.0), result["memory"])
        return rows / float(result["seconds"])

    run, loop = "aiovec migrate, copied and verified", "plain loop, nothing verified"
    # The number of rounds is odd, so the run comes last in the last round, and its target remains.
    rounds = await interleaved(
        {loop: lambda: moved("loop"), run: lambda: moved("run")}, options.rounds(_ROUNDS) | 1
    )
    return Result(
        "migrate", f"{compared} (median)", "rows/s", medians(rounds), ratios(rounds, run, loop),
        [f"memory at most: {memory['run']:,.0f} MiB; loop: {memory['loop']:,.0f} MiB"],
    )  # fmt: skip


async def _rows(target: str) -> pa.Table:
    async with aiovec.connect(target) as store:
        batches = [batch async for batch in store.export(TABLE)]
    table = pa.Table.from_batches([pa.record_batch(b.columns, b.schema.names) for b in batches])
    return table.combine_chunks().sort_by("id")


def _remove(target: str) -> None:
    path = Path(target.removeprefix("lancedb://"))
    for each in path.parent.glob(f"{path.name}*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()


# The process that moves the rows


async def _loop(source: str, target: str) -> None:
    """Copy the table in a plain loop."""
    async with aiovec.connect(source) as reader, aiovec.connect(target) as writer:
        await writer.create_table(TABLE, await reader.schema(TABLE))
        async for batch in reader.export(TABLE, batch_size=1000):
            await writer.insert(TABLE, batch)


async def in_process(settings: dict[str, Any]) -> dict[str, float]:
    # No index is built in the background during the move.
    os.environ["AIOVEC_RETRIEVAL__LANCEDB__INDEX"] = "none"
    started = time.perf_counter()
    if settings["how"] == "loop":
        await _loop(settings["source"], settings["target"])
    else:
        await aiovec_migrate.run(settings["source"], settings["target"])
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": most_memory()}
