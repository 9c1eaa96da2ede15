"""``aiovec search``, ``aiovec rows`` and ``aiovec distinct``: the rows of a table."""

from __future__ import annotations

import json as jsonlib
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InvalidArgumentError
from .output import Listing, cell, emit, err
from .run import failing_clearly
from .stores import (
    AsJson,
    Config,
    Embedder,
    Select,
    Store,
    Table,
    Where,
    give_embedder,
    in_store,
    names_in,
)

if TYPE_CHECKING:
    from .._model.records import Hit
    from .._store.store import VectorStore

By = Literal["text", "vector", "hybrid"]


@failing_clearly
def search(
    table: Table,
    words: Annotated[
        str | None,
        typer.Argument(
            metavar="WORDS",
            help="What to search for. Write -- before words that begin with a minus.",
        ),
    ] = None,
    store: Store = None,
    by: Annotated[
        By | None,
        typer.Option(
            help="How to search for WORDS: text (keywords), vector (their embedding), or hybrid "
            "(both). Default: what the table supports."
        ),
    ] = None,
    vector: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Search with this vector, a JSON array, instead."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Search with the vector of this row instead of WORDS."),
    ] = None,
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of hits.")] = 10,
    select: Select = None,
    any_word: Annotated[
        bool, typer.Option("--any", help="In a keyword search, one matching word is enough.")
    ] = False,
    min_score: Annotated[
        float | None, typer.Option(help="Only hits with at least this score.")
    ] = None,
    embedder: Embedder = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Show the best hits for words, or the rows nearest to a vector or to a stored row.

    Words are searched as keywords if the table has text fields, by their vector if it has an
    embedder, and both ways if it has both.
    """
    if sum(given is not None for given in (words, vector, like)) != 1:
        raise typer.BadParameter("pass WORDS, --vector or --like, and only one of them")
    if (words is None and by is not None) or (any_word and (words is None or by == "vector")):
        raise typer.BadParameter("--by needs WORDS, and --any a search by keywords")
    options: dict[str, Any] = {
        "where": where, "limit": limit, "select": names_in(select), "min_score": min_score,
    }  # fmt: skip
    numbers = None if vector is None else _vector_in(vector)

    async def hits_of(vectors: VectorStore) -> tuple[list[Hit], float]:
        how = by if words is None or by is not None else await _best(vectors, table, words)
        if embedder is not None:
            give_embedder(vectors, await vectors.schema(table), embedder)
        began = time.perf_counter()
        hits: list[Hit]
        if like is not None:
            hits = await vectors.search_like(table, like, **options)
        elif words is None:
            hits = await vectors.search(table, numbers, **options)  # type: ignore[arg-type]
        elif how == "text":
            hits = await vectors.search_text(
                table, words, match="any" if any_word else "all", **options
            )
        else:
            call = vectors.search_hybrid if how == "hybrid" else vectors.search
            hits = await call(table, words, **options)
        return hits, time.perf_counter() - began

    hits, seconds = in_store(store, config, hits_of, reading=True)
    names = list(dict.fromkeys(name for hit in hits for name in hit.fields))
    cells = [
        [f"{hit.score:.4f}", hit.id, *(cell(hit.fields.get(name)) for name in names)]
        for hit in hits
    ]
    facts = {"hits": [hit.to_dict() for hit in hits], "seconds": round(seconds, 6)}
    emit(facts, [Listing(["score", "id", *names], cells, right=["score"])], json)
    console = err()
    if console.is_terminal and not json:
        console.print(f"{len(hits)} hits in {seconds * 1000:.1f} ms")


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


def _vector_in(text: str) -> list[float]:
    try:
        vector = jsonlib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise typer.BadParameter(f"--vector cannot be read: {exc}") from exc
    if not isinstance(vector, list):
        raise typer.BadParameter("--vector must be a JSON array of numbers")
    return vector


async def _best(vectors: VectorStore, table: str, words: str) -> By:
    """Return the best kind of search for words that the table supports."""
    schema = await vectors.schema(table)
    by_text = any(field.text for field in schema.fields.values())
    if schema.embed is None and not by_text:
        raise InvalidArgumentError(
            "words", words,
            f"--vector or --like: the table {table!r} has no field with text=True and no embedder",
        )  # fmt: skip
    if schema.embed is None:
        return "text"
    return "hybrid" if by_text else "vector"
