"""``aiovec search``, ``rows``, ``get``, ``count`` and ``distinct``: reading a table."""

from __future__ import annotations

import json as jsonlib
import re
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .._search.query import text_fields
from .._tools.messages import shortened, shown
from ..errors import AiovecError, TableNotFoundError
from .output import Listing, cell, one_line
from .stores import (
    AnyTable,
    At,
    Embedder,
    IncludeVector,
    Select,
    Shown,
    Where,
    give_embedder,
    names_in,
    on_store,
    table_and_one,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.text import Text

    from .._model.records import Hit, Record
    from .._store.rank import Boost
    from .._store.store import Table

By = Literal["text", "vector", "hybrid"]
Match = Literal["best", "all", "any"]
_Text = str | None
_Ids = list[str] | None


@on_store()
async def search(
    at: At,
    table: AnyTable = None,
    words: Annotated[
        str | None,
        typer.Argument(
            metavar="WORDS",
            help="What to search for. Write -- before words that begin with a minus.",
        ),
    ] = None,
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
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Search with the vector of this row instead of WORDS. Can be repeated.",
        ),
    ] = None,
    not_like: Annotated[
        list[str] | None,
        typer.Option(
            "--not-like", metavar="ID", help="With --like: away from this row. Can be repeated."
        ),
    ] = None,
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of hits.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Number of hits to skip.")] = 0,
    select: Select = None,
    include_vector: IncludeVector = False,
    match: Annotated[
        Match | None,
        typer.Option(
            help="Keywords: any and all give rows with any of the words, or with all; best gives "
            "rows with all words first, then rows with some. Default: any."
        ),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Only hits with at least this score.")
    ] = None,
    boost: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD:HALF_LIFE",
            help="Prefer newer rows by the times in a field, as at:7d (weight 0.3) or at:7d:0.5; "
            "or rows with a higher number from 0 to 1, as importance:0.2. Can be repeated.",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="One hit, the best, for each value of this field: source for one a document.",
        ),
    ] = None,
    fetch_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of hits that --boost orders, at least offset + limit, and the same for "
            "every page. Default: 40.",
        ),
    ] = None,
    around: Annotated[
        int,
        typer.Option(
            min=0, max=10, help="Passages of documents: show this many before and after each hit."
        ),
    ] = 0,
    embedder: Embedder = None,
) -> Shown:
    """Show the best hits for words, or the rows nearest to a vector or to a stored row.

    Words are searched as keywords if the table has text fields, by their vector if it has an
    embedder, and both ways if it has both. A single argument is WORDS, or with --vector or --like
    the TABLE.
    """
    if words is None and vector is None and not like:
        table, words = None, table
    _check_search(words, vector, like, not_like, by, match)
    options: dict[str, Any] = {"where": where, "limit": limit, "offset": offset}
    options |= {"select": names_in(select), "include_vector": include_vector}
    options |= {"group_by": group_by} if group_by else {}
    options |= {"fetch_k": fetch_k} if fetch_k else {}
    options |= {"min_score": min_score, "rerank": [*map(_boost_in, boost)] if boost else None}
    query: Any = words if vector is None else _vector_in(vector)

    opened = await at.table(table, reading=True)
    try:
        how = "vector" if words is None else await _best(opened, by)
    except TableNotFoundError as exc:
        if table is not None:
            exc.add_note(f"Several words need quotes, as in aiovec search '{table} {words}'")
        raise
    if embedder is not None:
        give_embedder(opened.store, await opened.schema(), embedder)
    if like:
        ids = [*like, *(not_like or ())]
        if error := _missing(ids, await opened.exists(ids)):
            raise error
    began = time.perf_counter()
    hits: list[Hit]
    if like:
        hits = await opened.search_like(like, not_like=not_like or (), **options)
    elif how == "vector":
        hits = await opened.search(query, **options)
    else:
        by_words = opened.search_text if how == "text" else opened.search_hybrid
        hits = await by_words(query, match=match or "any", **options)
    flat = [hit.to_dict() for hit in hits]
    if around:
        from ..documents import around as passages_around

        for row, near in zip(flat, await passages_around(opened, hits, around), strict=True):
            row["before"] = [each.to_dict() for each in near if each["part"] < row["part"]]
            row["after"] = [each.to_dict() for each in near if each["part"] > row["part"]]
    seconds = time.perf_counter() - began
    return _shown(flat, seconds, words or "", whole=select is None and not include_vector)


