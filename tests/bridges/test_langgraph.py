"""The bridge to LangGraph, compared with LangGraph's own in-memory store."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph.store", reason="needs aiovec[langgraph]")

from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

import aiovec
from aiovec import Decay, Factor, FilterError, InvalidArgumentError, sync
from aiovec_langgraph import AiovecStore

pytestmark = pytest.mark.slow


def letters(texts: list[str]) -> list[list[float]]:
    """Return vectors that count the letters a, b and c."""
    return [[text.count(letter) + 0.01 for letter in "abc"] for text in texts]


INDEX: Any = {"dims": 3, "embed": letters, "fields": ["text"]}
ITEMS: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (("users", "ana"), "food", {"text": "aaa", "n": 1, "deep": {"x": [1, None, {"y": "z"}]}}),
    (("users", "ana"), "work", {"text": "aab", "n": 2, "live": True}),
    (("users", "ben"), "food", {"text": "bbb", "n": 3.5}),
    (("users", "ben", "old"), "food", {"text": "ccc", "n": "4"}),
    (("users2",), "food", {"text": "abc"}),
    (("docs", "v1"), 'odd ["key"].', {}),
]
MANY: Any = {**INDEX, "fields": ["text", "title", "tags[*]"]}
NAMESPACES = [("users",), ("users", "ana"), ("users", "ben"), ("users", "ben", "old"), ("users2",),
              ("docs", "v1"), ("no",)]  # fmt: skip
FILTERS: list[dict[str, Any]] = [
    {}, {"n": 2}, {"n": {"$eq": 3.5}}, {"n": {"$ne": 2}}, {"live": True}, {"n": "4"},
    {"text": "abc", "n": None}, {"n": float("nan")}, {"n": {"$ne": float("nan")}},
]  # fmt: skip
WORDS = ["".join(word) for n in (1, 2, 3, 4) for word in itertools.product("abc", repeat=n)]
LISTINGS: list[dict[str, Any]] = [
    {}, {"prefix": ("users",)}, {"suffix": ("old",)}, {"max_depth": 1},
    {"limit": 2, "offset": 1}, {"prefix": ("users", "*"), "max_depth": 2},
    {"prefix": ("*", "v1")}, {"suffix": ("*", "old")},
]  # fmt: skip


def filled(store: BaseStore) -> BaseStore:
    store.batch([PutOp(*item) for item in ITEMS])
    return store


@pytest.fixture
def ours(store: sync.VectorStore) -> BaseStore:
    return filled(AiovecStore(store, index=INDEX))


def keys(items: Any) -> list[Any]:
    return [(item.namespace, item.key, item.value) for item in items]


def drawn(chance: random.Random) -> dict[str, Any]:
    """Draw the value of an item, with up to five different texts to search."""
    texts = chance.sample(WORDS, 5)
    value: dict[str, Any] = {"text": texts[0], "title": texts[1], "tags": texts[2:]}
    value |= {"n": chance.choice([1, 2, 3.5, "4", None]), "live": chance.random() < 0.5}
    value["deep"] = {"x": [1, None, {"y": "z"}]}
    return {name: value[name] for name in value if chance.random() < 0.7}


@pytest.mark.parametrize("seed", range(3))
def test_it_answers_as_langgraphs_own_store_in_memory(store: sync.VectorStore, seed: int) -> None:
    chance = random.Random(seed)
    both = ours, theirs = AiovecStore(store, index=MANY), InMemoryStore(index=MANY)
    for number in range(40):
        namespace, value = NAMESPACES[number % 6], drawn(chance)
        index: Any = chance.choice([None, None, False, ["title", "deep.x[*].y"]])
        for each in both:
            each.put(namespace, f"k{number}", value, index=index)
            if number % 4 == 3:
                each.delete(namespace, f"k{number}")
    for listing in LISTINGS:  # first, because LangGraph's store also lists searched namespaces
        assert ours.list_namespaces(**listing) == theirs.list_namespaces(**listing), listing
    assert ours.get(("no",), "k0") is theirs.get(("no",), "k0") is None
    for item in theirs.search((), limit=100):
        mine = ours.get(item.namespace, item.key)
        assert mine is not None
        assert (mine.namespace, mine.key, mine.value) == (item.namespace, item.key, item.value)
    for prefix, wanted in itertools.product(NAMESPACES, FILTERS):
        answers = [keys(each.search(prefix, filter=wanted, limit=100)) for each in both]
        assert sorted(answers[0], key=str) == sorted(answers[1], key=str), (prefix, wanted)
    for prefix, query, wanted in itertools.product(NAMESPACES, ("a", "aab", "acc"), FILTERS[:4]):
        options: Any = {"query": query, "filter": wanted, "limit": chance.randint(1, 9)}
        options["offset"] = chance.randrange(3)
        scores = [[item.score for item in each.search(prefix, **options)] for each in both]
        ranked = [score for score in scores[1] if score is not None]
        assert scores[0] == pytest.approx(ranked, abs=1e-5), (prefix, options)
    pages = [len(ours.search((), limit=5, offset=offset)) for offset in range(0, 40, 5)]
    assert sum(pages) == len(theirs.search((), limit=100))


def test_a_put_replaces_an_item_and_a_batch_reads_first(ours: BaseStore) -> None:
    before = ours.get(("users", "ana"), "food")
    ours.put(("users", "ana"), "food", {"text": "ccc"})
    after = ours.get(("users", "ana"), "food")
    assert before is not None
    assert after is not None
    assert after.value == {"text": "ccc"}
    assert after.created_at == before.created_at == before.updated_at < after.updated_at
    assert ours.search((), limit=1)[0] == after  # the latest first
    ours.delete(("users", "ana"), "food")
    ours.delete(("users", "ana"), "food")
    assert ours.get(("users", "ana"), "food") is None
    results = ours.batch(
        [
            PutOp(("n",), "k", {"v": 1}),
            GetOp(("n",), "k"),
            PutOp(("n",), "k", {"v": 2}),
            SearchOp(("n",)),
            ListNamespacesOp((MatchCondition("prefix", ("n",)),)),
        ]
    )
    assert results == [None, None, None, [], []]  # reads come first
    assert keys(ours.search(("n",))) == [(("n",), "k", {"v": 2})]
    ours.put(("long" * 200,), "k" * 600, {"v": 3})
    assert keys(ours.search(("long" * 200,))) == [(("long" * 200,), "k" * 600, {"v": 3})]


@pytest.mark.parametrize(
    ("value", "index", "matches"),
    [
        ({"text": "b", "tags": ["bb"]}, None, ["k", "other"]),
        ({"text": "b"}, None, ["k", "other"]),
        ({}, None, ["other"]),
        ({"text": "b", "tags": ["a", "aa"]}, False, ["other"]),
        (None, None, ["other"]),
    ],
)
def test_a_search_ignores_texts_that_an_item_no_longer_has(
    store: sync.VectorStore, value: Any, index: Any, matches: list[str]
) -> None:
    ours = AiovecStore(store, index=MANY)
    ours.put(("n",), "other", {"text": "abc"})
    ours.put(("n",), "k", {"text": "c", "tags": ["a", "aaa"]})
    assert [item.key for item in ours.search((), query="a")] == ["k", "other"]
    before = [row.to_dict() for row in store.find("langgraph", include_vector=True)]
    ours.batch([PutOp(("n",), "k", value, index=index)])
    after = store.exists("langgraph", [row["id"] for row in before])
    left = [row for row in before if row["id"] not in after]
    assert left
    for _ in range(2):
        assert [item.key for item in ours.search((), query="b")] == matches
        assert ours.search((), query="a", limit=1)[0].key == "other"
        everything = {item.key: item.value for item in ours.search(())}
        assert everything.get("k") == value
        # Of two concurrent puts, the one with more texts may leave rows behind.
        store.upsert("langgraph", [row for row in left if "place" in row])
    ours.delete(("n",), "k")
    assert store.count("langgraph") == 1


def test_a_wrong_argument_is_refused_by_its_name(ours: BaseStore) -> None:
    with pytest.raises(InvalidNamespaceError):
        ours.batch([PutOp(("a.b",), "k", {})])
    with pytest.raises(FilterError, match="expected one of"):
        ours.search((), filter={"n": {"$near": 1}})
    assert ours.search((), limit=0) == []
    for call in (ours.search, lambda _, **more: ours.list_namespaces(**more)):
        for name in ("limit", "offset"):
            with pytest.raises(InvalidArgumentError, match=f"{name} must be a whole number from 0"):
                call((), **{name: -1})
    for value in ("text", ["text"], 3):
        with pytest.raises(InvalidArgumentError, match="value must be a mapping, not"):
            ours.put(("a",), "k", value)  # type: ignore[arg-type]
    for ttl in (-1, 0, float("nan"), float("inf"), 1e12):
        with pytest.raises(InvalidArgumentError, match="ttl must be a number of minutes above 0"):
            ours.put(("a",), "k", {}, ttl=ttl)
    assert ours.get(("a",), "k") is None
    for wrong in ({"dim": 3, "embed": letters}, {"dims": 3}):
        with pytest.raises(InvalidArgumentError, match="with the keys 'dims', the length"):
            AiovecStore(index=wrong)  # type: ignore[arg-type]


def test_a_dot_in_a_filter_leads_into_an_object_or_belongs_to_a_key(ours: BaseStore) -> None:
    ours.put(("a",), "flat", {"deep.x": 5})
    ours.put(("a",), "nested", {"deep": {"x": 5}})
    matches = ours.search(("a",), filter={"deep.x": 5})
    assert sorted(item.key for item in matches) == ["flat", "nested"]


def test_a_read_only_store_refreshes_no_expiry(tmp_path: Path) -> None:
    with sync.connect(tmp_path / "a.db") as store:
        AiovecStore(store, ttl={"default_ttl": 60}).put(("a",), "k", {"v": 1})
        expires = store.find("langgraph")[0]["expires_at"]
    with sync.connect(tmp_path / "a.db", read_only=True) as store:
        ours = AiovecStore(store, ttl={"refresh_on_read": True})
        item = ours.get(("a",), "k")
        assert (item and item.value, len(ours.search(("a",)))) == ({"v": 1}, 1)
        assert store.find("langgraph")[0]["expires_at"] == expires


def test_a_store_without_an_index_ignores_the_query(store: sync.VectorStore) -> None:
    ours = AiovecStore(store)
    assert (ours.get(("a",), "b"), ours.search(()), ours.list_namespaces()) == (None, [], [])
    ours.delete(("a",), "b")
    filled(ours)
    assert len(ours.search((), query="ignored", limit=100)) == len(ITEMS)


def test_an_item_expires_unless_it_is_read(store: sync.VectorStore) -> None:
    short = 5 / 60
    ours = AiovecStore(store, ttl={"default_ttl": short, "refresh_on_read": True})
    ours.put(("a",), "short", {})
    ours.put(("a",), "read", {})
    ours.put(("a",), "long", {}, ttl=None)
    deadline = time.monotonic() + 30
    while ours.get(("a",), "short", refresh_ttl=False) is not None:
        assert ours.get(("a",), "read") is not None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {item.key for item in ours.search(("a",))} == {"read", "long"}
    assert ours.sweep_ttl() == 1
    assert store.count("langgraph") == 2


async def test_a_read_does_not_shorten_the_life_of_an_item_that_is_put_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with aiovec.connect(":memory:") as store:
        ours = AiovecStore(store)
        await ours.aput(("n",), "k", {}, ttl=5)
        get = aiovec.Table.get

        async def beside(table: aiovec.Table, *arguments: Any, **options: Any) -> Any:
            rows = await get(table, *arguments, **options)
            monkeypatch.undo()
            await ours.aput(("n",), "k", {}, ttl=None)
            return rows

        monkeypatch.setattr(aiovec.Table, "get", beside)
        assert await ours.aget(("n",), "k") is not None
        (row,) = await store.find("langgraph")
        assert (row["ttl"], row["expires_at"]) == (None, None)


def test_all_texts_of_an_item_expire_together(store: sync.VectorStore) -> None:
    ours = AiovecStore(store, index=MANY, ttl={"default_ttl": 60, "refresh_on_read": True})
    ours.put(("n",), "k", {"text": "a", "tags": ["b", "c"]})
    times = set()
    for read in (lambda: ours.get(("n",), "k"), lambda: ours.search((), query="c")):
        times.update(row["expires_at"] for row in store.find("langgraph"))
        read()
    times.update(row["expires_at"] for row in store.find("langgraph"))
    assert (len(times), store.count("langgraph")) == (3, 3)


def test_a_long_list_gets_a_bounded_number_of_vectors(store: sync.VectorStore) -> None:
    ours = AiovecStore(store, index=MANY)
    ours.put(("n",), "k", {"tags": ["a" * n for n in range(1, 100)] + ["b" * 5_000]})
    assert store.count("langgraph") == 16
    (item,) = ours.search((), query="b")
    assert item.score is not None
    assert item.score > 0.7
    ours.batch([PutOp(("n",), str(n), {"text": "ab"}) for n in range(5)])
    assert len(ours.search((), query="a", limit=6)) == 6


def test_boosts_rank_by_importance_and_age() -> None:
    index: Any = {"dims": 2, "embed": lambda texts: [[1.0, 0.0] for _ in texts]}
    boost = [Factor("payload.value.importance", 0.5), Decay("updated_at", "7d", 0.2)]
    with AiovecStore(index=index, boost=boost) as store:
        for key, importance in (("a", 0.1), ("b", 0.9), ("c", None)):
            store.put(("notes",), key, {"text": "tea", "importance": importance})
        assert [item.key for item in store.search(("notes",), query="tea")] == ["b", "a", "c"]


def test_a_connection_string_opens_a_store(tmp_path: Path) -> None:
    path = str(tmp_path / "memory.db")
    with AiovecStore.from_conn_string(path, table="items", index=INDEX) as ours:
        for _ in range(2):
            ours.setup()
        with sync.connect(path) as store:
            assert store.tables() == ["items"]
        filled(ours)
    with AiovecStore.from_conn_string(path, table="items") as ours:
        assert len(ours.search((), limit=100)) == len(ITEMS)


async def test_concurrent_puts_leave_one_item_with_its_own_texts(tmp_path: Path) -> None:
    values = [{"text": "a" * n, "tags": ["b", "c", "bc"][: n % 4]} for n in range(1, 13)]
    async with aiovec.connect(tmp_path / "a.db") as first, aiovec.connect(tmp_path / "a.db") as two:
        stores = [AiovecStore(store, index=MANY) for store in (first, two)]
        await stores[0].aput(("n",), "k", values[0])
        for _ in range(5):
            puts = [stores[n % 2].aput(("n",), "k", value) for n, value in enumerate(values)]
            await asyncio.gather(*puts)
            item = await stores[0].aget(("n",), "k")
            assert item is not None
            (match,) = await stores[1].asearch((), query="b")
            assert match.value == item.value
            assert match.score is not None
            assert (match.score > 0.9) == ("b" in item.value["tags"])
            assert len(await stores[0].asearch(())) == 1


def test_a_search_sees_an_item_while_it_is_replaced(tmp_path: Path) -> None:
    with AiovecStore(tmp_path / "a.db", index=MANY) as ours:

        def put(times: int) -> None:
            for n in range(times):
                ours.put(("n",), "k", {"text": "a" * (n + 1), "tags": ["b", "c"]})

        put(1)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(put, 100)
            while not writing.done():
                (item,) = ours.search((), query="b")
                assert item.score is not None
                assert item.score > 0.9
            writing.result()


async def test_a_search_ends_beside_a_busy_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = 0
    search = aiovec.Table.search

    async def replaced(table: aiovec.Table, *arguments: Any, **options: Any) -> Any:
        nonlocal searches
        searches += 1
        assert searches < 20
        hits = await search(table, *arguments, **options)
        rows = [row.to_dict() for row in await table.find(include_vector=True)]
        now = max(row["updated_at"] for row in rows) + timedelta(seconds=1)
        await table.upsert([{**row, "updated_at": now} for row in rows])
        return hits

    async with aiovec.connect(":memory:") as store:
        ours = AiovecStore(store, index=MANY)
        await ours.aput(("n",), "k", {"text": "a", "tags": ["b", "c"]})
        monkeypatch.setattr(aiovec.Table, "search", replaced)
        (item,) = await ours.asearch((), query="b")
        assert (item.key, item.score) == ("k", pytest.approx(1, abs=0.01))
