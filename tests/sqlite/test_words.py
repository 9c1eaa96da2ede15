"""Keyword search by lists of words in memory: the same answers as FTS5's, whatever is written."""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.cases import case
from tests.harness.command import run
from tests.harness.processes import output_of, python
from tests.harness.waiting import until
from tests.sqlite.support import opened, sql

import aiovec
from aiovec import Field, Schema, VectorStore

DIM = 4
MALLOC_DEBUG = next((str(p) for p in Path("/usr/lib").glob("*/libc_malloc_debug.so.0")), "")
WORDS = [
    *(f"w{n}" for n in range(60)), "the", "of", "running", "runs", "ran", "café", "CAFE", "мир",
    "e-mail", "don't", "x²", "Straße", "häuser", "Häusern", "東京", "\u017fize", "naïve",
]  # fmt: skip
# The first words are common, the last ones rare, as in texts that people write.
SHARES = [1 / (n + 1) for n in range(len(WORDS))]
HOSTILE = [
    "", " ", "…", "\0", "a\0b", "x" * 65_536, "東" * 20_001, '"', '"" *', "AND NOT (", "c1 : w1",
    "w1*w2",
]  # fmt: skip
ANALYZERS = ("plain", "english", "german", "russian", "french")


def drawn(chance: random.Random, mean: float = 12) -> str | None:
    if chance.random() < 0.15:
        return None
    text = " ".join(chance.choices(WORDS, SHARES, k=int(chance.expovariate(1 / mean))))
    return f"{text} {chance.choice(HOSTILE)}" if chance.random() < 0.02 else text


def row(chance: random.Random, number: int) -> dict[str, Any]:
    vector = [chance.random() + 0.1 for _ in range(DIM)] if chance.random() < 0.9 else None
    return {
        "id": f"r{number:05}", "embedding": vector,
        "title": drawn(chance, 3), "body": drawn(chance), "n": chance.randrange(20),
    }  # fmt: skip