def _check_search(
    words: _Text, vector: _Text, like: _Ids, not_like: _Ids, by: By | None, match: Match | None
) -> None:
    if sum(given is not None for given in (words, vector, like or None)) != 1:
        raise typer.BadParameter("pass WORDS, --vector or --like, and only one of them")
    if not_like and not like:
        raise typer.BadParameter("--not-like needs --like")
    if (words is None and by is not None) or (match and (words is None or by == "vector")):
        raise typer.BadParameter("--by needs WORDS, and --match needs a search by keywords")


def _shown(flat: list[dict[str, Any]], seconds: float, words: str, *, whole: bool) -> Shown:
    """Show passages of documents as text to read, or other hits as a table."""
    from ..documents import place_of  # its schema is slow to make

    facts = {"hits": flat, "seconds": round(seconds, 6)}
    if whole and flat and all(map(place_of, flat)):
        return Shown(facts, (_passage(row, str(place_of(row)), words) for row in flat))
    names = dict.fromkeys(name for row in flat for name in row)
    # These fields are only for later imports, so they mean nothing to a reader.
    marks = ("base", "hash") if whole and {"base", "hash"} <= names.keys() else ()
    for name in ("id", "_score", "_distance", "_ranks", *marks):
        names.pop(name, None)
    # A fused score only compares hits with each other; the distance shows how near a hit is.
    measures = {"score": _score} | (
        {"distance": _distance} if any("_ranks" in row for row in flat) else {}
    )
    cells = [
        [*(show(row) for show in measures.values()), row["id"], *map(cell, map(row.get, names))]
        for row in flat
    ]
    listing = Listing([*measures, "id", *names], cells, right=[*measures])
    return Shown(facts, [listing], note=f"{len(flat)} hits in {seconds * 1000:.1f} ms")


def _passage(row: dict[str, Any], place: str, words: str) -> Text:
    """Return a passage's place, its title, and its text with the words highlighted."""
    from rich.text import Text

    distance = _distance(row)
    measure = f"  distance {distance}" if distance else f"  score {_score(row)}"
    head = Text.assemble((one_line(place), "bold cyan"), (measure, "dim"))
    if row.get("title"):
        head.append(f"\n{one_line(row['title'])}", "bold")
    texts = [head]
    for each in (*row.get("before", ()), row, *row.get("after", ())):
        lines = shortened(str(each.get("body") or ""), 600).split("\n")
        text = Text("\n".join(f"  {line}".rstrip() for line in lines if line.strip()))
        if each is row:
            text.highlight_words(re.findall(r"\w{3,}", words), "bold yellow", case_sensitive=False)
        else:
            text.stylize("dim")
        texts.append(text)
    return Text("\n").join([*texts, Text()])


@on_store()
async def rows(
    at: At,
    table: AnyTable = None,
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
    include_vector: IncludeVector = False,
) -> Shown:
    """Show rows of a table, without a search."""
    opened = await at.table(table, reading=True)
    part: dict[str, Any] = {"limit": limit, "offset": offset, "include_vector": include_vector}
    order, names = names_in(order_by), names_in(select)
    return _listed(await opened.find(where, order_by=order, select=names, **part))


