"""``aiovec rows`` and ``aiovec distinct``: rows without a search, and the values of a field."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import Listing, cell, emit
from .run import failing_clearly
from .stores import AsJson, Config, Select, Store, Table, Where, in_store, names_in


@failing_clearly
def rows(
    table: Table,
    store: Store = None,
    where: Where = None,
    order_by: Annotated[
        list[str] | None,
        typer.Option(
            "--order-by",
            metavar="KEYS",
            help="Fields or payload.<key>, separated by commas. A leading minus sorts in "
            "descending order: --order-by=-year. Default: the id.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of rows.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Number of rows to skip.")] = 0,
    select: Select = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Show rows of a table, without a search."""
    order, fields = names_in(order_by), names_in(select)
    records = in_store(
        store,
        config,
        lambda vectors: vectors.find(
            table, where, order_by=order, limit=limit, offset=offset, select=fields
        ),
        reading=True,
    )
    found = [record.to_dict() for record in records]
    names = list(dict.fromkeys(["id", *(name for row in found for name in row)]))
    cells = [[cell(row.get(name)) for name in names] for row in found]
    emit({"rows": found}, [Listing(names, cells)], json)


@failing_clearly
def distinct(
    table: Table,
    field: Annotated[
        str,
        typer.Argument(metavar="FIELD", help="A field, id, or payload.<key>."),
    ],
    store: Store = None,
    where: Where = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of values.", show_default="all")
    ] = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Show the values of a field and how many rows have each, the most frequent first."""
    values = in_store(
        store, config, lambda vectors: vectors.distinct(table, field, where, limit), reading=True
    )
    listing = Listing(["rows", field], [[n, cell(value)] for value, n in values.items()], ["rows"])
    facts = {"values": [{"value": value, "rows": n} for value, n in values.items()]}
    emit(facts, [listing], json)