def question(chance: random.Random) -> str:
    def clause() -> str:
        word, kind = chance.choices(WORDS, SHARES)[0], chance.random()
        if kind < 0.1:
            word = '"{}"'.format(" ".join(chance.choices(WORDS, SHARES, k=chance.randrange(2, 5))))
        elif kind < 0.17:
            word = word[: chance.randrange(1, 3)] + "*"
        elif kind < 0.2:
            word = chance.choice(HOSTILE)
        if chance.random() < 0.1:
            word = chance.choice(["title:", "body:"]) + word
        return f"-{word}" if chance.random() < 0.08 else word

    return " ".join(clause() for _ in range(chance.randrange(1, 9)))


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every table have files, also in other processes."""
    monkeypatch.setenv("AIOVEC_SCAN_FILE_FROM", "1")


def word_files(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if "-scan-" in path.name)
    return [path for path in files if path.read_bytes()[:16] == b"aiovec word file"]


async def with_file(store: VectorStore, path: Path) -> None:
    """Wait until the words are mapped, and the store counts on the file."""

    async def mapped() -> object:
        await store.search_text("notes", "w1", select=[])
        with sql(path) as db:
            keys = "SELECT 1 FROM aiovec_state WHERE key = 'scan:words:notes'"
            known = db.execute(keys).fetchone()
        return known and (await store.stats("notes")).details["words_file"]

    await until(mapped)


@asynccontextmanager
async def both(path: Path, analyzer: str, rows: list[dict[str, Any]]) -> AsyncIterator[Any]:
    """A store whose words are in memory, and one of the same file that asks FTS5."""
    text = Field(str, text=True)
    fields: dict[str, Any] = {"title": text, "body": text, "n": Field(int, index="btree")}
    async with opened(path) as words, opened(path, scan="disk") as fts5:
        schema = Schema(DIM, fields=fields, analyzer=analyzer, vector_nullable=True)
        await words.create_table("notes", schema)
        await words.insert("notes", rows)
        await in_memory(words)
        yield words, fts5


async def in_memory(store: VectorStore) -> None:
    async def look() -> None:
        await store.search_text("notes", "w1", select=[])

    await look()
    async with asyncio.timeout(120):
        while True:
            if (await store.stats("notes")).details["keywords"] == "in memory":
                return
            await look()
            await asyncio.sleep(0.01)


async def check_same(
    words: VectorStore, fts5: VectorStore, chance: random.Random, turns: int
) -> None:
    for _ in range(turns):
        query, match = question(chance), chance.choice(["best", "any", "all"])
        where = chance.choice([None, None, "n < 10", "n = 3", "id < 'r00100'"])
        asked: dict[str, Any] = {"limit": chance.choice([1, 3, 10, 50, 5_000]), "where": where}
        asked["highlight"] = asked["limit"] < 50
        with case((query, match, asked)):
            if chance.random() < 0.2:
                hits, expected = [
                    await store.search_hybrid("notes", query, [1.0, 2.0, 3.0, 4.0], **asked)
                    for store in (words, fts5)
                ]
            else:
                hits, expected = [
                    await store.search_text("notes", query, match=match, **asked)
                    for store in (words, fts5)
                ]
            assert [hit.id for hit in hits] == [hit.id for hit in expected]
            scores, true = ([hit.score for hit in some] for some in (hits, expected))
            assert scores == pytest.approx(true, rel=1e-9)
            for part in ("distance", "highlights"):
                assert [getattr(hit, part) for hit in hits] == [
                    getattr(hit, part) for hit in expected
                ]


@pytest.mark.parametrize(
    ("analyzer", "files"),
    [
        ("plain", ""),
        ("english", "1"),
        pytest.param("plain", "1", marks=pytest.mark.slow),
        pytest.param("english", "", marks=pytest.mark.slow),
        *(
            pytest.param(name, files, marks=pytest.mark.slow)
            for name in ANALYZERS[2:]
            for files in ("", "1")
        ),
    ],
)
async def test_the_same_as_fts5_amid_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, analyzer: str, files: str
) -> None:
    if files:
        monkeypatch.setenv("AIOVEC_SCAN_FILE_FROM", files)
    if analyzer not in ("plain", "english"):
        pytest.importorskip("Stemmer")
    chance = random.Random(analyzer)
    rows = [row(chance, number) for number in range(800)]
    async with both(tmp_path / "s.db", analyzer, rows) as (words, fts5):
        await check_same(words, fts5, chance, 20)
        changes: list[Callable[[VectorStore], Any]] = [
            lambda store: store.upsert("notes", [row(chance, chance.randrange(900))]),
            lambda store: store.upsert("notes", [row(chance, n) for n in range(460, 520)]),
            lambda store: store.update(
                "notes", {"body": drawn(chance)}, where=f"n = {chance.randrange(20)}"
            ),
            lambda store: store.delete("notes", where=f"id = 'r{chance.randrange(800):05}'"),
            lambda store: store.delete("notes", where=f"n = 7 AND id > 'r0{chance.random()}'"),
            lambda store: store.set_vectors("notes", ["r00001"], [[1.0, 2.0, 3.0, 4.0]]),
        ]
        for _ in range(25):
            await chance.choice(changes)(chance.choice([words, fts5]))
            await check_same(words, fts5, chance, 2)
        assert (await words.stats("notes")).details["keywords"] == "in memory"


@pytest.mark.parametrize(
    "lists", [8, *(pytest.param(lists, marks=pytest.mark.slow) for lists in (2, 40))]
)
@pytest.mark.usefixtures("in_files")
async def test_the_same_as_fts5_with_room_for_few_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: int
) -> None:
    chance = random.Random(lists)
    rows = [row(chance, number) for number in range(1_000)]
    for_changed = 86_000  # a quarter of it takes the index of the changed rows
    memory = 8 * (for_changed + lists * 500)
    monkeypatch.setattr("aiovec_sqlite.store.default_budget", lambda: memory)
    async with both(tmp_path / "s.db", "plain", rows) as (words, fts5):
        await check_same(words, fts5, chance, 60)
        for number in range(6):
            await fts5.upsert("notes", [row(chance, number)])
            await check_same(words, fts5, chance, 10)
        assert (await words.stats("notes")).details["keywords"] == "in memory"


async def test_equal_rows_come_by_id(tmp_path: Path) -> None:
    """Ten times as many as fit into the room of a first try, in a random order of writing."""
    chance = random.Random(1)
    numbers = [*range(3_000)]
    chance.shuffle(numbers)
    rows = [{**row(chance, n), "title": "same", "body": f"text w{n % 2}"} for n in numbers]
    async with both(tmp_path / "s.db", "plain", rows[:2_000]) as (words, fts5):
        await words.insert("notes", rows[2_000:])
        for query in ("same", "w1 same", "w0 w1", "text missing"):
            for limit in (1, 7, 400, 2_999):
                for match in ("all", "any", "best"):
                    hits, expected = [
                        await store.search_text("notes", query, match=match, limit=limit, select=[])
                        for store in (words, fts5)
                    ]
                    with case((query, limit, match)):
                        assert [(hit.id, hit.score) for hit in hits] == [
                            (hit.id, hit.score) for hit in expected
                        ]


async def test_many_changes_are_seen_and_begin_the_lists_anew(tmp_path: Path) -> None:
    chance = random.Random(3)
    rows = [row(chance, number) for number in range(1_000)]
    async with both(tmp_path / "s.db", "plain", rows) as (words, fts5):
        for start in range(0, 6_000, 1_500):
            ids = [f"m{n:05}" for n in range(start, start + 1_500)]
            texts = [drawn(chance) for _ in ids]
            vectors = np.ones((len(ids), DIM), dtype=np.float32)
            await fts5.upsert("notes", {"id": ids, "embedding": vectors, "body": texts})
            await check_same(words, fts5, chance, 5)
        await fts5.delete("notes", where="id < 'n'")
        await check_same(words, fts5, chance, 10)
        await in_memory(words)
        await check_same(words, fts5, chance, 10)
        await words.rename_field("notes", "body", "text")
        await words.add_field("notes", "more", Field(str, text=True))
        await words.update("notes", {"more": "w1 unique"}, ids=["r00001"])
        assert [hit.id for hit in await words.search_text("notes", "unique")] == ["r00001"]
        await in_memory(words)
        assert [hit.id for hit in await words.search_text("notes", "more:unique")] == ["r00001"]


async def test_the_lists_are_begun_anew_after_one_large_insert(tmp_path: Path) -> None:
    chance = random.Random(8)
    rows = [row(chance, number) for number in range(1_000)]
    async with both(tmp_path / "s.db", "plain", rows) as (words, fts5):
        before = (await words.stats("notes")).scan_memory
        await fts5.insert("notes", [row(chance, number) for number in range(1_000, 11_000)])

        async def larger() -> bool:  # by 13 bytes or more for each new row
            await words.search_text("notes", "w1", select=[])
            return (await words.stats("notes")).scan_memory > before + 100_000

        await until(larger, 30)
        await check_same(words, fts5, chance, 10)


@pytest.mark.parametrize("rows", [150, pytest.param(1_000, marks=pytest.mark.slow)])
async def test_a_commit_of_very_many_new_words(tmp_path: Path, rows: int) -> None:
    """Searches do not wait until these are in memory: FTS5 answers."""
    chance = random.Random(12)
    before = [row(chance, number) for number in range(1_000)]
    async with both(tmp_path / "s.db", "plain", before) as (words, fts5):
        bodies = [" ".join(f"w{n}x{number}" for n in range(1_000)) for number in range(rows)]
        added = [{**row(chance, n), "body": body} for n, body in enumerate(bodies, 900)]
        await fts5.upsert("notes", added)
        assert await words.search("notes", [1.0] * DIM)
        assert [hit["body"] for hit in await words.search_text("notes", "w999x7")] == [bodies[7]]
        await check_same(words, fts5, chance, 10)
        await in_memory(words)
        assert [hit["body"] for hit in await words.search_text("notes", "w999x7")] == [bodies[7]]
        await check_same(words, fts5, chance, 10)


async def test_whatever_is_asked_takes_little_memory(tmp_path: Path) -> None:
    chance = random.Random(9)
    rows = [
        {**row(chance, n), "body": f"common {' '.join(f'u{n}x{k}' for k in range(20))}"}
        for n in range(1_000)
    ]
    async with both(tmp_path / "s.db", "plain", rows) as (words, _):
        for n in range(1_000):
            await words.search_text("notes", f"lacking{n} u{n}x1 u{n}x2 u{n}x* missing{n}*")
        assert (await words.stats("notes")).scan_memory < 2**21


# Four tasks write single rows while four others search for what all rows have.
_BOTH_AT_ONCE = """
import asyncio, random, sys, time
import aiovec

