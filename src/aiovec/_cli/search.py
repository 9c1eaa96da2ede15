"""``aiovec search``: the best rows by words, or nearest to a vector or to a stored row."""

from __future__ import annotations

import json as jsonlib
import time
from typing import Annotated, Any, TypedDict

import typer
from typer.core import TyperCommand

from .._model.records import Hit
from .._model.schema import check_table_name
from ..errors import AiovecError, EmbeddingError, InvalidArgumentError, InvalidNameError
from .output import err, print_json, print_rows
from .rows import cell
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, expanded, opened, store_and

# The first characters of a vector: JSON, or a file that holds it.
_GIVEN = ("[", "{", "@")


class _Options(TypedDict):
    """The options of searches of every kind."""

    where: str | None
    limit: int
    select: list[str] | None
    min_score: float | None
    group_by: str | None
    per_group: int


class SearchCommand(TyperCommand):
    """Lets ``--vector`` stand without a value: then it says how to search for the words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for i, arg in enumerate(args[:end]):
            if arg == "--vector" and not (i + 1 < end and args[i + 1].lstrip().startswith(_GIVEN)):
                args[i] = "--vector="
        return super().parse_args(ctx, args)


@failing_clearly
def search(
    first: Store = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help="The table; without a STORE, the TOML file names the store.",
            show_default=False,
        ),
    ] = None,
    third: Annotated[
        str | None,
        typer.Argument(
            metavar="WORDS",
            help="The words to search for, behind -- where they begin with a minus; with --vector "
            "they may be a vector as a JSON array.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Search by keywords only.")] = False,
    hybrid: Annotated[
        bool,
        typer.Option("--hybrid", help="Search by keywords and by the vector of the words."),
    ] = False,
    vector: Annotated[
        str | None,
        typer.Option(
            help="Search by the vector alone that the table's embedder makes of the words; or, "
            "without words, by this vector: a JSON array, or @FILE that holds one.",
            metavar="[JSON|@FILE]",
            show_default=False,
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Search with the vector of this row.", show_default=False),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Only rows that the filter selects: \"year >= 2024 AND lang = 'en'\".",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many hits.")] = 10,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELDS",
            help="Fields to show, separated by commas or repeated.",
            show_default=False,
        ),
    ] = None,
    any_word: Annotated[
        bool, typer.Option("--any", help="For keywords: one matching word is enough.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(help="Only hits of at least this score.", show_default=False),
    ] = None,
    max_distance: Annotated[
        float | None,
        typer.Option(
            help="Only hits at most this far from the vector; not for keywords alone.",
            show_default=False,
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="A field or payload.<key>: the best rows of each of the best --limit values.",
            show_default=False,
        ),
    ] = None,
    per_group: Annotated[
        int, typer.Option(min=1, help="How many hits of each group, with --group-by.")
    ] = 1,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Show the best rows for words, or the nearest to a vector or a stored row, best first.

    For words, the table's schema decides: keywords where it has text fields, the vector of the
    words where it has an embedder, and both where it has both.
    """
    by_vector, vector = vector == "", vector or None
    if like is not None and (by_vector or vector is not None):
        raise typer.BadParameter("pass only one of --vector and --like")
    fields = None if select is None else [n.strip() for part in select for n in part.split(",")]
    options: _Options = {
        "where": where, "limit": limit, "select": fields, "min_score": min_score,
        "group_by": group_by, "per_group": per_group,
    }  # fmt: skip
    if vector is None and like is None:
        # Two arguments are a table and words, unless the first can only be a store.
        if first is None or second is None or (third is None and not _is_table(first)):
            raise typer.BadParameter("pass a TABLE and WORDS, or --vector or --like")
        store, table, words = (None, first, second) if third is None else (first, second, third)
        modes = {"text": text, "hybrid": hybrid, "vector": by_vector}
        chosen = [mode for mode, wanted in modes.items() if wanted]
        if len(chosen) > 1:
            raise typer.BadParameter("pass only one of --text, --hybrid and --vector")
        if by_vector:
            if any_word:
                raise typer.BadParameter("--any is for keywords")
            work = _search(store, config, table, _query(words), None, max_distance, options)
        else:
            mode = chosen[0] if chosen else None
            work = _by_words(
                store, config, table, words, mode, max_distance, options, any_word=any_word
            )
        hits, seconds = run(work)
    else:
        if third is not None or text or hybrid:
            raise typer.BadParameter("pass either WORDS, or --vector or --like")
        if any_word:
            raise typer.BadParameter("--any is for keywords")
        store, table = store_and(first, second, "a TABLE")
        query = None if vector is None else _query(vector)
        hits, seconds = run(_search(store, config, table, query, like, max_distance, options))
    if json:
        print_json({"hits": [hit.to_dict() for hit in hits], "seconds": round(seconds, 6)})
        return
    _show(hits)
    console = err()
    if console.is_terminal:
        console.print(f"{len(hits)} hits in {seconds * 1000:.1f} ms")


