"""``aiovec index``: build an approximate index, or drop one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .facts import index_line
from .output import emit, working
from .run import failing_clearly
from .stores import AsJson, Config, Store, Table, in_store

if TYPE_CHECKING:
    from .._store.store import VectorStore
    from ..backend.contract import IndexInfo

_DIGITS = 18  # of the largest option: every backend takes 64 bits at most
_OWN = ("", "table", "kind", "recall", "wait")  # no options, or ones of the command


@failing_clearly
def index(
    table: Table,
    store: Store = None,
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
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Build an approximate index over a table's vectors, measure its recall, and show all indexes.

    Others can read and write in the meantime. If the build is interrupted, the table stays as it
    was.
    """
    options: dict[str, Any] = dict(_option(text) for text in option or [])
    if recall is not None:
        options["recall"] = recall
    if drop is not None and (options or kind != "auto"):
        raise typer.BadParameter("--drop takes no other option of an index")

    async def work(vectors: VectorStore) -> tuple[float, list[IndexInfo]]:
        began = time.perf_counter()
        with working("building the index" if drop is None else "dropping the index"):
            if drop is None:
                await vectors.create_index(table, kind, **options)
            else:
                await vectors.drop_index(table, drop)
        return time.perf_counter() - began, await vectors.indexes(table)

    seconds, found = in_store(store, config, work)
    done = "indexed" if drop is None else f"dropped the index {drop} of"
    shown = [f"{done} {table} in {seconds:.2f} s"]
    shown += [f"{info.name}: {index_line(info)}" for info in found]
    if not found:
        shown.append("the table has no index: every search scans every row")
    emit({"table": table, "seconds": round(seconds, 6), "indexes": found}, shown, json)


def _option(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not value.isdecimal() or len(value) > _DIGITS or name in _OWN:
        raise typer.BadParameter(
            f"{text!r:.60} must be NAME=NUMBER, of an option that only some kinds have"
        )
    return name, int(value)