chance, ends = random.Random(1), time.monotonic() + 12

def words(count):
    return " ".join(chance.choices("abcdefgh", k=count))

def row(id):
    return {"id": f"{id}", "embedding": [1, 2], "body": words(20)}

async def write(store):
    while time.monotonic() < ends:
        await store.upsert("notes", [row(chance.randrange(600))])

async def search(store):
    while time.monotonic() < ends:
        await store.search_text("notes", words(4))

async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        fields = {"body": aiovec.Field(str, text=True)}
        await store.create_table("notes", aiovec.Schema(2, fields=fields))
        await store.insert("notes", [row(id) for id in range(600)])
        await asyncio.gather(*(call(store) for call in (write, search) for _ in range(4)))

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(not MALLOC_DEBUG, reason="needs glibc's library that checks memory")
def test_searches_beside_writes_free_no_memory_twice(tmp_path: Path) -> None:
    """A row added while fts5vocab reads the changed rows made it do so, and ended the process."""
    checks = {"LD_PRELOAD": MALLOC_DEBUG, "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    output_of("-c", _BOTH_AT_ONCE, tmp_path / "s.db", env=checks)


async def test_a_search_does_not_wait_while_another_reads_long_lists(tmp_path: Path) -> None:
    chance = random.Random(10)
    words_of_rows = [f"w{n}" for n in range(10, 100)]
    rows = [
        {**row(chance, number), "body": " ".join(chance.choices(words_of_rows, k=60))}
        for number in range(10_000)
    ]
    async with both(tmp_path / "s.db", "plain", rows) as (words, _):
        await words.search_text("notes", "w50")
        # Clauses of one field are read from FTS5's index.
        long = " ".join(
            f"body:{word}" for word in [*(f"w{n}*" for n in range(1, 10)), *words_of_rows]
        )
        overtaken = False
        for n in range(20):  # on a busy machine the long one may end first, but not each time
            lacking = f"{long} missing{n}"
            task = asyncio.ensure_future(words.search_text("notes", lacking, match="all"))
            await asyncio.sleep(0.02)
            await words.search_text("notes", "w50", limit=1)
            overtaken = overtaken or not task.done()
            assert await task == []
            if overtaken:
                break
        assert overtaken


async def test_scores_of_phrases_count_every_match(tmp_path: Path) -> None:
    """However often rows of different lengths have the phrase, and whatever changes."""
    chance = random.Random(17)
    rows = [
        {**row(chance, number), "body": f"{'old salt ' * (number % 40)}{'of ' * (number % 7)}sea"}
        for number in range(600)
    ]
    for number, count in ((3, 255), (4, 256), (5, 257), (6, 20_000), (7, 100_000)):
        rows[number]["body"] = "old salt " * count
    rows[8]["title"] = "salt, old salt; old-salt"
    async with both(tmp_path / "s.db", "plain", rows) as (words, fts5):
        for turn in range(2):
            for query in (
                '"old salt"',
                '"salt old"',
                'title:"old salt" sea',
                "body:salt",
                "of-s*",
            ):
                hits, expected = [
                    await store.search_text("notes", query, limit=700, select=[])
                    for store in (words, fts5)
                ]
                with case((turn, query)):
                    assert len(hits) > 0
                    assert [(hit.id, hit.score) for hit in hits] == [
                        (hit.id, hit.score) for hit in expected
                    ]
            await words.upsert("notes", [*rows[5:300:3], {**rows[9], "body": "old salt " * 999}])
        assert (await words.stats("notes")).details["keywords"] == "in memory"


@pytest.mark.slow
async def test_a_word_of_millions_of_places_is_read_in_parts(tmp_path: Path) -> None:
    chance = random.Random(11)
    rows = [
        {**row(chance, number), "body": f"{'the ' * 17_000}w{number % 7} the"}
        for number in range(510)
    ]
    async with both(tmp_path / "s.db", "plain", rows[:500]) as (words, fts5):
        await words.upsert("notes", rows[490:])
        for query in ("the w1", "th* w1", "body:the w2", '"the the w3" w4', '"w5 the"', "-the w1"):
            hits, expected = [
                await store.search_text("notes", query, match="any", limit=20, select=[])
                for store in (words, fts5)
            ]
            with case(query):
                assert [(hit.id, hit.score) for hit in hits] == [
                    (hit.id, pytest.approx(hit.score)) for hit in expected
                ]
        assert (await words.stats("notes")).details["keywords"] == "in memory"


@pytest.mark.usefixtures("small_scan_files")
async def test_a_damaged_scan_file_gives_hybrid_hits_no_wrong_distance(tmp_path: Path) -> None:
    chance, path, count = random.Random(13), tmp_path / "s.db", 8_000
    rows = [{**row(chance, n), "embedding": [1.0, n / count, 0.0, 0.0]} for n in range(count)]
    rows[-1] |= {"body": "unique", "embedding": [-1.0, 0.0, 0.0, 0.0]}
    async with both(path, "plain", rows) as (words, _):

        async def mapped() -> object:
            await words.search("notes", [1.0] * DIM, limit=1)
            return (await words.stats("notes")).details["scan_file"]

        def damage() -> None:
            (file,) = set(tmp_path.glob("*-scan-*")) - set(word_files(tmp_path))
            with file.open("r+b") as opened_file:
                opened_file.seek(-4 * DIM, 2)  # the last row's vector
                opened_file.write(np.full(DIM, np.nan, np.float32).tobytes())

        await until(mapped)
        await in_memory(words)
        await asyncio.to_thread(damage)
        hits = await words.search_hybrid("notes", "unique", [1.0, 0.0, 0.0, 0.0], limit=20)
        assert {hit.id: hit.distance for hit in hits}[rows[-1]["id"]] == 2.0


# Words in a file


@pytest.mark.usefixtures("in_files")
async def test_processes_share_one_file_of_words(tmp_path: Path) -> None:
    chance, path = random.Random(14), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(1_000)]
    async with both(path, "plain", rows) as (words, fts5):
        await with_file(words, path)
        (file,) = word_files(tmp_path)
        others = [python("-c", _SEARCHER, str(path)) for _ in range(2)]
        assert [await asyncio.to_thread(other.wait, 120) for other in others] == [0, 0]
        assert word_files(tmp_path) == [file]
        # It is replaced once enough has changed, and goes with the table.
        await fts5.insert("notes", [row(chance, number) for number in range(2_000, 6_000)])

        async def replaced() -> bool:
            await check_same(words, fts5, chance, 1)
            files = await asyncio.to_thread(word_files, tmp_path)
            return bool(files) and file not in files

        await until(replaced)
        await with_file(words, path)
        await check_same(words, fts5, chance, 20)
        await words.drop_table("notes")
        await until(lambda: not word_files(tmp_path))


