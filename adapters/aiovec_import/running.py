"""Run an import for a command, with progress, a list of rejects, and a report."""

from __future__ import annotations

import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import typer

from aiovec import Schema, VectorStore
from aiovec._cli.output import progress
from aiovec._cli.stores import At, Shown, give_embedder, in_memory, of_each_table, open_place
from aiovec._internals import StoreInternals
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError

from .loading import Import, wanted_schema
from .reports import reported

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aiovec.backend.place import Place


async def run_import(
    at: At, job: Import, embedder: str | None, *, allow_rejects: bool = False
) -> Shown:
    """Run an import and report the results."""
    began, done = time.perf_counter(), False
    try:
        target = await _imported(at, job, embedder)
        done = True
    except AiovecError as exc:
        if job.kept:  # the error itself only describes the rows of the failed call
            exc.add_note(f"kept before that: {job.kept}")
        raise
    finally:
        await in_thread(job.rejects.close, done and not job.wanted.dry_run)
    seconds = time.perf_counter() - began
    facts = {"store": target, **job.facts(), "seconds": round(seconds, 6)}
    facts["rejects"] = job.rejects.place if job.rejects.count else None
    lines, notes = reported(facts)
    error = typer.Exit(1) if job.failed or not (allow_rejects or job.whole) else None
    return Shown(facts, [*lines, f"done in {seconds:.2f} s"], notes=notes, error=error)


async def _imported(at: At, job: Import, embedder: str | None) -> str:
    """Import into a store, and return its location.

    A missing store is created once there is something to write. Until then, an in-memory store is
    used instead.
    """

    async def opened(place: Place) -> VectorStore:
        vectors = await at.exits.enter_async_context(await open_place(place))
        if embedder is not None:
            load = job.loads[0]
            new = wanted_schema(load, job.wanted)
            await use_embedder(vectors, embedder, load.table, new)
        await job.find(vectors)
        return vectors

    place = await at.place()
    exists = await in_thread(place.exists)
    with progress(f"{job.unit}s") as bar:
        for load in job.loads:
            task = bar.add_task(load.table, total=load.source.rows)
            load.seen = partial(_advance, bar, task)
        vectors = await opened(place if exists else in_memory(place))
        if job.wanted.strict and not job.wanted.dry_run:  # a dry run reports all reasons instead
            await job.check(vectors)
        async with aclosing(job.parts()) as parts:
            part = await anext(parts, None)
            if not (exists or job.wanted.dry_run or (part is None and job.is_over())):
                vectors, exists = await opened(place), True
            while part is not None:
                if not job.wanted.dry_run:
                    await job.write(vectors, part)
                part = await anext(parts, None)
        changed = await job.finish(vectors)
    if changed and not job.wanted.dry_run:
        # After a command in a script, perhaps no app is running that would build the indexes.
        await of_each_table(vectors, changed, vectors.optimize, "indexing and optimizing")
    return vectors.target if exists else str(place)


async def use_embedder(vectors: VectorStore, embedder: str, table: str, new: Schema) -> None:
    """Give a store the embedder for a table, which exists or will be created with ``new``.

    Raises ModelMismatchError if another model made the table's vectors. Without this check, a
    command that finds nothing new would not raise the error, because it embeds nothing.
    """
    old = await vectors.schema(table) if table in await vectors.tables() else None
    give_embedder(vectors, old or new, embedder)
    if old is not None:
        await StoreInternals(vectors).check_embedder(table, old)


def _advance(bar: Progress, task: TaskID, number: int) -> None:
    bar.update(task, completed=number)
