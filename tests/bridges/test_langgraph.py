"""The bridge to LangGraph: long-term memory, beside LangGraph's own store in memory."""

from __future__ import annotations

import asyncio
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
    """A vector that counts the letters a, b and c."""
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
FILTERS: list[dict[str, Any]] = [
    {}, {"n": 2}, {"n": {"$eq": 3.5}}, {"n": {"$ne": 2}}, {"live": True}, {"n": "4"},
    {"text": "abc", "n": None}, {"n": float("nan")}, {"n": {"$ne": float("nan")}},
]  # fmt: skip


def filled(store: BaseStore) -> BaseStore:
    store.batch([PutOp(*item) for item in ITEMS])
    return store


@pytest.fixture
def ours(store: sync.VectorStore) -> BaseStore:
    return filled(AiovecStore(store, index=INDEX))


@pytest.fixture
def theirs() -> BaseStore:
    return filled(InMemoryStore(index=INDEX))


def keys(items: Any) -> list[Any]:
    return [(item.namespace, item.key, item.value) for item in items]


def test_it_answers_as_the_store_in_memory_does(ours: BaseStore, theirs: BaseStore) -> None:
    for namespace, key, value in ITEMS:
        item = ours.get(namespace, key)
        assert item is not None
        assert (item.namespace, item.key, item.value) == (namespace, key, value)
    assert ours.get(("users",), "food") is None
    for prefix in ((), ("users",), ("users", "ana"), ("users", "ben"), ("docs",), ("no",)):
        for wanted in FILTERS:
            both = [keys(one.search(prefix, filter=wanted)) for one in (ours, theirs)]
            assert sorted(both[0], key=str) == sorted(both[1], key=str), (prefix, wanted)
    for options in (
        {}, {"prefix": ("users",)}, {"suffix": ("old",)}, {"max_depth": 1},
        {"limit": 2, "offset": 1}, {"prefix": ("users", "*"), "max_depth": 2},
        {"prefix": ("*", "v1")}, {"suffix": ("*", "old")},
    ):  # fmt: skip
        found = [one.list_namespaces(**options) for one in (ours, theirs)]
        assert found[0] == found[1], options
    assert keys(ours.search((), filter={"n": {"$gt": 1, "$lte": 3.5}, "live": {"$ne": True}})) == [
        ITEMS[2]
    ]


def test_a_search_by_meaning(ours: BaseStore, theirs: BaseStore) -> None:
    for query in ("a", "b", "aab"):
        found = [one.search(("users",), query=query, limit=2) for one in (ours, theirs)]
        assert keys(found[0]) == keys(found[1])
        for mine, other in zip(*found, strict=True):
            assert mine.score == pytest.approx(other.score, abs=1e-5)
    assert keys(ours.search((), query="a", limit=1, offset=1)) == [ITEMS[1]]
    assert keys(ours.search((), query="a", filter={"n": {"$gt": 1}}, limit=1)) == [ITEMS[1]]
    ours.put(("users",), "silent", {"text": "aaaa"}, index=False)
    assert "silent" not in {item.key for item in ours.search((), query="a", limit=100)}
    ours.put(("users",), "title", {"text": "bbb", "title": ["a", "aa"]}, index=["title[*]"])
    assert {item.key for item in ours.search(("users",), query="a", limit=2)} == {"food", "title"}


def test_writes(ours: BaseStore) -> None:
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


MANY: Any = {**INDEX, "fields": ["text", "title", "tags[*]"]}
TEXTS: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (("n",), "both", {"text": "a", "title": "bbb", "n": 1}),
    (("n",), "tags", {"text": "aab", "tags": ["c", "ccb", "bb", "cca"], "n": 2}),
    (("n", "deep"), "same", {"text": "abb", "title": "bba", "n": 1}),
    (("n", "deep"), "one", {"title": "accc", "n": 2}),
    (("n", "deep"), "none", {"n": 1}),
]


