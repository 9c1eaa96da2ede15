"""The way of every search behind the backend: both searches at once, and large answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tests.contract.base import open_store
from tests.harness.loop_time import own_work, watched_loop
from tests.toy_backend import ToyBackend

from aiovec import RRF, AiovecError, Field, Hit, Schema, UnsupportedError, VectorStore, Weighted
from aiovec._core import store as store_module
from aiovec._core.ranking import Listed, fuse
from aiovec._core.records import Rank
from aiovec._core.searching import together
from aiovec.backend import Found, StaleTableError, StoredRows, TableHandle, TextQuery, VectorQuery

SCHEMA = Schema(4, fields={"body": Field(str, text=True), "year": int})
QUERY = [1.0, 0, 0, 0]


class Watched(ToyBackend):
    """Tells when each search began and ended, and lets a test decide what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.tables: list[TableHandle] = []
        self.vector: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0)
        self.text: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0)

    async def _do(self, name: str, act: Callable[[], Awaitable[Any]]) -> None:
        self.events.append(f"{name} began")
        try:
            await act()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # it takes its time to end
            self.events.append(f"{name} cancelled")
            raise
        self.events.append(f"{name} ended")

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        await self._do("vector", self.vector)
        return await super().search(table, queries)

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        await self._do("text", self.text)
        return await super().search_text(table, query)


@pytest.fixture
def backend() -> Watched:
    return Watched()


@pytest.fixture
async def store(backend: Watched) -> AsyncIterator[VectorStore]:
    store = await open_store(backend, dim=4)
    await store.create_table("notes", SCHEMA)
    rows = [{"id": f"r{n}", "embedding": [1.0, n, 0, 0], "body": "wool " * n} for n in range(9)]
    await store.insert("notes", rows)
    yield store
    await store.close()


async def never() -> None:
    await asyncio.sleep(3600)


async def test_both_searches_run_at_once(backend: Watched, store: VectorStore) -> None:
    both = asyncio.Barrier(2)
    backend.vector = backend.text = both.wait
    async with asyncio.timeout(10):
        assert len(await store.search_hybrid("notes", "wool", QUERY)) == 9


