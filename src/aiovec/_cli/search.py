"""``aiovec search``: the best rows by words, or nearest to a vector or to a stored row."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import AiovecError, EmbeddingError, InvalidArgumentError
from .output import Listing, cell, emit, err
from .run import failing_clearly
from .stores import AsJson, Config, Select, Store, Table, Where, expanded, in_store, names_in

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
        typer.Option(
            metavar="JSON|@FILE",
            help="Search with this vector instead of WORDS: a JSON array, or @FILE that holds one.",
        ),
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
    max_distance: Annotated[
        float | None,
        typer.Option(help="Only hits at most this far from the vector. Not for a keyword search."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="A field or payload.<key>. Shows the best hits of each of its values; --limit is "
            "then the number of values.",
        ),
    ] = None,
    per_group: Annotated[
        int, typer.Option(min=1, help="Number of hits for each value, with --group-by.")
    ] = 1,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Show the best hits for words, or the rows nearest to a vector or to a stored row.

    Words are searched as keywords if the table has text fields, by their vector if it has an
    embedder, and both ways if it has both.
    """
    if sum(given is not None for given in (words, vector, like)) != 1:
        raise typer.BadParameter("pass WORDS, --vector or --like, and only one of them")
    if words is None and (by is not None or any_word):
        raise typer.BadParameter("--by and --any need WORDS")
    _check_fits(by, max_distance, any_word)
    options: dict[str, Any] = {
        "where": where, "limit": limit, "select": names_in(select), "min_score": min_score,
        "group_by": group_by, "per_group": per_group,
    }  # fmt: skip
    query = words if vector is None else _read_vector(vector)

    async def hits_of(vectors: VectorStore) -> tuple[list[Hit], float]:
        how = by
        if words is not None and by is None:
            how = await _best(vectors, table, words)
            _check_fits(how, max_distance, any_word)
        began = time.perf_counter()
        if how == "text":
            hits: list[Hit] = await vectors.search_text(table, words or "", any=any_word, **options)
        else:
            options["max_distance"] = max_distance
            if like is not None:
                hits = await vectors.search_like(table, like, **options)
            else:
                call = vectors.search_hybrid if how == "hybrid" else vectors.search
                hits = await _by_vector(call(table, query, **options))  # type: ignore[arg-type]
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


def _check_fits(by: By | None, max_distance: float | None, any_word: bool) -> None:
    if max_distance is not None and by == "text":
        raise typer.BadParameter("--max-distance is not for a keyword search")
    if any_word and by == "vector":
        raise typer.BadParameter("--any is for a keyword search")


def _read_vector(given: str) -> list[float]:
    try:
        text = expanded(given[1:]).read_text("utf-8-sig") if given.startswith("@") else given
        vector = jsonlib.loads(text)
    except (OSError, ValueError, RecursionError) as exc:
        raise typer.BadParameter(f"--vector cannot be read: {exc}") from exc
    if not isinstance(vector, list) or not all(
        isinstance(number, (int, float)) and not isinstance(number, bool) for number in vector
    ):
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


async def _by_vector(call: Awaitable[list[Hit]]) -> list[Hit]:
    """Await a search, and say what to do if words cannot be embedded."""
    try:
        return await call
    except EmbeddingError as exc:
        raise AiovecError(
            f"{exc}. Name the TOML file with --config, or search for keywords with --by text"
        ) from exc
