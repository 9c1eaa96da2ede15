"""``aiovec index``: build an approximate index, and say what it finds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..backend.contract import IndexInfo
from .output import out, print_facts, print_json, progress
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, opened, store_and

_DIGITS = 18  # of the largest option: every backend takes 64 bits at most


@failing_clearly
def index(
    first: Store = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help="The table to index; without a STORE, the TOML file names the store.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="auto, or a kind of index of the backend, such as ivf_pq.")
    ] = "auto",
    recall: Annotated[
        float | None,
        typer.Option(
            help="Share of the true nearest rows that searches should find, such as 0.95; stored "
            "with the table.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=NUMBER",
            help="Option of the kind, such as num_partitions=256. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(metavar="INDEX", help="Drop this index instead.", show_default=False),
    ] = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Build an approximate index over a table's vectors, measure it, and show all indexes.

    Others may read and write meanwhile. An interrupt ends the build and leaves the table as it was.
    """
    store, table = store_and(first, second, "a TABLE")
    options: dict[str, Any] = dict(_option(text) for text in option or [])
    if recall is not None:
        options["recall"] = recall
    if drop is not None and (options or kind != "auto"):
        raise typer.BadParameter("--drop takes no other option of an index")
    seconds, found = run(_index(store, config, table, kind, options, drop))
    if json:
        print_json(
            {
                "table": table,
                "seconds": round(seconds, 6),
                "indexes": [asdict(info) for info in found],
            }
        )
        return
    done = "indexed" if drop is None else f"dropped the index {drop} of"
    out().print(f"{done} {table} in {seconds:.2f} s")
    for info in found:
        out().print()
        print_facts(facts_of(info))
    if not found:
        out().print("the table has no index: every search scans every row")


def facts_of(info: IndexInfo) -> dict[str, object]:
    """An index, for people."""
    facts: dict[str, object] = {
        "index": info.name,
        "kind": info.kind,
        "column": info.column,
        "rows": f"{info.rows_indexed:,} indexed, {info.rows_unindexed:,} not",
    }
    if info.recall is not None:
        facts["recall"] = f"{info.recall:.3f}"
    if info.parameters:
        facts["parameters"] = ", ".join(_parameter(n, v) for n, v in info.parameters.items())
    return facts


def _parameter(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(_parameter(str(n), v) for n, v in value.items())
        return f"{name} ({inner})"
    return f"{name} {value}"


def _option(text: str) -> tuple[str, int]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value.isdecimal() or len(value) > _DIGITS:
        raise typer.BadParameter(f"{text!r:.60} must be NAME=NUMBER", param_hint="--option")
    if name in ("kind", "recall"):
        raise typer.BadParameter(f"{name} has its own option: --{name}")
    if name in ("table", "wait"):
        raise typer.BadParameter(f"{name} is not an option of an index", param_hint="--option")
    return name, int(value)


async def _index(
    store: str | None,
    config: str | None,
    table: str,
    kind: str,
    options: dict[str, Any],
    drop: str | None,
) -> tuple[float, list[IndexInfo]]:
    async with opened(store, config) as vectors:
        began = time.perf_counter()
        with progress("") as bar:
            bar.add_task("building the index" if drop is None else "dropping", total=None)
            if drop is None:
                await vectors.create_index(table, kind, **options)
            else:
                await vectors.drop_index(table, drop)
        return time.perf_counter() - began, await vectors.indexes(table)
