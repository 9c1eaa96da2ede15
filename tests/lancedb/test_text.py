"""Keyword search in every state of a table's text index, and what could break it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import lancedb
import pytest
from tests.harness.text_oracle import matching_ids
from tests.lancedb.support import ROOT, opened, run_code

from aiovec import Field, Schema, VectorStore, connect
from aiovec._text.query import parse
from aiovec.backend import Columns, TextClause, TextQuery
from aiovec.errors import InvalidArgumentError, UnsupportedError
from aiovec_lancedb.index import fields
from aiovec_lancedb.limits import IndexLimits, Limits, UpkeepLimits
from aiovec_lancedb.text import clauses

TEXTS = Schema(
    2, fields={"title": Field(str, text=True), "body": Field(str, text=True), "year": int}
)
GRAMS = Schema(2, fields={"body": Field(str, text=True)}, analyzer="ngram")
WORDS = [
    "wool",
    "cat",
    "the",
    "Café",
    "don't",
    "e-mail",
    "x42",
    "ünder",
    "zoo",
    "hat",
    "b",
    "Ørsted",
]


def row(id: str, title: str | None, body: str | None, year: int = 0) -> dict[str, Any]:
    return {"id": id, "embedding": [1.0, 2.0], "title": title, "body": body, "year": year}


async def found(store: VectorStore, query: str, **options: Any) -> list[str]:
    hits = await store.search_text("notes", query, limit=100_000, select=[], **options)
    return sorted(hit.id for hit in hits)


async def raw(place: Path) -> Any:
    return await (await lancedb.connect_async(str(place))).open_table("notes")


async def without_index(place: Path) -> None:
    """Make the table one of an earlier release, which made no index of texts."""
    table = await raw(place)
    for index in await table.list_indices():
        if index.index_type == "FTS":
            await table.drop_index(index.name)


async def text_indexes(store: VectorStore) -> dict[str, tuple[int, int]]:
    return {
        info.column: (info.rows_indexed, info.rows_unindexed)
        for info in await store.indexes("notes")
        if info.kind == "text"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))]
)
async def test_each_state_of_the_index_finds_the_same(
    store: VectorStore, tmp_path: Path, seed: int
) -> None:
    """Rows that came, changed and went before and behind compactions, and filters over them."""
    chance = random.Random(seed)
    rows: dict[str, dict[str, Any]] = {}
    await store.create_table("notes", TEXTS)

    def text() -> str | None:
        words = chance.choices(WORDS, k=chance.choice([0, 1, 3, 12]))
        return None if chance.random() < 0.1 else " ".join(words)

    def drawn(ids: list[str]) -> list[dict[str, Any]]:
        return [row(id, text(), text(), chance.randrange(9)) for id in ids]

    async def change(kind: str) -> None:
        known = chance.sample(sorted(rows), min(len(rows), 30))
        if kind == "insert":
            new = drawn([f"r{len(rows)}-{chance.random()}" for _ in range(chance.choice([1, 80]))])
            await store.insert("notes", new)
            rows.update((one["id"], one) for one in new)
        elif kind == "upsert":
            new = drawn(known)
            await store.upsert("notes", new)
            rows.update((one["id"], one) for one in new)
        elif kind == "delete":
            await store.delete("notes", known[:10])
            for id in known[:10]:
                del rows[id]
        elif kind == "update":
            year = chance.randrange(9)
            await store.update("notes", {"title": "wool the hat"}, where=f"year = {year}")
            for one in rows.values():
                if one["year"] == year:
                    one["title"] = "wool the hat"
        elif kind == "half":  # one of the two indexes covers nothing, as after a kill
            config = fields.text_config(TEXTS.analyzer)
            options = {"name": "title_text", "replace": True, "train": False}
            await (await raw(tmp_path / "store")).create_index("title", config=config, **options)
        else:
            await store.optimize("notes")

    def query() -> str:
        parts = []
        for _ in range(chance.randrange(1, 4)):
            words = " ".join(chance.choices(WORDS, k=chance.choice([1, 1, 2])))
            field = chance.choice(["", "", "title:", "body:"])
            parts.append(chance.choice(["", "", "-"]) + field + f'"{words}"')
        return " ".join(parts)

    kinds = ["insert", "upsert", "delete", "update", "optimize", "half"]
    for kind in ["insert", *chance.choices(kinds, k=10)]:
        await change(kind)
        for _ in range(12):
            asked, any_word = query(), chance.random() < 0.4
            year = chance.choice([None, 2, 7])
            selected = [one for one in rows.values() if year is None or one["year"] < year]
            wanted = matching_ids(selected, TEXTS, parse(asked, TEXTS), any_word)
            where = None if year is None else f"year < {year}"
            assert await found(store, asked, any=any_word, where=where) == sorted(wanted), asked
            limit = chance.choice([1, 5])
            every = await store.search_text(
                "notes", asked, any=any_word, where=where, limit=100_000
            )
            best = await store.search_text("notes", asked, any=any_word, where=where, limit=limit)
            scores = [hit.score for hit in every[:limit]]
            assert [hit.score for hit in best] == pytest.approx(scores)


@pytest.mark.slow
@pytest.mark.parametrize("compacted", [False, True])
async def test_more_conditions_than_lance_can_plan(store: VectorStore, compacted: bool) -> None:
    """As one query of Lance, these overflow the stack of a thread, which ends the process."""
    await store.create_table("notes", TEXTS)
    words = [f"w{n}" for n in range(400)]
    rows = [
        row("all", " ".join(words[:200]), " ".join(words[200:])),
        row("but one", " ".join(words[1:]), None),
        row("pairs", " ".join(words), "q1 q2"),
        row("none", "other", "q1 q2"),
    ]
    await store.insert("notes", rows)
    if compacted:
        await store.optimize("notes")
    queries = [
        (" ".join(words), False),
        (" ".join(words), True),
        (" ".join(f'"{a} {b}"' for a, b in pairwise(words)), False),
        (" ".join(f'"{a} {b}"' for a, b in pairwise(words)), True),
        (f"q1 {' '.join(f'-{word}' for word in words)}", False),
        ("q1 " + " ".join(f'-"{a} {b}"' for a, b in pairwise(words)), False),
        (" ".join(f"title:{word}" for word in words), False),
        ("w1 " + " ".join(f'"{a} x" -"x {a}"' for a in words[:200]), True),
    ]
    # Without an index Lance looks at each row by itself: slower, and fewer ways to plan a query.
    for query, any_word in queries if compacted else queries[1::3]:
        clauses_of_it = parse(query, TEXTS)
        expected = matching_ids(rows, TEXTS, clauses_of_it, any_word)
        assert await found(store, query, any=any_word) == sorted(expected), query[:40]


async def test_parts_are_ranked_as_one_query_is(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create_table("notes", TEXTS)
    chance = random.Random(5)
    texts = [" ".join(chance.choices(WORDS, k=12)) for _ in range(200)]
    await store.insert("notes", [row(f"r{n:03}", text, texts[-n]) for n, text in enumerate(texts)])
    for query, any_word in (
        ("wool cat hat -zoo", False), ('"wool cat" "cat wool" hat "the zoo"', True),
        ("wool cat title:hat body:b", False),
    ):  # fmt: skip
        whole = await store.search_text("notes", query, any=any_word, limit=30)
        with monkeypatch.context() as patched:
            for name in ("clauses", "search"):
                patched.setattr(sys.modules[f"aiovec_lancedb.text.{name}"], "MOST", 1)
            parts = await store.search_text("notes", query, any=any_word, limit=30)
        assert len(whole) > 3
        assert [hit.score for hit in parts] == pytest.approx([hit.score for hit in whole])


async def test_a_table_of_an_earlier_release(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        await store.create_table("notes", TEXTS)
        await store.insert("notes", [row("a", "Wool", "the cats"), row("b", None, "wool cat")])
    await without_index(tmp_path / "store")
    async with connect(f"lancedb://{tmp_path / 'store'}", read_only=True) as reading:
        with pytest.raises(UnsupportedError, match="open the store for writing once"):
            await reading.search_text("notes", "wool")
    async with opened(tmp_path / "store") as store:
        assert await found(store, "wool") == ["a", "b"]
        assert await found(store, '"the cats"') == ["a"]
        assert set(await text_indexes(store)) == {"title", "body"}
    async with connect(f"lancedb://{tmp_path / 'store'}", read_only=True) as reading:
        assert await found(reading, "wool -cat") == ["a"]


async def test_an_early_table_is_indexed_without_a_search(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        await store.create_table("notes", TEXTS)
        await store.insert("notes", [row(f"r{n}", "wool", f"cat n{n}") for n in range(700)])
    await without_index(tmp_path / "store")
    limits = Limits(upkeep=UpkeepLimits(quiet=0.05, rest=0.0, unindexed=100))
    async with opened(tmp_path / "store", limits) as store:
        await store.count("notes")
        async with asyncio.timeout(30):
            while await text_indexes(store) != {"title": (700, 0), "body": (700, 0)}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await found(store, "n42") == ["r42"]


async def test_many_rows_are_indexed_beside_the_writes(tmp_path: Path) -> None:
    limits = Limits(index=IndexLimits(look_after=1, texts_from=200, lull=0.05))
    async with opened(tmp_path / "store", limits) as store:
        await store.create_table("notes", TEXTS)
        await store.insert("notes", [row(f"r{n}", "wool", f"cat n{n}") for n in range(300)])
        async with asyncio.timeout(30):
            while await text_indexes(store) != {"title": (300, 0), "body": (300, 0)}:
                await store.upsert("notes", [row("r5", "wool", "cat n5")])
                await asyncio.sleep(0.2)
                if (await text_indexes(store))["body"][1] < 200:
                    break
        assert await found(store, "n42") == ["r42"]
        assert await found(store, "wool n5") == ["r5"]


async def test_a_text_index_is_kept_beside_another(store: VectorStore, tmp_path: Path) -> None:
    schema = Schema(2, fields={"body": Field(str, text=True, index="btree")})
    await store.create_table("notes", schema)
    await store.insert("notes", [{"id": "a", "embedding": [1.0, 2.0], "body": "wool hat"}])
    assert {info.kind for info in await store.indexes("notes")} == {"btree", "text"}
    for info in await store.indexes("notes"):
        if info.kind == "text":
            with pytest.raises(InvalidArgumentError, match="drop_field_index") as caught:
                await store.drop_index("notes", info.name)
            assert caught.value.argument == "name"
        else:
            await store.drop_index("notes", info.name)
    await store.optimize("notes")
    assert [info.kind for info in await store.indexes("notes")] == ["text"]
    assert await found(store, "hat") == ["a"]
    await without_index(tmp_path / "store")
    assert await found(store, "hat") == ["a"]
    assert [info.kind for info in await store.indexes("notes")] == ["text"]


async def test_text_is_turned_on_and_off(store: VectorStore) -> None:
    await store.create_table("notes", Schema(2, fields={"body": str}, analyzer="english"))
    rows = [{"id": f"r{n}", "embedding": [1.0, n], "body": f"running n{n}"} for n in range(300)]
    await store.insert("notes", rows)
    await store.create_field_index("notes", "body", "text")
    assert await text_indexes(store) == {"body": (300, 0)}
    assert len(await found(store, "runs")) == 300
    await store.add_field("notes", "more", Field(str, text=True))
    assert set(await text_indexes(store)) == {"body", "more"}
    await store.update("notes", {"more": "wool"}, ids=["r7"])
    assert await found(store, "wool run") == ["r7"]
    await store.drop_field_index("notes", "body")
    assert set(await text_indexes(store)) == {"more"}
    assert await found(store, "run") == []
    await store.optimize("notes")
    assert set(await text_indexes(store)) == {"more"}


async def test_words_of_any_length(store: VectorStore) -> None:
    await store.create_table("notes", TEXTS)
    long, longer = "x" * 90_000, "y" * 3_000_000
    await store.insert("notes", [row("a", long, None), row("b", longer, f"{long}x wool")])
    for _ in range(2):
        assert await found(store, long) == ["a"]
        assert await found(store, f"wool -{long}") == ["b"]
        assert await found(store, long[1:]) == []
        await store.optimize("notes")


async def test_letters_that_lance_folds(store: VectorStore) -> None:
    """Each of these is a difference to SQLite that ``docs/LANCEDB.md`` names."""
    await store.create_table("notes", TEXTS)
    await store.insert("notes", [
        row("letters", "Straße ærø Łódź", "Ørsted"), row("greek", "Ωμέγα", "Чай й"),
        row("apart", "re\u0301sume\u0301", None), row("two", None, "re sume"),
        row("signs", "x² nª Ⓐ ﬁx \uff21\uff22", None), row("cases", "İstanbul ΟΔΟΣ", "τέλος"),
        row("young", "თბილ", None), row("parts", "ọ\u0301jọ", None),
    ])  # fmt: skip
    for _ in range(2):
        for query, ids in (
            ("strasse", ["letters"]), ("straße", ["letters"]), ("aero", ["letters"]),
            ("lodz orsted", ["letters"]), ("ωμέγα", ["greek"]), ("ωμεγα", []), ("чаи", []),
            ("résumé", ["apart", "two"]), ("re\u0301sume\u0301", ["apart", "two"]), ("resume", []),
            ("-résumé re", []), ("x2", ["signs"]), ("na", ["signs"]), ("a", ["signs"]),
            ("fix", ["signs"]), ("ab", ["signs"]), ("istanbul", []), ("İstanbul", ["cases"]),
            ("οδος", []), ("οδοσ", ["cases"]), ("τέλοσ", []), ("τέλος", ["cases"]),
            ("თბილ", ["young"]), ("ᲗᲑᲘᲚ", ["young"]), ("ojo", []), ("ọ\u0301jọ", ["parts"]),
        ):  # fmt: skip
            assert await found(store, query) == ids, query
        await store.optimize("notes")
    english = Schema(2, fields={"body": Field(str, text=True)}, analyzer="english")
    await store.create_table("more", english)
    rows = [{"id": id, "embedding": [1.0, 2.0], "body": id} for id in ("résumé", "resumes")]
    await store.insert("more", rows)
    for query, ids in (("résumé", ["résumé"]), ("resume", ["resumes"])):
        assert [hit.id for hit in await store.search_text("more", query)] == ids


async def test_parts_that_differ_from_those_of_sqlite(store: VectorStore) -> None:
    """Each of these is a difference that ``docs/LANCEDB.md`` names."""
    await store.create_table("notes", GRAMS)
    texts = {"nul": "foo\0bar", "long": "\u017fize 5\u00b5m", "parts": "ọ\u0301jọ"}
    await store.insert(
        "notes", [{"id": id, "embedding": [1.0, 2.0], "body": text} for id, text in texts.items()]
    )
    for query in ("foobar", "size", "5μm", "ojo"):
        assert await found(store, query) == [], query
    for id, text in texts.items():
        if id != "nul":  # which no query may hold
            assert await found(store, text) == [id], text


@pytest.mark.slow
async def test_parts_of_words_in_every_state(store: VectorStore) -> None:
    """Also where most of the candidates that grams select do not match."""
    await store.create_table("notes", GRAMS)
    chance = random.Random(3)
    texts = ["".join(chance.choices("abcé ", k=chance.randrange(30))) for _ in range(400)]
    rows = [{"id": f"r{n}", "embedding": [1.0, n], "body": text} for n, text in enumerate(texts)]
    await store.insert("notes", rows[:300])
    await store.optimize("notes")
    await store.insert("notes", rows[300:])
    for n in range(40):
        query = " ".join(
            chance.choice(["", "", "-"]) + f'"{"".join(chance.choices("abcéE", k=length))}"'
            for length in chance.choices([1, 2, 3, 4, 5], k=chance.randrange(1, 4))
        )
        for any_word in (False, True):
            expected = matching_ids(rows, GRAMS, parse(query, GRAMS), any_word)
            assert await found(store, query, any=any_word) == sorted(expected), query
            best = await store.search_text("notes", query, any=any_word, limit=3)
            assert len(best) == min(3, len(expected))
            assert n or all(hit.score > 0 for hit in best)


async def test_without_fts5_there_are_no_highlights(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create_table("notes", TEXTS)
    await store.insert("notes", [row("a", "wool", None)])

    class Bare(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("no such module: fts5")

    connected = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda place: connected(place, factory=Bare))
    with pytest.raises(UnsupportedError, match="FTS5"):
        await store.search_text("notes", "wool", highlight=True)
    assert await found(store, "wool") == ["a"]


async def test_highlights_of_a_thousand_words(store: VectorStore) -> None:
    await store.create_table("notes", TEXTS)
    words = [f"w{n}" for n in range(1_000)]
    await store.insert("notes", [row("a", " ".join(words[:50]), words[999])])
    (hit,) = await store.search_text("notes", " ".join(words), any=True, highlight=True)
    assert hit.highlights["body"] == "<mark>w999</mark>"
    assert hit.highlights["title"].startswith("<mark>w0</mark> <mark>w1</mark>")


async def test_searches_beside_upserts_and_compactions(tmp_path: Path) -> None:
    """Each row is found by its present words alone, whatever upkeep does meanwhile."""
    async with opened(tmp_path / "store") as store:
        await store.create_table("notes", TEXTS)
        ids = [f"r{n}" for n in range(40)]
        await store.insert("notes", [row(id, "wool", "turn0") for id in ids])
        over = False

        async def write() -> None:
            for turn in range(1, 16):
                await store.upsert("notes", [row(id, "wool", f"turn{turn}") for id in ids])

        async def tidy() -> None:
            while not over:
                await store.optimize("notes")

        async def read() -> None:
            while not over:
                assert await found(store, "wool") == sorted(ids)
                every = await found(store, " ".join(f"turn{n}" for n in range(16)), any=True)
                assert every == sorted(ids)
                assert len(await found(store, "turn3")) in (0, 40)

        tasks = [asyncio.ensure_future(work()) for work in (tidy, read, read)]
        try:
            await write()
        finally:
            over = True
            await asyncio.gather(*tasks)
        assert await found(store, "turn14") == []
        assert await found(store, "turn15") == sorted(ids)


_WRITER = """
import asyncio, sys
from aiovec import connect
async def main():
    async with connect("lancedb://" + sys.argv[1]) as store:
        for n in range(20):
            row = {"id": f"r{n}", "embedding": [1.0, n], "body": f"wool of{n}"}
            await store.upsert("notes", [row])
            hits = await store.search_text("notes", f"of{n}")
            assert [hit.id for hit in hits] == [f"r{n}"], (n, hits)
            if n % 7 == 6:
                await store.optimize("notes")
    print("done")
