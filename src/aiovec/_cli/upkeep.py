"""``aiovec`` ``optimize``, ``index``, ``backup`` and ``restore``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._internals import StoreInternals
from .._store.connect import restore_place
from ..errors import AiovecError, UnsupportedError
from .facts import index_line
from .output import say_error, working
from .stores import Address, AnyTable, At, EngineName, Shown, of_each_table, on_store

if TYPE_CHECKING:
    from .._store.store import VectorStore
    from ..backend.engine import Engine


_NOT_OPTIONS = ("", "table", "kind", "recall", "wait")  # no name, or an argument of create_index


@on_store(shows_progress=True)
async def optimize(
    at: At,
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="TABLE", help="Only these tables. Default: all.")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help='Repeat at this interval, such as "10m" or "1h", until interrupted. '
            "Default: once.",
        ),
    ] = None,
    engine: EngineName = None,
    address: Address = None,
) -> AsyncIterator[Shown]:
    """Compact tables and bring their indexes up to date.

    With --every, this process maintains the store for all processes that set upkeep = "elsewhere".
    A table that fails is reported, and tried again in the next round.
    """
    import asyncio

    pause = 0.0
    if every is not None:
        from .._store.rank import seconds_of  # slow

        if not (pause := seconds_of(every)):
            raise typer.BadParameter(f"--every must be a time such as 10m or 1h, not {every!r:.60}")
    workers = at.engine(engine, address)
    vectors = await at.open()

    async def of(name: str) -> dict[str, Any] | None:
        try:
            return await _optimized(vectors, name, workers)
        except AiovecError as exc:
            if not pause:
                raise
            say_error(exc)
            return None

    while True:
        done = list(filter(None, await of_each_table(vectors, tables, of, "optimizing")))
        yield Shown({"tables": done}, list(map(_optimized_line, done)))
        if not pause:
            return
        await asyncio.sleep(pause)


async def _optimized(vectors: VectorStore, name: str, workers: Engine | None) -> dict[str, Any]:
    """Optimize a table, and return the facts about it."""
    before = (await vectors.stats(name)).bytes
    began = time.perf_counter()
    if workers is None:
        await vectors.optimize(name)
    else:
        await StoreInternals(vectors).on_table("optimize", name, workers.optimize)
    seconds = round(time.perf_counter() - began, 6)
    after = (await vectors.stats(name)).bytes
    return {"name": name, "seconds": seconds, "bytes_before": before, "bytes": after}


def _optimized_line(table: dict[str, Any]) -> str:
    return (
        f"optimized {table['name']} in {table['seconds']:.2f} s: "
        f"{table['bytes_before']:,} bytes before, {table['bytes']:,} now"
    )


@on_store(shows_progress=True)
async def index(
    at: At,
    table: AnyTable = None,
    kind: Annotated[
        str, typer.Option(help="auto, or a kind of index that the backend has, such as ivf_pq.")
    ] = "auto",
    recall: Annotated[
        float | None,
        typer.Option(
            help="Share of the true nearest rows that searches should find, such as 0.95. Stored "
            "with the table."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=NUMBER",
            help="Option of the kind, such as num_partitions=256. Can be repeated.",
        ),
    ] = None,
    drop: Annotated[
        str | None, typer.Option(metavar="INDEX", help="Drop this index instead.")
    ] = None,
    engine: EngineName = None,
    address: Address = None,
) -> Shown:
    """Build an approximate index over a table's vectors, measure its recall, and show all indexes.

    This command is for LanceDB. SQLite searches without such an index; aiovec info shows its
    indexes of fields.

    Other processes can read and write during the build. If the build is interrupted, the table
    does not change. With --engine, the engine's workers first compact the table and index its ids
    and fields.
    """
    options: dict[str, Any] = dict(_option(text) for text in option or [])
    if recall is not None:
        options["recall"] = recall
    if drop is not None and (options or kind != "auto" or engine is not None):
        raise typer.BadParameter("--drop takes no other option of an index")
    workers = at.engine(engine, address)
    opened = await at.table(table)
    vectors, name = opened.store, opened.name
    if not vectors.supports("indexes"):
        hint = "every search is exact; aiovec info shows the indexes of its fields"
        raise UnsupportedError("indexes", vectors.backend_name, hint)
    began = time.perf_counter()
    with working("building the index" if drop is None else "dropping the index"):
        if drop is not None:
            await opened.drop_index(drop)
        elif workers is None:
            await opened.create_index(kind, **options)
        else:
            build = partial(workers.index, kind=kind, options=options)
            await StoreInternals(vectors).on_table("create_index", name, build)
    seconds, indexes = time.perf_counter() - began, await opened.indexes()
    done = "indexed" if drop is None else f"dropped the index {drop} of"
    lines = [f"{done} {name} in {seconds:.2f} s"]
    lines += [f"{info.name}: {index_line(info)}" for info in indexes]
    if not indexes:
        lines.append("the table has no index: every search scans every row")
    return Shown({"table": name, "seconds": round(seconds, 6), "indexes": indexes}, lines)


@on_store(shows_progress=True)
async def backup(
    at: At,
    path: Annotated[
        str, typer.Argument(metavar="DEST", help="Path of the copy, which must not exist yet.")
    ],
) -> Shown:
    """Write a consistent copy of a whole store while others use it."""
    vectors = await at.open(reading=True)
    began = time.perf_counter()
    with working("copying"):
        await vectors.backup(path)
    seconds, source = time.perf_counter() - began, vectors.target
    facts = {"store": source, "backup": path, "seconds": round(seconds, 6)}
    return Shown(facts, [f"copied {source} to {path} in {seconds:.2f} s"])


@on_store(shows_progress=True)
async def restore(
    at: At,
    backup: Annotated[
        str, typer.Argument(metavar="BACKUP", help="A copy that aiovec backup wrote.")
    ],
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Delete the replaced store. Default: keep it under another name."
        ),
    ] = False,
) -> Shown:
    """Check a backup, then replace a store with it. No process may have the store open."""
    place = await at.place()
    with working("restoring"):
        replaced = await restore_place(backup, place, overwrite=overwrite)
    lines = [f"restored {place} from {backup}"]
    if replaced is not None:
        lines.append(f"the replaced store is now {replaced}")
    facts = {"backup": backup, "store": str(place), "kept": replaced and str(replaced)}
    return Shown(facts, lines)


def _option(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not value.isdecimal() or len(value) > 18 or name in _NOT_OPTIONS:  # at most 64 bits
        raise typer.BadParameter(
            f"{text!r:.60} must be NAME=NUMBER, an option that only some kinds of index have"
        )
    return name, int(value)
