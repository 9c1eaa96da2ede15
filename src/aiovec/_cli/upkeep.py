"""``aiovec optimize``, ``aiovec backup`` and ``aiovec restore``."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Annotated, Any

import typer

from ..errors import ConfigError, CorruptStoreError
from .output import out, print_json, progress
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, expanded, of_each_table, opened, source_of, store_and


@failing_clearly
def optimize(
    store: Store = None,
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE", help="Only these tables.", show_default=False),
    ] = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Make the tables of a store, or those that are named, small and fast again."""
    done = run(_optimize(store, tables, config))
    if json:
        print_json({"tables": done})
        return
    for table in done:
        out().print(
            f"optimized {table['name']} in {table['seconds']:.2f} s: "
            f"{table['bytes_before']:,} bytes before, {table['bytes']:,} now"
        )


@failing_clearly
def backup(
    first: Store = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="Where the copy goes, which must not exist yet; without a STORE, the TOML file "
            "names the store.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Copy the whole store, as it is at one moment, while others use it.

    A SQLite database that another program wrote can be copied too, before it is imported.
    """
    store, path = store_and(first, second, "a PATH")
    began = time.perf_counter()
    try:
        target, seconds = run(_backup(store, config, path))
    except CorruptStoreError:
        # What is no store may be a database that is to be imported.
        if store is None or not _copied_foreign(store, path):
            raise
        target, seconds = store, time.perf_counter() - began
    if json:
        print_json({"store": target, "backup": path, "seconds": round(seconds, 6)})
    else:
        out().print(f"copied {target} to {path} in {seconds:.2f} s")


@failing_clearly
def restore(
    backup: Annotated[
        str,
        typer.Argument(
            metavar="BACKUP", help="The backup that aiovec backup wrote.", show_default=False
        ),
    ],
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="The store to replace. Default: the TOML file's.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Delete what is at TARGET now; else it is kept under another name."
        ),
    ] = False,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Put a backup in the place of a store that nobody uses, after checking it."""
    from .._store.connect import restore as restored

    kept = run(restored(backup, store, config=config, overwrite=overwrite))
    target = str(source_of(store, config).location())
    if json:
        print_json({"backup": backup, "store": target, "kept": None if kept is None else str(kept)})
        return
    out().print(f"restored {target} from {backup}")
    if kept is not None:
        out().print(f"the replaced store is now {kept}")


def _copied_foreign(store: str, path: str) -> bool:
    """Copy a database that another program wrote; False where it is none that is known."""
    from ..backend.foreign import Hints, source_for

    file = expanded(store)
    kind = source_for(file) if file.is_file() else None
    if kind is None:
        return False
    try:
        source = kind(file, Hints())
    except ConfigError:  # a store of ours, and damaged
        return False
    with closing(source), progress("") as bar:
        bar.add_task("copying", total=None)
        source.backup(expanded(path))
    return True


async def _optimize(
    store: str | None, tables: list[str] | None, config: str | None
) -> list[dict[str, Any]]:
    async with opened(store, config) as vectors:

        async def optimized(name: str) -> dict[str, Any]:
            before = (await vectors.stats(name)).bytes
            began = time.perf_counter()
            await vectors.optimize(name)
            seconds = time.perf_counter() - began
            after = (await vectors.stats(name)).bytes
            return {
                "name": name,
                "seconds": round(seconds, 6),
                "bytes_before": before,
                "bytes": after,
            }

        return await of_each_table(vectors, tables, optimized, "optimizing")


async def _backup(store: str | None, config: str | None, path: str) -> tuple[str, float]:
    async with opened(store, config, reading=True) as vectors:
        began = time.perf_counter()
        with progress("") as bar:
            bar.add_task("copying", total=None)
            await vectors.backup(path)
        return vectors.target, time.perf_counter() - began
