"""``aiovec rows`` and ``aiovec distinct``: rows without a search, and the values of a field."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from .output import one_line, print_json, print_rows
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, opened, store_and

_Where = Annotated[
    str | None,
    typer.Option(
        metavar="FILTER",
        help="Only rows that the filter selects: \"year >= 2024 AND lang = 'en'\".",
        show_default=False,
    ),
]


@failing_clearly
def rows(
    first: Store = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help="The table; without a STORE, the TOML file names the store.",
            show_default=False,
        ),
    ] = None,
    where: _Where = None,
    order_by: Annotated[
        list[str] | None,
        typer.Option(
            "--order-by",
            metavar="KEYS",
            help="Fields or payload.<key>, separated by commas or repeated. A leading minus sorts "
            "descending: --order-by=-year. Default: the id.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Rows to skip.")] = 0,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELDS",
            help="Fields to show, separated by commas or repeated; the vector by its own name.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
) -> None:
    """Show rows of a table, without a search."""
    store, table = store_and(first, second, "a TABLE")
    if json and as_csv:
        raise typer.BadParameter("pass only one of --json and --csv")

    async def read() -> list[dict[str, Any]]:
        async with opened(store, config, reading=True) as vectors:
            found = await vectors.find(
                table, where, order_by=_names(order_by), limit=limit, offset=offset,
                select=_names(select),
            )  # fmt: skip
            return [record.to_dict() for record in found]

    found = run(read())
    if json:
        print_json({"rows": found})
        return
    names = list(dict.fromkeys(["id", *(name for row in found for name in row)]))
    if as_csv:
        print_csv(names, found)
        return
    print_rows(names, [[cell(row.get(name)) for name in names] for row in found])


@failing_clearly
def distinct(
    first: Store = None,
    second: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="The table.", show_default=False)
    ] = None,
    third: Annotated[
        str | None,
        typer.Argument(
            metavar="FIELD",
            help='A field, "id" or payload.<key>. Two arguments are TABLE and FIELD; the store '
            "then comes from the TOML file.",
            show_default=False,
        ),
    ] = None,
    where: _Where = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of values.", show_default="all")
    ] = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Show the values of a field or payload.<key> with the number of rows that have each."""
    if first is None or second is None:
        raise typer.BadParameter("pass [STORE] TABLE FIELD")
    store, table, field = (None, first, second) if third is None else (first, second, third)

    async def read() -> list[tuple[Any, int]]:
        async with opened(store, config, reading=True) as vectors:
            return list((await vectors.distinct(table, field, where, limit)).items())

    found = run(read())
    if json:
        print_json({"values": [{"value": value, "rows": count} for value, count in found]})
        return
    print_rows(["rows", field], [[count, cell(value)] for value, count in found], right=["rows"])


def print_csv(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as CSV: null as an empty cell, text in quotes, lists and objects as JSON."""
    lines = [",".join(map(_quoted, names))]
    lines += [",".join(_csv_cell(row.get(name)) for name in names) for row in found]
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _csv_cell(value: object) -> str:
    # Quotes tell an empty text from null, which the csv module of old Pythons cannot.
    if value is None or isinstance(value, (bool, int, float)):
        return cell(value)
    return _quoted(cell(value))


def _quoted(text: str) -> str:
    if sys.stdout.isatty():  # which stored text must not drive
        text = one_line(text)
    return '"' + text.replace('"', '""') + '"'


def cell(value: object) -> str:
    """Return a value as it is shown in a table: null as nothing, lists and objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, (list, dict, bool)):
        return jsonlib.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _names(given: list[str] | None) -> list[str] | None:
    return None if given is None else [name.strip() for part in given for name in part.split(",")]