def _is_table(name: str) -> bool:
    try:
        check_table_name(name)
    except InvalidNameError:
        return False
    return True


def _query(given: str) -> str | list[float]:
    return _read_vector(given) if given.lstrip().startswith(_GIVEN) else given


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


async def _search(
    store: str | None,
    config: str | None,
    table: str,
    vector: Any,
    like: str | None,
    max_distance: float | None,
    options: _Options,
) -> tuple[list[Hit], float]:
    async with opened(store, config, reading=True) as vectors:
        if isinstance(vector, str) and (await vectors.schema(table)).embed is None:
            raise InvalidArgumentError(
                "--vector", vector,
                f"a JSON array of numbers or @FILE, for the table {table!r} has no embedder",
            )  # fmt: skip
        began = time.perf_counter()
        if like is None:
            hits = await vectors.search(table, vector, max_distance=max_distance, **options)
        else:
            try:
                hits = await vectors.search_like(table, like, max_distance=max_distance, **options)
            except InvalidArgumentError as exc:
                if exc.argument != "id":
                    raise
                raise InvalidArgumentError("--like", like, exc.expected) from exc
        return hits, time.perf_counter() - began


async def _by_words(
    store: str | None,
    config: str | None,
    table: str,
    words: str,
    mode: str | None,
    max_distance: float | None,
    options: _Options,
    *,
    any_word: bool,
) -> tuple[list[Hit], float]:
    async with opened(store, config, reading=True) as vectors:
        schema = await vectors.schema(table)
        by_text = any(field.text for field in schema.fields.values())
        if mode is None:
            if not by_text and schema.embed is None:
                raise InvalidArgumentError(
                    "words", words,
                    f"--vector or --like: the table {table!r} has no field with text=True, and no "
                    "embedder",
                )  # fmt: skip
            mode = "vector" if not by_text else "text" if schema.embed is None else "hybrid"
        if max_distance is not None and mode == "text":
            raise typer.BadParameter("--max-distance is not for keywords alone")
        if any_word and mode == "vector":
            raise typer.BadParameter("--any is for keywords")
        began = time.perf_counter()
        hits: list[Hit]
        if mode == "text":
            hits = await vectors.search_text(table, words, any=any_word, **options)
        elif mode == "hybrid":
            try:
                hits = await vectors.search_hybrid(
                    table, words, max_distance=max_distance, **options
                )
            except EmbeddingError as exc:
                raise AiovecError(
                    f"{exc}. Here --config names the TOML file; --text searches by keywords alone"
                ) from exc
        else:
            hits = await vectors.search(table, words, max_distance=max_distance, **options)
        return hits, time.perf_counter() - began


def _show(hits: list[Hit]) -> None:
    names = list(dict.fromkeys(name for hit in hits for name in hit.fields))
    print_rows(
        ["score", "id", *names],
        [[f"{hit.score:.4f}", hit.id, *(cell(hit.fields.get(n)) for n in names)] for hit in hits],
        right=["score"],
    )
