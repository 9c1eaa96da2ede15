"""Keyword search on its way: text fields, their indexes, and the comparison of their answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.migrate.pairs import PAIRS, Pair, pair_of, upsert
from tests.migrate.support import migrated, rolled_back, write_toml
from tests.migrate.test_verifying import verified

import aiovec
import aiovec_migrate
from aiovec import Field, Schema
from aiovec.backend import Found, StoredRows, TextSearch
from aiovec_migrate import Options
from aiovec_migrate.host import RealHost
from aiovec_migrate.verifying.words import _matches

ANALYZERS = ("plain", "english", "ngram")
TEXTS = [
    "The wool is warm", "running runners ran", "Café résumé naïve re\u0301sume\u0301",
    "don't e-mail", "Straße Łódź Ørsted æon", "universities generously organization", "東京都 x42",
    None, "", "cafe resume naive STRASSE lodz", "wool wool wools", "a b c", "foo_bar C++ 100%",
    "re sume na ve",
]  # fmt: skip


def schema_of(analyzer: Any) -> Schema:
    fields = {"title": Field(str, text=True), "body": Field(str, text=True, index="btree")}
    return Schema(2, fields=fields, analyzer=analyzer)


def rows() -> list[dict[str, Any]]:
    return [
        {"id": f"r{n:02}", "embedding": [1.0, n], "title": text, "body": TEXTS[n - 3]}
        for n, text in enumerate(TEXTS)
    ]


class Unhurried(RealHost):
    """No time passes: else a busy machine asks for fewer words."""

    def now(self) -> float:
        return 0.0


def needs_text(*backends: object) -> None:
    if not all(isinstance(backend, TextSearch) for backend in backends):
        pytest.skip("a backend without keyword search")


@pytest.mark.parametrize("analyzer", ANALYZERS)
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
async def test_engines_agree_where_they_have_to(
    tmp_path: Path, kinds: tuple[str, str], analyzer: str
) -> None:
    """Accents, stems and other letters are folded differently, and that is no difference."""
    async with pair_of(tmp_path, *kinds) as pair:
        needs_text(pair.source, pair.target)
        await pair.fill(schema_of(analyzer), rows())
        (report,) = (await verified(pair, host=Unhurried(), searches=100)).tables
        assert report.keywords is not None
        assert report.keywords.asked >= 12
        assert (report.keywords.unlike, report.keywords.moving) == (0, 0), report.keywords
        assert report.equal


@pytest.mark.parametrize("analyzer", ANALYZERS)
async def test_a_row_that_an_index_lacks_is_reported(tmp_path: Path, analyzer: str) -> None:
    """The rows are the same, but one is not found: no sum of hashes would tell."""
    async with pair_of(tmp_path, "lancedb", "lancedb") as pair:
        await pair.fill(schema_of(analyzer), rows())
        _forget_a_row(pair)
        report = await verified(pair, searches=100)
        (notes,) = report.tables
        assert notes.rows.total == 0
        assert notes.keywords is not None
        assert notes.keywords.unlike >= 1
        assert "r00" in notes.keywords.unlike_ids
        assert not report.equal
        assert "only one store found 'r00'" in report.to_text()
        assert report.to_dict()["tables"][0]["keywords"]["unlike"] >= 1  # type: ignore[index]


def _forget_a_row(pair: Pair) -> None:
    """Answer searches of the target without the row r00."""
    target: Any = pair.target
    search = target.search_text

    async def forgetful(table: Any, query: Any) -> Found:
        found = await search(table, query)
        kept = [n for n, id in enumerate(found.rows.ids) if id != "r00"]
        ids = [found.rows.ids[n] for n in kept]
        return Found(StoredRows(ids, {}), [found.measures[n] for n in kept])

    target.search_text = forgetful


async def test_a_row_found_by_an_old_text_is_reported(tmp_path: Path) -> None:
    async with pair_of(tmp_path, "lancedb", "lancedb") as pair:
        await pair.fill(schema_of("plain"), rows())
        target: Any = pair.target
        search = target.search_text

        async def stale(table: Any, query: Any) -> Any:
            clauses = (*query.clauses, replace(query.clauses[0], text="warm"))
            return await search(table, replace(query, clauses=clauses, any=True))

        target.search_text = stale
        (notes,) = (await verified(pair, searches=100)).tables
        assert notes.keywords is not None
        assert "r00" in notes.keywords.unlike_ids


async def test_rows_that_differ_are_not_told_twice(tmp_path: Path) -> None:
    async with pair_of(tmp_path, "lancedb", "lancedb") as pair:
        await pair.fill(schema_of("plain"), rows())
        await upsert(pair.target, [{**rows()[0], "title": "other"}])
        (notes,) = (await verified(pair, searches=100)).tables
        assert notes.rows.different == 1
        assert notes.keywords is not None
        assert notes.keywords.unlike == 0
        assert notes.keywords.moving >= 1


async def answers(config: Path) -> dict[str, list[str]]:
    """The rows that words find in the store of a TOML file."""
    async with aiovec.connect(config=config) as store:
        if not store.supports("text"):
            pytest.skip("a backend without keyword search")
        found = {
            word: sorted(hit.id for hit in await store.search_text("notes", word, limit=50))
            for word in ("wool", "wool -warm", '"is warm"', "title:running", "foo_bar", "x42")
        }
        if store.supports("indexes"):
            texts = {info.column for info in await store.indexes("notes") if info.kind == "text"}
            assert texts == {"title", "body"}
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [PAIRS[1], pytest.param(PAIRS[2], marks=pytest.mark.soak)], ids="-".join
)
@pytest.mark.parametrize("analyzer", ANALYZERS)
async def test_text_is_carried_there_and_back(
    tmp_path: Path, way: tuple[str, str], analyzer: str
) -> None:
    source, target = way
    config = write_toml(tmp_path, source)
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", schema_of(analyzer))
        await store.insert("notes", rows())
        if store.supports("indexes"):
            await store.optimize("notes")
    before = await answers(config)
    assert len(before["wool"]) == 4
    options = Options(switch=True, batch_size=5)
    await migrated(None, target, config=config, options=options)
    (report,) = (await aiovec_migrate.verify(config=config)).tables
    assert report.equal
    assert report.keywords is not None
    assert report.keywords.asked >= 3
    assert await answers(config) == before
    async with aiovec.connect(config=config) as store:
        assert await store.schema("notes") == schema_of(analyzer)
        await store.upsert("notes", [{**rows()[0], "title": "wool behind"}])
        await store.insert("notes", [{"id": "new", "embedding": [1.0, 2.0], "title": "Wool x42"}])
    changed = await answers(config)
    assert changed["x42"] == sorted([*before["x42"], "new"])
    await rolled_back(config=config)
    assert await answers(config) == changed


async def test_the_plan_tells_of_prefixes(tmp_path: Path) -> None:
    source, target = tmp_path / "a.db", f"lancedb://{tmp_path / 'b.lance'}"
    async with aiovec.connect(source) as store:
        if not store.supports("text-prefix"):
            pytest.skip("a backend without keyword search")
        await store.create_table("notes", schema_of("plain"))
        await store.create_table("vectors", Schema(2))
    plan = await aiovec_migrate.plan(str(source), target)
    (note,) = [note for note in plan.notes if "prefix" in note]
    assert note.endswith("in: notes")
    async with aiovec.connect(target) as store:
        await store.create_table("notes", schema_of("plain"))
    back = await aiovec_migrate.plan(target, str(tmp_path / "c.db"))
    assert not [note for note in back.notes if "prefix" in note]


def test_what_every_engine_has_to_say() -> None:
    plain, english, ngram = map(schema_of, ANALYZERS)
    for word, texts, expected in (
        ("wool", ["Wool!"], (True, True, True)),
        ("woo", ["wool"], (False, None, True)),
        ("wool", ["cat", "dog"], (False, None, False)),
        ("cafe", ["café"], (None, None, None)),
        ("resume", ["re\u0301sume\u0301"], (None, None, None)),
        ("wool", ["café wool"], (True, True, True)),
        ("wool", [], (False, None, False)),
    ):
        found = tuple(_matches(word, texts, schema) for schema in (plain, english, ngram))
        assert found == expected, (word, texts)