@on_store()
async def get(
    at: At,
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="[TABLE] ID", help="The ids. Of several arguments, the first is the TABLE."
        ),
    ],
    select: Select = None,
    include_vector: IncludeVector = False,
) -> Shown:
    """Show the rows with these ids.

    A single argument is an ID; of several, the first is the TABLE. Exits with 1 if a row is
    missing.
    """
    table, ids = (None, ids) if len(ids) == 1 else (ids[0], ids[1:])
    opened = await at.table(table, reading=True)
    records = await opened.get(ids, select=names_in(select), include_vector=include_vector)
    return _listed(records)._replace(error=_missing(ids, {record.id for record in records}))


def _missing(ids: Iterable[str], existing: set[str]) -> AiovecError | None:
    missing = sorted({*ids} - existing)
    return AiovecError(f"no row has the id {', '.join(map(repr, missing))}") if missing else None


def _listed(records: Sequence[Record]) -> Shown:
    rows = [record.to_dict() for record in records]
    names = list(dict.fromkeys(["id", *(name for row in rows for name in row)]))
    return Shown({"rows": rows}, [Listing(names, [[cell(r.get(n)) for n in names] for r in rows])])


@on_store()
async def count(at: At, table: AnyTable = None, where: Where = None) -> Shown:
    """Count the rows of a table, or the rows that a filter selects."""
    opened = await at.table(table, reading=True)
    number = await opened.count(where)
    return Shown({"count": number}, [str(number)])


@on_store()
async def distinct(
    at: At,
    table: AnyTable = None,
    field: Annotated[
        str | None,
        typer.Argument(
            metavar="FIELD", help="A field, id, or payload.<key>. A single argument is the FIELD."
        ),
    ] = None,
    where: Where = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of values.", show_default="all")
    ] = None,
) -> Shown:
    """Show the values of a field and how many rows have each, the most frequent first."""
    table, name = table_and_one(table, field, "FIELD")
    opened = await at.table(table, reading=True, field=name)
    values = await opened.distinct(name, where, limit)
    listing = Listing(["rows", name], [[n, cell(value)] for value, n in values.items()], ["rows"])
    return Shown({"values": [{"value": v, "rows": n} for v, n in values.items()]}, [listing])


def _score(row: dict[str, Any]) -> str:
    """Return a hit's score as text. Words that most rows contain give scores close to 0."""
    score: float = row["_score"]
    is_small = row.get("_distance") is None and 0 < score < 0.001
    return f"{score:.2g}" if is_small else f"{score:.4f}"


def _distance(row: dict[str, Any]) -> str:
    distance: float | None = row["_distance"]
    return "" if distance is None else f"{distance:.4f}"


def _vector_in(text: str) -> list[float]:
    try:
        vector = jsonlib.loads(text)
    except (ValueError, RecursionError):
        vector = None
    if not isinstance(vector, list):
        expected = "a JSON array of numbers such as [1, 0, 0]"
        raise typer.BadParameter(f"--vector must be {expected}, not {shown(text, 80)}")
    return vector


def _boost_in(text: str) -> Boost:
    from .. import Decay, Factor

    field, _, rest = text.partition(":")
    half_life, _, weight = rest.partition(":")
    try:
        if weight:
            return Decay(field, half_life, float(weight))
        if half_life[-1:].isalpha():
            return Decay(field, half_life)
        return Factor(field, float(half_life))
    except ValueError as exc:
        expected = "FIELD:HALF_LIFE[:WEIGHT] or FIELD:WEIGHT"
        raise typer.BadParameter(f"--boost is {expected}: {exc}") from exc


async def _best(table: Table, by: By | None) -> By:
    """Return how to search a table for words; by default, the best way that the table supports."""
    from ..bridge import best_search  # slow

    schema = await table.schema()
    by = by or best_search(schema)
    if by != "vector" and not text_fields(schema):
        raise AiovecError(
            f"the table {table.name!r} has no keyword index; build one with aiovec text-index, or "
            "search with --vector or --like"
        )
    if by != "text" and schema.embed is None:
        raise AiovecError(
            f"the table {table.name!r} has no embedder to make a vector of the words; search with "
            "--by text, --vector or --like"
        )
    return by
