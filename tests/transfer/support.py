"""How the tests here import a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiovec import Schema, VectorStore
from aiovec._transfer import Load, Loaded, Loading, RejectsFile, load, open_input
from aiovec.backend import Hints

REJECTS = "rejects.jsonl"


async def bring(
    store: VectorStore,
    path: Path,
    table: str = "notes",
    *,
    hints: Hints | None = None,
    schema: Schema | None = None,
    model: str | None = None,
    metric: Any = None,
    there: Schema | None = None,
    **how: Any,
) -> Loaded:
    """Import the one table of a file."""
    source = await asyncio.to_thread(
        open_input, path, hints=hints, schema=schema, there=lambda: there
    )
    try:
        (one,) = await asyncio.to_thread(source.tables)
        loads = [Load(one, table, schema, metric, model)]
        rejects = RejectsFile(path.with_name(REJECTS))
        (done,) = await load(store, source, loads, rejects, Loading(**how))
        return done
    finally:
        await asyncio.to_thread(source.close)


async def bring_into(
    store: VectorStore,
    path: Path,
    tables: Sequence[str],
    *,
    hints: Hints | None = None,
    schemas: Sequence[Schema] | None = None,
    **how: Any,
) -> list[Loaded]:
    """Import the one table of a file into each of several, in one call."""
    source = await asyncio.to_thread(open_input, path, hints=hints)
    try:
        (one,) = await asyncio.to_thread(source.tables)
        each = schemas or [None] * len(tables)
        loads = [Load(one, *to) for to in zip(tables, each, strict=True)]
        rejects = RejectsFile(path.with_name(REJECTS))
        return await load(store, source, loads, rejects, Loading(**how))
    finally:
        await asyncio.to_thread(source.close)


def rejected(folder: Path) -> dict[Any, tuple[str | None, str]]:
    """Where each reject stood, its id and the reason."""
    file = folder / REJECTS
    if not file.exists():
        return {}
    found = {}
    for line in file.read_text("utf-8").splitlines():
        entry = json.loads(line)
        assert entry.pop("table") == "notes"
        id, reason = entry.pop("id"), entry.pop("reason")
        (place,) = entry.values()
        found[place] = (id, reason)
    return found