@pytest.mark.usefixtures("in_files")
async def test_a_damaged_file_of_words_finds_nothing_wrong(tmp_path: Path) -> None:
    """Found at once, or when a search comes to the part; then another is written."""
    chance, path = random.Random(15), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(1_000)]
    async with both(path, "plain", rows) as (words, fts5):
        await words.close()
        for place in (-3, 18, 4_096, 4_400, "lists", "cut", "gone"):
            with case(place):
                async with opened(path) as words:
                    await with_file(words, path)
                (file,) = word_files(tmp_path)
                content = bytearray(file.read_bytes())
                if isinstance(place, int):
                    content[place] ^= 64
                elif place == "lists":
                    content[4_096:-40_000] = bytes(len(content) - 44_096)
                elif place == "cut":
                    del content[-1:]
                file.unlink()
                if place != "gone":
                    file.write_bytes(content)
                async with opened(path) as again:
                    await check_same(again, fts5, chance, 20)
                findings = run("doctor", path).out
                assert ("damaged" in findings) is (word_files(tmp_path) == [file])


@pytest.mark.usefixtures("in_files")
async def test_a_file_of_words_of_another_state_is_never_used(tmp_path: Path) -> None:
    chance, path = random.Random(16), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(1_000)]
    async with both(path, "plain", rows) as (words, _):
        await with_file(words, path)
    (file,) = word_files(tmp_path)
    copy = file.read_bytes()
    shutil.copy(path, tmp_path / "older.db")
    async with opened(path) as words, opened(path, scan="disk") as fts5:
        await words.rename_field("notes", "body", "text")
        await words.rename_field("notes", "text", "body")
        await words.update("notes", {"title": "w1 w2"}, where="n = 3")
        file.write_bytes(copy)
        await check_same(words, fts5, chance, 30)
        await words.drop_table("notes")
    path.unlink()
    shutil.move(tmp_path / "older.db", path)  # as of a backup: it names the file, and goes on
    async with opened(path) as words, opened(path, scan="disk") as fts5:
        await fts5.update("notes", {"title": "w3 w4"}, where="n = 4")
        await check_same(words, fts5, chance, 30)