asyncio.run(main())
"""


async def test_another_process_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        await store.create_table("notes", TEXTS)
        writing = asyncio.ensure_future(run_code(_WRITER, str(tmp_path / "store")))
        seen = 0
        while not writing.done():
            count = len(await found(store, "wool"))
            assert count >= seen
            seen = count
        assert (await writing).strip() == "done"
        assert len(await found(store, "wool")) == 20


_BUILDER = """
import asyncio, sys
from aiovec import connect
async def main():
    async with connect("lancedb://" + sys.argv[1]) as store:
        print("ready", flush=True)
        while True:
            await store.create_field_index("notes", "body", "text")
            await store.drop_field_index("notes", "body", "text")
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_build_that_is_killed(tmp_path: Path) -> None:
    """Whatever was done of it, the table works, and turning text on makes the index."""
    place = tmp_path / "store"
    async with opened(place) as store:
        await store.create_table("notes", Schema(2, fields={"body": str}))
        words = [{"id": f"r{n}", "embedding": [1.0, n], "body": f"wool n{n}"} for n in range(5_000)]
        await store.insert("notes", words)
    chance = random.Random(1)
    for _ in range(4):
        process = await asyncio.to_thread(
            subprocess.Popen, [sys.executable, "-c", _BUILDER, str(place)], cwd=ROOT,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        await asyncio.sleep(chance.random() * 0.3)
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        process.stdout.close()
        async with opened(place) as store:
            assert await store.count("notes") == 5_000
            if (await store.schema("notes")).fields["body"].text:
                assert await found(store, "n42") == ["r42"]
            await store.create_field_index("notes", "body", "text")
            assert await found(store, "n42 wool") == ["r42"]
            await store.optimize("notes")
            assert await text_indexes(store) == {"body": (5_000, 0)}
            await store.drop_field_index("notes", "body", "text")


def test_conditions_are_packed() -> None:
    """No part has more conditions than Lance is asked at once, and none is lost."""
    schema = Schema(2, fields={f"f{n}": Field(str, text=True) for n in range(5)})
    words = [f"w{n}" for n in range(100)]
    query = TextQuery(tuple(map(TextClause, words)), 10, None, Columns(()))
    conditions = clauses.conditions_of(schema, query)
    assert conditions.count == 500
    parts = conditions.parts()
    assert len(parts) == 9
    shown = str(parts)
    assert all(f"'{word}'" in shown for word in words)
