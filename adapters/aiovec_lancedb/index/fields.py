"""The filter indexes and keyword indexes that the schema's fields need.

Each index is created with its column, while the column is empty. Searches scan later rows until
upkeep adds them to the index. Only the vector index has to wait for rows. A filter index makes
filters faster, and never changes a result. A keyword index also defines how Lance splits texts into
words, both in rows that the index covers and in all other rows, so even an empty index is useful.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from aiovec.backend import LANGUAGES, Field

from ..driver import indexing
from ..session import Session


def config_of(field: Field) -> Any:
    """Return lancedb's configuration for the field's filter index; None if the field needs none.

    Lance has no bitmap indexes over floats and times. Its index for CONTAINS covers lists, except
    lists of floats.
    """
    if field.is_list:
        return None if field.item_kind == "float" else indexing.LabelList()
    if field.index == "bitmap" and field.kind not in ("float", "datetime"):
        return indexing.Bitmap()
    return None if field.index is None else indexing.BTree()


GRAMS = {"ngram": 3, "cjk": 2}
"""For each analyzer whose index has n-grams instead of words, the characters of an n-gram."""


def text_config(analyzer: str) -> Any:
    """Return lancedb's configuration for a keyword index.

    The index contains words of any length, including stop words. It also contains the positions of
    the words, because phrase queries need them.
    """
    return indexing.FTS(
        with_position=True,
        base_tokenizer="ngram" if analyzer in GRAMS else "simple",
        ngram_min_length=GRAMS.get(analyzer, 3),
        ngram_max_length=GRAMS.get(analyzer, 3),
        max_token_length=None,
        language=analyzer.capitalize() if analyzer in LANGUAGES else "English",
        stem=analyzer not in ("plain", *GRAMS),
        remove_stop_words=False,
    )


def configs_of(field: Field, analyzer: str) -> list[Any]:
    """Return lancedb's configuration for each index that the field needs."""
    texts = [text_config(analyzer)] if field.text else []
    return [config for config in (config_of(field), *texts) if config is not None]


def index_name(indexes: Iterable[Any], column: str, config: Any) -> str | None:
    """Return the name for a keyword index; None for other indexes, which Lance names.

    A field can have a filter index and a keyword index.
    """
    if not serves_text(_type_of(config)):
        return None
    # If a field is renamed, its index keeps the old name.
    taken = set()
    for index in indexes:
        if index.columns == [column] and serves_text(index.index_type):
            return str(index.name)
        taken.add(index.name)
    names = (f"{column}_text{'' if n == 1 else f'_{n}'}" for n in count(1))
    return next(name for name in names if name not in taken)


async def index_fields(
    session: Session, lance: Any, fields: Mapping[str, Field], analyzer: str
) -> None:
    """Create the indexes that the fields need and the table lacks."""
    indexes = await session.run(lance.list_indices())
    for name, config in lacking(indexes, fields, analyzer):
        named = index_name(indexes, name, config)
        await session.run(lance.create_index(name, config=config, name=named))


def lacking(
    indexes: Iterable[Any], fields: Mapping[str, Field], analyzer: str, *, whole: bool = False
) -> list[tuple[str, Any]]:
    """Return the column and the configuration of each index that a field needs but lacks.

    With ``whole``, an index that does not cover all rows counts as lacking.
    """
    existing = {
        (column, serves_text(index.index_type))
        for index in indexes
        for column in index.columns
        if not (whole and index.num_unindexed_rows)
    }
    return [
        (name, config)
        for name, field in fields.items()
        for config in configs_of(field, analyzer)
        if (name, serves_text(_type_of(config))) not in existing
    ]


async def drop_unwanted(session: Session, lance: Any, name: str, field: Field) -> None:
    """Drop the indexes that a field does not need."""
    wanted = [_type_of(config) for config in configs_of(field, "plain")]
    for index in await session.run(lance.list_indices()):
        if index.columns == [name] and index.index_type not in wanted:
            await session.run(lance.drop_index(index.name))


def text_columns(indexes: Iterable[Any]) -> dict[str, int]:
    """Return, for each column with a keyword index, how many rows the index does not cover."""
    return {
        index.columns[0]: int(index.num_unindexed_rows or 0)
        for index in indexes
        if serves_text(index.index_type)
    }


def serves_text(index_type: str) -> bool:
    """Return whether indexes of this type are keyword indexes. Other indexes are for filters."""
    return index_type == indexing.FTS.__name__


def _type_of(config: Any) -> str:
    """Return Lance's name for the type of an index with this configuration."""
    return type(config).__name__