@pytest.mark.usefixtures("in_files")
async def test_a_file_of_words_that_is_far_behind_is_replaced(tmp_path: Path) -> None:
    chance, path = random.Random(19), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(8_000)]
    async with both(path, "plain", rows[:1_000]) as (words, fts5):
        await with_file(words, path)
        files = word_files(tmp_path)
        await words.close()
        await fts5.insert("notes", rows[1_000:])
        async with opened(path) as again:
            await check_same(again, fts5, chance, 3)
            await until(lambda: word_files(tmp_path) not in (files, []))
            await with_file(again, path)
            await check_same(again, fts5, chance, 10)
            assert (await again.stats("notes")).details["keywords"] == "in memory"


@pytest.mark.usefixtures("in_files")
async def test_a_process_killed_while_it_writes_words_leaves_nothing_behind(tmp_path: Path) -> None:
    chance, path = random.Random(17), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(3_000)]
    async with both(path, "plain", rows) as (words, fts5):
        await words.close()
        for seconds in (0.0, 0.02, 0.1):
            for file in word_files(tmp_path):
                file.unlink()
            writer = python("-c", _SEARCHER, str(path), "on", stdout=subprocess.PIPE)
            assert writer.stdout is not None
            await asyncio.to_thread(writer.stdout.readline)
            await asyncio.sleep(seconds)
            writer.kill()
            await asyncio.to_thread(writer.communicate)
            async with opened(path) as again:
                await check_same(again, fts5, chance, 5)
        async with opened(path) as again:
            await with_file(again, path)
            await check_same(again, fts5, chance, 10)
            await until(lambda: len(word_files(tmp_path)) == 1)


