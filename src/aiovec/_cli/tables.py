"""``aiovec create``, ``drop``, ``text-index`` and ``delete``: changing tables."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from .._model.kinds import Kind
from .._model.schema import Embed, Field, Metric, Schema
from .._tools.messages import did_you_mean, shown
from .output import counted, emit, working
from .run import failing_clearly
from .stores import (
    AsJson,
    At,
    Config,
    Embedder,
    Shown,
    Store,
    Table,
    Where,
    expanded,
    give_embedder,
    in_store,
    on_store,
    try_if_new,
)

if TYPE_CHECKING:
    from .._store.store import VectorStore


@on_store()
async def create(
    at: At,
    table: Table,
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON file with the schema.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Length of the vectors. Default: the embedder's.")
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:TYPE",
            help="Field of the type text, int, float, bool, datetime or list[text]. Can be "
            "repeated.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Text field for keyword search. Can be repeated."),
    ] = None,
    embed: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Text field from which the embedder computes vectors."),
    ] = None,
    metric: Annotated[Metric, typer.Option(help="Metric of distances.")] = "cosine",
    model: Annotated[
        str | None, typer.Option(help="Embedding model; vectors of another model are refused.")
    ] = None,
    embedder: Embedder = None,
) -> Shown:
    """Create an empty table, and the store if it does not exist."""
    from ..backend.files import schema_in
    from ..backend.threads import in_thread

    if schema is None and dim is None and embed is None:
        raise typer.BadParameter("pass --dim, --schema or --embed")
    if schema is not None:
        if dim or field or text or embed or model:
            raise typer.BadParameter("the --schema has the length, the fields and the model")
        chosen = await in_thread(schema_in, expanded(schema))
    else:
        fields = dict(map(_field_in, field or []))
        fields |= {name: Field(str, text=True) for name in text or []}
        if embed is not None:
            fields.setdefault(embed, Field(str))
        chosen = Schema(
            dim or 0,
            metric=metric,
            model=model,
            fields=fields,
            embed=None if embed is None else Embed(embed),
        )

    async def make(vectors: VectorStore) -> None:
        give_embedder(vectors, chosen, embedder)
        await vectors.create_table(table, chosen)

    await try_if_new(await at.place(), make)
    vectors = await at.open(create=True)
    await make(vectors)
    created = await vectors.schema(table)
    return Shown({"table": table, "schema": created.to_dict()}, [f"created {table}"])


def _field_in(text: str) -> tuple[str, Field]:
    name, colon, kind = text.partition(":")
    if not colon:
        raise typer.BadParameter(f"--field takes NAME:TYPE, such as year:int, not {shown(text)}")
    if kind not in (kinds := get_args(Kind)):
        raise typer.BadParameter(
            f"--field: the type of {shown(name)} must be one of {', '.join(kinds)}, not "
            f"{shown(kind)}{did_you_mean(kind, kinds)}"
        )
    return name, Field.from_dict(kind)


@failing_clearly
def drop(
    table: Table,
    store: Store = None,
    yes: Annotated[bool, typer.Option("--yes", help="Drop it without asking.")] = False,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Drop a table with all its rows.

    Asks first on a terminal, and elsewhere needs --yes.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"pass --yes to drop {table} with all its rows")
        rows = in_store(store, config, partial(_count, table=table, drop=False))
        typer.confirm(f"Drop {table} with {counted(rows)}?", abort=True, err=True)
    rows = in_store(store, config, partial(_count, table=table, drop=True))
    emit({"table": table, "rows": rows}, [f"dropped {table} with {counted(rows)}"], json)


async def _count(at: At, table: str, *, drop: bool) -> int:
    vectors = await at.open(reading=not drop)
    rows = await vectors.count(table)
    if drop:
        await vectors.drop_table(table)
    return rows


@on_store(shows_progress=True)
async def text_index(
    at: At,
    table: Table,
    field: Annotated[str, typer.Argument(metavar="FIELD", help="A text field of the table.")],
    drop: Annotated[bool, typer.Option("--drop", help="Drop the index instead.")] = False,
) -> Shown:
    """Build the keyword index of a text field, or drop it."""
    vectors = await at.open()
    began = time.perf_counter()
    with working("dropping the index" if drop else "building the index"):
        if drop:
            await vectors.drop_field_index(table, field, "text")
        else:
            await vectors.create_field_index(table, field, "text")
    seconds = time.perf_counter() - began
    line = f"{'dropped the index of' if drop else 'indexed'} {field} of {table} in {seconds:.2f} s"
    return Shown({"table": table, "field": field, "seconds": round(seconds, 6)}, [line])


@on_store()
async def delete(
    at: At,
    table: Table,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="The ids of the rows.")
    ] = None,
    where: Where = None,
) -> Shown:
    """Delete rows by their ids, by a filter, or by both."""
    if not ids and where is None:
        raise typer.BadParameter(
            f"pass an ID after the table {table}, or --where; aiovec drop drops a table"
        )
    vectors = await at.open()
    deleted = await vectors.delete(table, ids or None, where=where)
    return Shown({"deleted": deleted}, [f"deleted {counted(deleted)}"])