async def test_the_search_that_takes_longer_begins_first(
    backend: Watched, store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is begun by another task, as of a backend that gathers searches."""
    search = backend.search

    async def in_task(table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        return await asyncio.Task(search(table, queries))

    monkeypatch.setattr(backend, "search", in_task)
    await store.search_hybrid("notes", "wool", QUERY)
    assert backend.events[:2] == ["vector began", "text began"]


@pytest.mark.parametrize(("broken", "other"), [("vector", "text"), ("text", "vector")])
async def test_a_failure_ends_the_other_search(
    backend: Watched, store: VectorStore, broken: str, other: str
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise AiovecError("it broke")

    setattr(backend, broken, fail)
    setattr(backend, other, never)
    async with asyncio.timeout(10):
        with pytest.raises(AiovecError, match="it broke"):
            await store.search_hybrid("notes", "wool", QUERY)
    assert backend.events[-1] == f"{other} cancelled"
    setattr(backend, broken, lambda: asyncio.sleep(0))
    setattr(backend, other, lambda: asyncio.sleep(0))
    assert len(await store.search_hybrid("notes", "wool", QUERY)) == 9


async def test_two_failures_are_the_first_ones(backend: Watched, store: VectorStore) -> None:
    async def fail(text: str) -> None:
        raise AiovecError(text)

    backend.vector, backend.text = lambda: fail("one"), lambda: fail("other")
    with pytest.raises(AiovecError, match="one"):
        await store.search_hybrid("notes", "wool", QUERY)


async def test_a_cancelled_caller_waits_for_both(backend: Watched, store: VectorStore) -> None:
    backend.vector = backend.text = never
    task = asyncio.ensure_future(store.search_hybrid("notes", "wool", QUERY))
    for _ in range(50):
        await asyncio.sleep(0)
    assert sorted(backend.events) == ["text began", "vector began"]
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(backend.events[2:]) == ["text cancelled", "vector cancelled"]


async def test_a_cancellation_within_is_no_success() -> None:
    async def gone() -> None:
        raise asyncio.CancelledError

    async def well() -> None: ...

    for one, other in ((gone, well), (well, gone), (gone, gone)):
        with pytest.raises(asyncio.CancelledError):
            await together(one(), other())
    await together(well(), well())


async def test_an_altered_table_has_both_repeated(backend: Watched, store: VectorStore) -> None:
    """Both see one state of the schema, so both begin again."""
    turns = 0

    async def stale() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise StaleTableError

    backend.text = stale
    assert len(await store.search_hybrid("notes", "wool", QUERY)) == 9
    assert backend.events.count("vector began") == backend.events.count("text began") == 3


async def test_what_is_missing_is_told_before_anything_runs(
    backend: Watched, store: VectorStore
) -> None:
    await store.create_table("bare", Schema(4, fields={"body": str}))
    backend.promises = frozenset()
    calls: list[tuple[Awaitable[Any], str, str]] = []
    for table, query, ability, told in (
        ("bare", "wool", "text", "Field\\(str, text=True\\)"),
        ("notes", "woo*", "text-prefix", "leave the '\\*' out of 'woo\\*'"),
    ):
        calls.append((store.search_text(table, query), ability, told))
        calls.append((store.search_hybrid(table, query, QUERY), ability, told))
    for call, ability, told in calls:
        with pytest.raises(UnsupportedError, match=told) as caught:
            await call
        assert caught.value.ability == ability
    assert backend.events == []
    await store.create_table(
        "grams", Schema(4, fields={"body": Field(str, text=True)}, analyzer="ngram")
    )
    await store.insert("grams", [{"id": "x", "embedding": QUERY, "body": "woollen"}])
    assert len(await store.search_text("grams", "ooll*")) == 1


async def test_a_query_without_words_asks_nothing(backend: Watched, store: VectorStore) -> None:
    for query in ("", "-wool", '""', "!!!"):
        assert await store.search_text("notes", query) == []
        hits = await store.search_hybrid("notes", query, QUERY, limit=3)
        assert [dict(hit.ranks) for hit in hits] == [{"vector": 1}, {"vector": 2}, {"vector": 3}]
    assert "text began" not in backend.events


async def test_a_field_that_only_reranking_reads_is_taken_away(store: VectorStore) -> None:
    """Also where the function gives back copies with fields of its own."""

    def noted(hits: list[Hit]) -> list[Hit]:
        return [hit.__replace__(fields={**hit.fields, "note": hit["body"]}) for hit in hits]

    for hit in await store.search_text("notes", "wool", select=["year"], rerank=noted):
        assert hit.fields.keys() == {"year", "note"}


class Large(ToyBackend):
    """Answers at once with as many rows as are asked for."""

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        return [self._found(query, 0) for query in queries]

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        return self._found(query, 7)

    @own_work()
    def _found(self, query: Any, start: int) -> Found:
        count = min(query.limit, 80_000)
        vectors = np.ones((count, 4), np.float32) if query.columns.vector else None
        rows = StoredRows(
            [f"r{n + start:06}" for n in range(count)],
            {name: [name] * count for name in query.columns.fields},
            ['{"a": 1}'] * count if query.columns.payload else None,
            vectors,
        )
        return Found(rows, [float(n) for n in range(count)])


@pytest.mark.slow
async def test_no_step_of_a_large_search_holds_the_loop() -> None:
    store = await open_store(Large(), dim=4)
    await store.create_table("notes", SCHEMA)
    reverse: Callable[[list[Hit]], list[Hit]] = lambda hits: hits[::-1]  # noqa: E731
    limit = 20_000
    calls: dict[str, Callable[[], Awaitable[list[Hit]]]] = {
        "text": lambda: store.search_text("notes", "wool", limit=limit),
        "rrf": lambda: store.search_hybrid("notes", "wool", QUERY, limit=limit),
        "weighted": lambda: store.search_hybrid(
            "notes", "wool", QUERY, limit=limit, fusion=Weighted()
        ),
        "rerank": lambda: store.search_hybrid(
            "notes", "wool", QUERY, limit=limit, rerank=reverse, select=[]
        ),
        "rerank text": lambda: store.search_text(
            "notes", "wool", limit=limit, rerank=reverse, select=["year"]
        ),
        "diversity": lambda: store.search_hybrid(
            "notes", "wool", QUERY, limit=20, fetch_k=20_000, diversity=0.5
        ),
    }
    for name, call in calls.items():
        with watched_loop() as found:
            hits = await call()
            assert len(hits) == (20 if name == "diversity" else limit)
            with own_work():
                del hits
        found.check()
    await store.close()


# Fusing


def hits(**scores: float) -> list[Hit]:
    return [Hit(id, score, None) for id, score in scores.items()]


def listed(**scores: float) -> Listed:
    """A list of a hybrid search of hits in this order."""
    found = hits(**scores)

    def hit(place: int, score: float, ranks: Any, highlights: Any) -> Hit:
        return found[place].__replace__(score=score, ranks=ranks, highlights=highlights)

    return Listed([one.id for one in found], [one.score for one in found], hit)


def test_ranks_have_the_scores_of_their_lists() -> None:
    (one, two, three) = fuse(listed(a=3, b=2), listed(b=9, c=1), RRF(), 5)
    assert [hit.id for hit in (one, two, three)] == ["b", "a", "c"]
    assert one.to_dict()["_ranks"] == {
        "vector": {"rank": 2, "score": 2}, "text": {"rank": 1, "score": 9},
    }  # fmt: skip
    assert (two.ranks["vector"].score, three.ranks["text"].score) == (3, 1)


def test_a_rank_is_a_number() -> None:
    import copy
    import json
    import pickle

    rank = Rank(3, 0.25)
    assert rank == 3
    assert isinstance(rank, int)
    assert f"{rank} {rank!s} {rank!r}" == "3 3 Rank(3, score=0.25)"
    assert json.dumps([rank]) == "[3]"
    assert sorted([Rank(2, 0.0), Rank(1, 9.0)]) == [1, 2]
    for other in (copy.copy(rank), copy.deepcopy(rank), pickle.loads(pickle.dumps(rank))):
        assert (other, other.score, type(other)) == (3, 0.25, Rank)
    with pytest.raises(AttributeError):
        rank.score = 1.0
    hit = Hit("a", 1.0, None, ranks={"text": rank})
    assert pickle.loads(pickle.dumps(hit)).ranks["text"].score == 0.25
    assert Hit("a", 1.0, None, ranks={"text": 2}).to_dict()["_ranks"] == {"text": 2}  # type: ignore[dict-item]


def test_equal_fused_scores_come_by_id() -> None:
    fused = fuse(listed(b=2, a=1), listed(a=2, b=1), RRF(), 5)
    assert [hit.id for hit in fused] == ["a", "b"]
    assert fused[0].score == fused[1].score
    fused = fuse(listed(c=1, b=1, a=1), listed(), Weighted(), 5)
    assert [hit.id for hit in fused] == ["a", "b", "c"]


def test_a_list_without_weight_brings_no_hits() -> None:
    vector, text = listed(a=3, z=2, y=1), listed(b=5, z=4)
    for fusion, ids in (
        (Weighted(vector=1, text=0), ["a", "z", "y"]), (Weighted(vector=0, text=1), ["b", "z"]),
        (Weighted(vector=1, text=1e-9), ["a", "z", "b", "y"]),
    ):  # fmt: skip
        fused = fuse(vector, text, fusion, 10)
        assert [hit.id for hit in fused] == ids
        assert next(hit for hit in fused if hit.id == "z").ranks == {"vector": 2, "text": 2}


def test_bad_weights_are_refused() -> None:
    wrong: Any
    for wrong in ("1", None, True, float("inf"), float("nan"), -1, [1]):
        with pytest.raises(AiovecError, match="finite"):
            Weighted(vector=wrong)
        with pytest.raises(AiovecError, match="finite"):
            RRF(k=wrong)


async def test_a_cancelled_call_reads_no_further_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of filters take seconds to read, and a cancelled call ends behind its thread."""
    loop = asyncio.get_running_loop()
    told = threading.Event()
    read = 0

    def bind(where: object, schema: Schema) -> Any:
        nonlocal read
        read += 1
        if read == 10:
            loop.call_soon_threadsafe(cancel)
            assert told.wait(30)
        return filters_bind(where, schema)

    def cancel() -> None:
        task.cancel()
        later(20)  # behind what the call does when it is cancelled

    def later(rounds: int) -> None:
        loop.call_soon(*((later, rounds - 1) if rounds else (told.set,)))

    filters_bind = store_module.bind
    monkeypatch.setattr(store_module, "bind", bind)
    async with await open_store(ToyBackend()) as store:
        await store.create_table("notes", SCHEMA)
        wheres = [f"year = {n}" for n in range(2_000)]
        task = asyncio.ensure_future(store.search_many("notes", [QUERY] * 2_000, where=wheres))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert read == 10