async def test_words_that_load_while_their_table_is_dropped_are_freed(tmp_path: Path) -> None:
    chance = random.Random(18)
    schema = Schema(DIM, fields={"body": Field(str, text=True)})
    rows = [{"id": str(n), "embedding": [1.0] * DIM, "body": drawn(chance)} for n in range(2_000)]
    async with opened(tmp_path / "s.db") as store:
        gc.collect()
        before = len(await asyncio.to_thread(_tokenizers))
        for turn in range(5):
            await store.create_table("t", schema)
            await store.insert("t", rows)
            await store.search_text("t", "w1", select=[])  # they begin to load
            await asyncio.sleep(turn / 200)
            await store.drop_table("t")
        await until(lambda: len(_tokenizers()) <= before)


def _tokenizers() -> list[Any]:
    return [each for each in gc.get_objects() if type(each).__name__ == "Tokenizer"]


async def test_an_index_of_an_earlier_version_keeps_its_stems_until_optimize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("Stemmer")
    text = {"body": Field(str, text=True)}
    texts = {"a": "informação", "b": "informacao", "c": "educação"}
    texts |= {f"w{n}": f"w1 w{n}" for n in range(600)}  # enough for lists of words in memory
    rows = [{"id": id, "embedding": [1.0] * DIM, "body": body} for id, body in texts.items()]
    with monkeypatch.context() as patch:
        patch.setattr("aiovec_sqlite.stems.stemming_of", str)
        async with opened(tmp_path / "s.db") as store:
            await store.create_table("notes", Schema(DIM, fields=text, analyzer="portuguese"))
            await store.insert("notes", rows[:2])
    async with opened(tmp_path / "s.db") as store:
        await store.insert("notes", rows[2:])
        await store.update("notes", {"body": "informações"}, ids=["a"])
        assert [hit.id for hit in await store.search_text("notes", "informação")] == ["a"]
        assert [hit.id for hit in await store.search_text("notes", "educação")] == ["c"]
        await in_memory(store)
        assert [hit.id for hit in await store.search_text("notes", "informação")] == ["a"]
        await store.optimize("notes")
        hits = await store.search_text("notes", "informacao")
        assert {hit.id for hit in hits} == {"a", "b"}
        await store.delete("notes", ["a", "c"])
        assert [hit.id for hit in await store.search_text("notes", "informações educação")] == ["b"]