def test_an_item_is_ranked_by_its_best_text(store: sync.VectorStore) -> None:
    ours, theirs = AiovecStore(store, index=MANY), InMemoryStore(index=MANY)
    for item in TEXTS:
        ours.put(*item)
        theirs.put(*item)
    for query in ("a", "b", "c", "bba", "acc"):
        for options in ({}, {"limit": 2}, {"limit": 2, "offset": 1}, {"filter": {"n": 2}}):
            wanted: Any = {"limit": 4, **options}
            found = [one.search(("n",), query=query, **wanted) for one in (ours, theirs)]
            scored = [item for item in found[1] if item.score is not None]
            assert keys(found[0]) == keys(scored), (query, options)
            for mine, other in zip(found[0], scored, strict=True):
                assert mine.score == pytest.approx(other.score, abs=1e-5)
    assert sorted(keys(ours.search(("n",))), key=str) == sorted(TEXTS, key=str)
    assert [len(ours.search((), limit=2, offset=offset)) for offset in (0, 2, 4)] == [2, 2, 1]
    assert ours.list_namespaces() == [("n",), ("n", "deep")]
    tags = ours.get(("n",), "tags")
    assert tags is not None
    assert tags.value == TEXTS[1][2]


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
def test_texts_that_an_item_no_longer_has_are_not_found(
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
        # Of two puts at the same moment, the one with more texts may leave rows behind.
        store.upsert("langgraph", [row for row in left if "place" in row])
    ours.delete(("n",), "k")
    assert store.count("langgraph") == 1


def test_errors(ours: BaseStore) -> None:
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


def test_dots_in_a_filter_lead_into_objects_or_are_part_of_a_key(ours: BaseStore) -> None:
    ours.put(("a",), "flat", {"deep.x": 5})
    ours.put(("a",), "nested", {"deep": {"x": 5}})
    found = ours.search(("a",), filter={"deep.x": 5})
    assert sorted(item.key for item in found) == ["flat", "nested"]


def test_a_store_that_is_only_read_refreshes_nothing(tmp_path: Path) -> None:
    with sync.connect(tmp_path / "a.db") as store:
        AiovecStore(store, ttl={"default_ttl": 60}).put(("a",), "k", {"v": 1})
        expires = store.find("langgraph")[0]["expires_at"]
    with sync.connect(tmp_path / "a.db", read_only=True) as store:
        ours = AiovecStore(store, ttl={"refresh_on_read": True})
        item = ours.get(("a",), "k")
        assert (item and item.value, len(ours.search(("a",)))) == ({"v": 1}, 1)
        assert store.find("langgraph")[0]["expires_at"] == expires


def test_without_an_index_and_without_rows(store: sync.VectorStore) -> None:
    ours = AiovecStore(store)
    assert (ours.get(("a",), "b"), ours.search(()), ours.list_namespaces()) == (None, [], [])
    ours.delete(("a",), "b")
    filled(ours)
    assert len(ours.search((), query="ignored", limit=100)) == len(ITEMS)


def test_items_expire(store: sync.VectorStore) -> None:
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


def test_all_texts_of_an_item_expire_together(store: sync.VectorStore) -> None:
    ours = AiovecStore(store, index=MANY, ttl={"default_ttl": 60, "refresh_on_read": True})
    ours.put(("n",), "k", {"text": "a", "tags": ["b", "c"]})
    times = set()
    for read in (lambda: ours.get(("n",), "k"), lambda: ours.search((), query="c")):
        times.update(row["expires_at"] for row in store.find("langgraph"))
        read()
    times.update(row["expires_at"] for row in store.find("langgraph"))
    assert (len(times), store.count("langgraph")) == (3, 3)


def test_a_long_list_has_a_bounded_number_of_vectors(store: sync.VectorStore) -> None:
    ours = AiovecStore(store, index=MANY)
    ours.put(("n",), "k", {"tags": ["a" * n for n in range(1, 100)] + ["b" * 5_000]})
    assert store.count("langgraph") == 16
    (item,) = ours.search((), query="b")
    assert item.score is not None
    assert item.score > 0.7
    ours.batch([PutOp(("n",), str(n), {"text": "ab"}) for n in range(5)])
    assert len(ours.search((), query="a", limit=6)) == 6


def test_importance_and_age_rank_searches() -> None:
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


async def test_puts_of_an_item_at_the_same_moment(tmp_path: Path) -> None:
    values = [{"text": "a" * n, "tags": ["b", "c", "bc"][: n % 4]} for n in range(1, 13)]
    async with aiovec.connect(tmp_path / "a.db") as one, aiovec.connect(tmp_path / "a.db") as two:
        stores = [AiovecStore(store, index=MANY) for store in (one, two)]
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


def test_an_item_is_found_by_its_best_text_while_it_is_replaced(tmp_path: Path) -> None:
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


async def test_a_search_ends_beside_a_writer_that_replaces_items_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


async def test_the_asynchronous_methods() -> None:
    async with aiovec.connect(":memory:") as store:
        ours = AiovecStore(store, index=INDEX)
        await asyncio.gather(*(ours.aput(*item) for item in ITEMS))
        found = await ours.asearch(("users",), query="b", limit=1)
        assert keys(found) == [ITEMS[2]]
        assert await ours.alist_namespaces(max_depth=1) == [("docs",), ("users",), ("users2",)]
        await ours.adelete(("users2",), "food")
        assert await ours.aget(("users2",), "food") is None
        assert await ours.asweep_ttl() == 0
        with pytest.raises(aiovec.AiovecError, match=r"aiovec\.sync\.connect"):
            ours.get(("a",), "b")
