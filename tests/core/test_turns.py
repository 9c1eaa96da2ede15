"""Searches at once: so many are at work, and the others wait where they hold little."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tests.toy_backend import ToyBackend
from tests.waiting import until

import aiovec
from aiovec import (
    Embed,
    Field,
    Hit,
    InvalidArgumentError,
    InvalidNameError,
    Schema,
    StoreBusyError,
    StoreClosedError,
    VectorStore,
)
from aiovec._core.engine import Engine
from aiovec._embed.registry import Embedders
from aiovec.backend import (
    Admission,
    Found,
    Patience,
    Pauses,
    RetrievalSettings,
    Share,
    StaleTableError,
    TableHandle,
    TextQuery,
    VectorQuery,
)

AT_ONCE, MORE = 20, 60
VECTOR = [1.0, 0.0]
Call = Callable[[VectorStore], Awaitable[Any]]


class Gate(ToyBackend):
    """Answers searches when it is opened, and knows in which order they came."""

    searches_at_once = AT_ONCE

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.at_once = self.most = 0
        self.open_gate = asyncio.Event()

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        self.asked.append(queries[0].limit)
        await self._pass()
        return await super().search(table, queries)

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        self.asked.append(query.limit)
        await self._pass()
        return await super().search_text(table, query)

    async def _pass(self) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.open_gate.wait()
        finally:
            self.at_once -= 1


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def store(gate: Gate) -> AsyncIterator[VectorStore]:
    async with VectorStore(gate, RetrievalSettings()) as opened:
        await opened.create_table("notes", Schema(2, fields={"body": Field(str, text=True)}))
        rows = [{"id": f"{n}", "embedding": [1.0, n], "body": "word"} for n in range(3)]
        await opened.insert("notes", rows)
        yield opened
        gate.open_gate.set()


def crowd(
    store: VectorStore, count: int = MORE, **options: Any
) -> list[asyncio.Task[aiovec.Results[Hit]]]:
    return [
        asyncio.ensure_future(store.search("notes", VECTOR, limit=n + 1, **options))
        for n in range(count)
    ]


async def rounds() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def first_ids(found: Sequence[Any]) -> set[str]:
    return {hits[0].id for hits in found}


KINDS: dict[str, Call] = {
    "search": lambda s: s.search("notes", VECTOR),
    "search_many": lambda s: s.search_many("notes", [VECTOR, VECTOR]),
    "search_like": lambda s: s.search_like("notes", "0"),
    "search_text": lambda s: s.search_text("notes", "word"),
    "search_hybrid": lambda s: s.search_hybrid("notes", "word", VECTOR),
}


async def test_so_many_are_at_work_and_the_others_follow_in_their_order(
    store: VectorStore, gate: Gate
) -> None:
    calls = crowd(store)
    await rounds()
    assert gate.asked == list(range(1, AT_ONCE + 1))
    gate.open_gate.set()
    assert first_ids(await asyncio.gather(*calls)) == {"0"}
    assert gate.asked == list(range(1, MORE + 1))
    assert gate.most == AT_ONCE


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_search_waits_for_its_turn(
    store: VectorStore, gate: Gate, kind: str
) -> None:
    behind = KINDS["search_text" if kind == "search_text" else "search"]
    calls = [asyncio.ensure_future(behind(store)) for _ in range(AT_ONCE)]
    one = asyncio.ensure_future(KINDS[kind](store))
    await rounds()
    assert len(gate.asked) == AT_ONCE
    gate.open_gate.set()
    assert len(await one)
    await asyncio.gather(*calls)
    assert store._searches.by_vectors.free()
    assert store._searches.by_words.free()


async def test_other_calls_do_not_wait_behind_searches_by_vectors(
    store: VectorStore, gate: Gate
) -> None:
    calls = crowd(store)
    await rounds()
    words = asyncio.ensure_future(store.search_text("notes", "word", limit=7777))
    await rounds()
    assert gate.asked[-1] == 7777
    calls.append(words)
    async with asyncio.timeout(60):
        assert await store.upsert("notes", [{"id": "9", "embedding": [1.0, 9.0]}]) == 1
        assert len(await store.get("notes", ["9"])) == 1
        assert await store.count("notes") == 4
    for call in calls:
        call.cancel()


async def test_a_search_that_waits_holds_few_objects(store: VectorStore) -> None:
    """The garbage collector looks through all of them, and nobody else has a turn meanwhile."""
    calls = crowd(store, AT_ONCE)
    await rounds()
    gc.collect()
    before = len(gc.get_objects())
    calls += crowd(store, 1000)
    await rounds()
    gc.collect()
    # Of these, five are the task's: itself, its coroutine, what wakes it, a context, a reference.
    assert (len(gc.get_objects()) - before) / 1000 < 16
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_whose_time_is_over_is_told_so_and_the_others_go_on(
    store: VectorStore, gate: Gate
) -> None:
    patient = crowd(store, AT_ONCE)
    await rounds()
    gate.busy_timeout = 0.3
    late = crowd(store, 40)
    for error in await asyncio.gather(*late, return_exceptions=True):
        assert isinstance(error, StoreBusyError)
        assert 0.3 <= error.waited < 60
    assert len(gate.asked) == AT_ONCE
    gate.busy_timeout = None
    gate.open_gate.set()
    await asyncio.gather(*patient, *crowd(store))


async def test_the_time_at_the_door_is_a_part_of_the_call_s(store: VectorStore, gate: Gate) -> None:
    """What is waited for behind it waits no longer than what is left."""
    began: list[float] = []
    pass_ = gate._pass

    async def noted() -> None:
        began.append(Patience(60).began)
        await pass_()

    gate._pass = noted  # type: ignore[method-assign]
    calls = crowd(store, AT_ONCE)
    await rounds()
    last = asyncio.ensure_future(store.search("notes", VECTOR))
    await rounds()
    opened = time.monotonic()
    gate.open_gate.set()
    await asyncio.gather(last, *calls)
    assert len(began) == AT_ONCE + 1
    assert began[-1] < opened


@pytest.mark.parametrize("twice", [False, True])
async def test_those_who_leave_take_no_place_with_them(
    store: VectorStore, gate: Gate, twice: bool
) -> None:
    calls = crowd(store, 3 * AT_ONCE)
    await rounds()
    for call in calls[::2]:
        call.cancel()
        if twice:
            call.cancel()
    gate.open_gate.set()  # some have their turn in the moment in which they leave
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(found, asyncio.CancelledError) for found in done[::2])
    assert first_ids(done[1::2]) == {"0"}
    gate.open_gate.clear()
    gate.most = 0
    again = crowd(store)
    await rounds()
    assert gate.most == AT_ONCE
    gate.open_gate.set()
    await asyncio.gather(*again)


async def test_a_store_that_closes_ends_those_that_wait(store: VectorStore, gate: Gate) -> None:
    calls = crowd(store)
    await rounds()
    await store.close()
    errors = await asyncio.gather(*calls[AT_ONCE:], return_exceptions=True)
    assert {type(error) for error in errors} == {StoreClosedError}
    # One that all of them raised would hold the frames of all.
    assert len({id(error) for error in errors}) == MORE - AT_ONCE
    gate.open_gate.set()
    await asyncio.wait(calls)


async def test_those_that_wait_go_to_the_backend_that_is_in_use_by_then(
    store: VectorStore, gate: Gate
) -> None:
    calls = crowd(store)
    await rounds()
    other = Gate()
    other.open_gate.set()
    await other.create_table("notes", Schema(2))
    store._follower.engine = Engine(other, RetrievalSettings())  # as where a migration has led
    gate.open_gate.set()
    found = await asyncio.gather(*calls)
    assert [len(hits) for hits in found] == [min(n + 1, 3) for n in range(AT_ONCE)] + [0] * 40
    assert len(gate.asked) == AT_ONCE


async def test_what_ranks_anew_keeps_nobody_waiting_and_may_search(
    store: VectorStore, gate: Gate
) -> None:
    gate.open_gate.set()
    slow = asyncio.Event()

    async def rerank(hits: Sequence[Hit]) -> list[float]:
        await slow.wait()
        found = await store.search("notes", VECTOR)
        return [float(len(found))] * len(hits)

    calls = crowd(store, rerank=rerank)
    await rounds()
    async with asyncio.timeout(60):
        assert len(await store.search("notes", VECTOR)) == 3
        slow.set()
        await asyncio.gather(*calls)


class Embedder:
    """Makes vectors when it is let, and searches the store meanwhile."""

    name, model, dim = "slow", "m", 2

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.store: VectorStore | None = None
        self.asked = 0

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked += 1
        await self.go_on.wait()
        if self.store is not None:
            await self.store.search("notes", VECTOR)
        return [VECTOR for _ in texts]


@pytest.mark.parametrize("hybrid", [False, True])
async def test_an_embedder_keeps_no_other_search_waiting_and_may_search(hybrid: bool) -> None:
    gate, embedder = Gate(), Embedder()
    gate.open_gate.set()
    async with VectorStore(gate, RetrievalSettings(), embedders={"slow": embedder}) as store:
        fields = {"body": Field(str, text=True)}
        schema = Schema(2, fields=fields, embed=Embed("body", using="slow"))
        await store.create_table("notes", schema)
        await store.insert("notes", [{"id": "0", "embedding": VECTOR, "body": "word"}])
        embedder.store = store

        def search(n: int) -> Awaitable[Any]:
            if hybrid:
                return store.search_hybrid("notes", f"word {n}")
            return store.search("notes", f"text {n}")

        turns = store._searches
        async with asyncio.timeout(60):
            gate.open_gate.clear()
            calls = [asyncio.ensure_future(search(n)) for n in range(MORE)]
            await until(lambda: embedder.asked)
            await until(lambda: turns.by_words.waiting == (MORE - AT_ONCE if hybrid else 0))
            assert gate.most == (AT_ONCE if hybrid else 0)
            gate.open_gate.set()
            assert len(await store.search("notes", VECTOR)) == 1
            await until(lambda: turns.by_words.free())
            gate.open_gate.clear()
            gate.most = 0
            embedder.store = None
            embedder.go_on.set()
            await until(lambda: turns.by_vectors.waiting == MORE - AT_ONCE)
            assert gate.most == AT_ONCE
            gate.open_gate.set()
            assert all(await asyncio.gather(*calls))
        assert turns.by_vectors.free()
        assert turns.by_words.free()


async def test_an_attempt_that_is_repeated_asks_the_embedder_without_a_turn() -> None:
    gate, embedder = Gate(), Embedder()
    gate.searches_at_once = 1
    gate.open_gate.set()
    embedder.go_on.set()
    async with VectorStore(gate, RetrievalSettings(), embedders={"slow": embedder}) as store:
        schema = Schema(2, fields={"body": str}, embed=Embed("body", using="slow"))
        await store.create_table("notes", schema)
        embedder.store = store
        search, stale = gate.search, [True]

        async def once_stale(table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
            if stale and embedder.asked:
                stale.clear()
                store._embedders = Embedders({"slow": embedder})  # which remembers no vector
                raise StaleTableError("notes")
            return await search(table, queries)

        gate.search = once_stale  # type: ignore[method-assign]
        async with asyncio.timeout(60):
            assert len(await store.search("notes", "a text")) == 0
        assert not stale


async def test_bad_arguments_are_told_though_all_places_are_taken(store: VectorStore) -> None:
    calls = crowd(store)
    await rounds()
    async with asyncio.timeout(60):
        for bad in (
            store.search("notes", VECTOR, limit=0),
            store.search_many("notes", [VECTOR], limit=0),
            store.search_hybrid("notes", "word", VECTOR, limit=0),
        ):
            with pytest.raises(InvalidArgumentError):
                await bad
        with pytest.raises(InvalidNameError):
            await store.search("no name", VECTOR)
    for call in calls:
        call.cancel()


@pytest.mark.parametrize("kind", ["search", "search_many", "search_hybrid"])
async def test_a_vector_that_is_written_into_later_is_searched_as_it_was(
    store: VectorStore, gate: Gate, kind: str
) -> None:
    calls = crowd(store)
    await rounds()
    given: Any = np.array([1.0, 2.0], dtype=np.float32)
    if kind == "search":
        asked = store.search("notes", given, limit=1)
    elif kind == "search_hybrid":
        asked = store.search_hybrid("notes", "nothing", given, limit=1)
    else:
        given = given.reshape(1, 2)
        asked = store.search_many("notes", given, limit=1)
    searching = asyncio.ensure_future(asked)
    await rounds()
    given[:] = [1.0, 0.0]
    gate.open_gate.set()
    found: Any = await searching
    assert (found[0][0] if kind == "search_many" else found[0]).id == "2"
    await asyncio.gather(*calls)


def test_a_loop_that_is_closed_takes_its_waiting_searches_with_it() -> None:
    store = VectorStore(gate := Gate(), RetrievalSettings())

    async def begin() -> None:
        await store.create_table("notes", Schema(2))
        await store.insert("notes", [{"id": "0", "embedding": VECTOR}])
        crowd(store)
        await rounds()

    async def go_on() -> None:
        gate.open_gate = asyncio.Event()
        gate.open_gate.set()
        assert first_ids(await asyncio.gather(*crowd(store))) == {"0"}
        await store.close()

    loop = asyncio.new_event_loop()
    loop.set_debug(False)
    loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    gc.collect()
    asyncio.run(go_on())


# Shares, of which these turns are made


async def test_who_left_holds_nobody_up_who_wants_less() -> None:
    admission = Admission("full", memory=100)
    got: list[str] = []

    async def ask(name: str, size: int) -> None:
        async with admission.share(size):
            got.append(name)
            await over.wait()

    over = asyncio.Event()
    tasks = {}
    for name, size in (("a", 60), ("large", 80), ("b", 40)):
        tasks[name] = asyncio.ensure_future(ask(name, size))
        await rounds()
    assert (got, admission.waiting) == (["a"], 2)
    tasks["large"].cancel()
    await rounds()
    assert (got, admission.waiting, admission.used) == (["a", "b"], 0, 100)
    over.set()
    await asyncio.gather(tasks["a"], tasks["b"])
    assert admission.used == 0


async def test_thousands_leave_and_others_stay_in_their_order() -> None:
    admission = Admission("full", calls=1)
    held = await admission.share().take()
    order: list[int] = []

    async def ask(n: int) -> None:
        async with admission.share(0, Patience(60)):
            order.append(n)

    tasks = [asyncio.ensure_future(ask(n)) for n in range(5000)]
    await rounds()
    for n, task in enumerate(tasks):
        if n % 100:
            task.cancel()
    await rounds()
    assert admission.waiting == 50
    assert len(admission._state().waiting) <= 100
    held.give_back()
    await asyncio.wait(tasks)
    assert order == list(range(0, 5000, 100))
    assert admission.free()


async def test_a_pause_of_a_migration_is_no_time_that_a_share_is_waited_for() -> None:
    admission = Admission("full", calls=1)
    held = await admission.share().take()
    pauses = Pauses()
    paused = pauses.begin(time.monotonic())

    def waiting() -> Share:
        return admission.share(0, Patience(0, pauses))

    calls = [asyncio.ensure_future(waiting().take()) for _ in range(3)]
    await asyncio.sleep(0.6)
    assert not any(call.done() for call in calls)
    pauses.end(paused)
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, StoreBusyError)
    held.give_back()
    assert admission.free()


async def test_a_share_that_is_asked_for_again_is_given_back_once() -> None:
    """One that had its turn in the moment in which its caller was cancelled may be used again."""
    admission = Admission("full", calls=1)
    held = await admission.share().take()
    share = admission.share()
    for _ in range(2):
        waiting = asyncio.ensure_future(share.take())
        await rounds()
        if not admission.free():
            held.give_back()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert admission.free()
        held = await admission.share().take()
    waiting = asyncio.ensure_future(share.take())
    await rounds()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not admission.free()
    held.give_back()
    assert admission.free()