async def test_an_index_of_an_earlier_version_keeps_its_letters_until_optimize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also rows that are written later."""
    fields = {"body": Field(str, text=True)}
    texts = ["ﾊﾟｽﾜ", "パスワ", "ﾊﾟｽﾜ"]
    rows = [{"id": f"r{n}", "embedding": [1.0] * DIM, "body": text} for n, text in enumerate(texts)]
    for analyzer in ("plain", "english", "ngram"):
        with case(analyzer):
            path = tmp_path / f"{analyzer}.db"
            with monkeypatch.context() as patch:
                patch.setattr("aiovec_sqlite.stems.stemming_of", str)
                async with opened(path) as store:
                    await store.create_table("notes", Schema(DIM, fields=fields, analyzer=analyzer))
                    await store.insert("notes", rows[:2])
            async with opened(path) as store:
                await store.insert("notes", rows[2:])
                hits = await store.search_text("notes", "ﾊﾟｽﾜ", highlight=("[", "]"))
                assert [hit.id for hit in hits] == ["r0", "r2"]
                assert hits[0].highlights == {"body": "[ﾊﾟｽﾜ]"}
                await store.optimize("notes")
                hits = await store.search_text("notes", "パスワ")
                assert [hit.id for hit in hits] == ["r0", "r1", "r2"]


_SEARCHER = """
import asyncio, sys
import aiovec
async def main(path):
    async with aiovec.connect(path) as store:
        print("open", flush=True)
        while not (await store.stats("notes")).details["words_file"]:
            await store.search_text("notes", "w1 the")
        while len(sys.argv) > 2:
            await asyncio.sleep(0.01)
asyncio.run(main(sys.argv[1]))
"""

_WRITER = """
import asyncio, sys
import aiovec
async def main(path, name):
    async with aiovec.connect(path) as store:
        for n in range(30):
            text = f"w1 the {name}x{n} of w2"
            row = {"id": f"{name}{n % 15}", "embedding": [1.0] * 4, "body": text}
            await store.upsert("notes", [row])
            hits = await store.search_text("notes", f"the of {name}x{n} w1", limit=1)
            assert hits[0]["body"] == text, hits[0]
            if n >= 15:
                hits = await store.search_text("notes", f"{name}x{n - 15}", match="all")
                assert not hits, hits[0]
        assert (await store.stats("notes")).details["keywords"] == "in memory"
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_each_process_sees_each_write(tmp_path: Path) -> None:
    chance, path = random.Random(4), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(2_000)]
    async with both(path, "plain", rows) as (words, fts5):
        writers = [python("-c", _WRITER, str(path), name) for name in ("first", "second")]
        while any(writer.poll() is None for writer in writers):
            hits = await words.search_text("notes", "w1 the of w2", limit=50)
            assert hits[0].score > 0
            await asyncio.sleep(0.01)
        assert [writer.wait(60) for writer in writers] == [0, 0]
        await check_same(words, fts5, chance, 30)


async def test_a_store_opened_for_reading_has_words_in_memory(tmp_path: Path) -> None:
    chance, path = random.Random(5), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(800)]
    async with (
        both(path, "plain", rows) as (_, fts5),
        aiovec.connect(path, read_only=True) as words,
    ):
        await in_memory(words)
        await check_same(words, fts5, chance, 20)
        await fts5.update("notes", {"body": "unique"}, ids=["r00005"])
        assert [hit.id for hit in await words.search_text("notes", "unique")] == ["r00005"]


async def test_cancelled_searches_leave_the_words_usable(tmp_path: Path) -> None:
    chance = random.Random(6)
    rows = [row(chance, number) for number in range(2_000)]
    async with both(tmp_path / "s.db", "plain", rows) as (words, fts5):
        for turn in range(0, 40, 2):
            await words.upsert("notes", [row(chance, n) for n in range(turn, turn + 30)])
            task = asyncio.ensure_future(words.search_text("notes", question(chance), limit=3_000))
            await asyncio.sleep(turn / 10_000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await check_same(words, fts5, chance, 1)


async def test_damage_of_the_index_is_reported(tmp_path: Path) -> None:
    chance, path = random.Random(7), tmp_path / "s.db"
    rows = [row(chance, number) for number in range(1_000)]
    async with both(path, "plain", rows) as (words, _):
        with sql(path) as db:
            (fts,) = db.execute("SELECT fts FROM aiovec_text").fetchone()
            db.execute(f"UPDATE \"{fts}_data\" SET block = x'00ff00ff00ff' WHERE id > 10")
        with pytest.raises(aiovec.CorruptStoreError):
            await words.search_text("notes", '"w1 w2"')
