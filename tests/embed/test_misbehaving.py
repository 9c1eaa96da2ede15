"""Embedders that hang, answer wrongly, change, raise anything, or call the store themselves."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiovec
from aiovec import Embed, EmbeddingError, Schema, StoreClosedError, VectorStore
from aiovec._embed import batcher as batcher_module
from aiovec._embed.batcher import Batcher, Limits
from aiovec._embed.protocol import AnyEmbedder
from aiovec._embed.registry import limits_of

SCHEMA = Schema(2, fields={"body": str}, embed=Embed("body"))
QUICK = Limits(timeout=0.2, total_timeout=0.6, retries=1)
ENOUGH = Limits(timeout=20, total_timeout=60, retries=1)


class Plain:
    """A plain embedder of two dimensions; ``answer`` says what it gives."""

    model = "m"
    dim = 2

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer or (lambda texts: [[float(len(text)), 1.0] for text in texts])
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> Any:
        self.asked += texts
        return self.answer(texts)


class Awaited(Plain):
    """The same, awaited."""

    async def __call__(self, texts: list[str]) -> Any:  # type: ignore[override]
        self.asked += texts
        return self.answer(texts)


def with_embedder(embedder: AnyEmbedder, name: str = "default") -> Any:
    return aiovec.connect(":memory:", embedders={name: embedder})


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "body": f"text {n}"} for n in range(start, start + count)]


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


def direct(embedder: AnyEmbedder, limits: Limits = ENOUGH) -> Batcher:
    return Batcher("default", embedder, limits, pause=no_pause)


# Answers


def endless(_: list[str]) -> Iterator[list[float]]:
    return itertools.repeat([1.0, 2.0])


WRONG: list[Any] = [
    endless,
    lambda texts: {(1.0, float(n)) for n in range(len(texts))},
    lambda texts: [[1.0, 2.0]] * (len(texts) + 1),
    lambda texts: [[1.0, float("nan")]] * len(texts),
    lambda texts: [[1.0, float("inf")]] * len(texts),
    lambda texts: [["1", "2"]] * len(texts),
    lambda texts: ["12"] * len(texts),
    lambda texts: [[True, False]] * len(texts),
    lambda texts: [[1j, 2.0]] * len(texts),
    lambda texts: [[10**400, 2]] * len(texts),
    lambda texts: np.ones((len(texts), 2), dtype="datetime64[s]"),
    lambda texts: (next(iter([])) for _ in texts),
]


@pytest.mark.parametrize("kind", [Plain, Awaited])
@pytest.mark.parametrize("number", range(len(WRONG)))
async def test_wrong_answers_are_errors(kind: type[Plain], number: int) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(EmbeddingError):
            await direct(kind(WRONG[number])).embed(["a", "b"], "document")


@pytest.mark.parametrize("kind", [Plain, Awaited])
async def test_a_generator_does_its_work_in_a_thread(kind: type[Plain]) -> None:
    """Libraries of local models give generators, which compute when they are read."""
    threads = set()

    def lazily(texts: list[str]) -> Iterator[list[float]]:
        for text in texts:
            threads.add(threading.current_thread())
            yield [float(len(text)), 1.0]

    found = await direct(kind(lazily)).embed(["a", "bb"], "document")
    assert found.tolist() == [[1.0, 1.0], [2.0, 1.0]]
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("kind", [Plain, Awaited])
async def test_an_embedder_may_empty_its_list(kind: type[Plain]) -> None:
    def greedy(texts: list[str]) -> Any:
        found = [[float(len(text)), 1.0] for text in texts]
        texts.clear()
        return found

    async with with_embedder(kind(greedy)) as store:
        await store.create_table("notes", SCHEMA)
        assert await store.insert("notes", rows(200)) == 200
        assert await store.find("notes", where="body = 'text 7'")


@pytest.mark.parametrize("kind", [Plain, Awaited])
async def test_a_zero_vector_is_not_given_again_from_the_cache(kind: type[Plain]) -> None:
    answers = iter([[0.0, -0.0], [1.0, 2.0]])
    embedder = kind(lambda texts: [next(answers)] * len(texts))
    async with with_embedder(embedder) as store:
        await store.create_table("notes", SCHEMA)
        with pytest.raises(EmbeddingError, match="zero"):
            await store.insert("notes", rows(1))
        assert await store.insert("notes", rows(1)) == 1
        await store.upsert("notes", rows(1))
        assert embedder.asked == ["text 0"] * 2


# Changes


async def test_another_model_than_before_writes_nothing() -> None:
    embedder = Plain()
    async with with_embedder(embedder) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", rows(1))
        embedder.model = "another"
        with pytest.raises(EmbeddingError, match="'another'"):
            await store.insert("notes", rows(1, 1))
        with pytest.raises(EmbeddingError, match="'another'"):
            await store.search("notes", "new")
        assert await store.count("notes") == 1
        embedder.model = "m"
        assert await store.insert("notes", rows(1, 1)) == 1


async def test_attributes_of_an_app_s_embedder_are_its_own() -> None:
    class Theirs(Plain):
        def prepare(self, sentences: list[str]) -> None:
            raise AssertionError(sentences)

        batch_size = 10**9

    embedder = Theirs()
    assert limits_of(embedder).batch_size <= 2048
    assert (await direct(embedder).embed(["a"], "document")).tolist() == [[1.0, 1.0]]


async def test_two_stores_call_one_plain_embedder_by_turns() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def counted(texts: list[str]) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return [[1.0, 2.0]] * len(texts)

    embedder = Plain(counted)
    stores = [with_embedder(embedder), with_embedder(embedder)]
    async with stores[0] as one, stores[1] as two:
        for store in (one, two):
            await store.create_table("notes", SCHEMA)
        await asyncio.gather(*(s.insert("notes", rows(1, n)) for s in (one, two) for n in range(4)))
        assert most == 1


# What is raised


class Odd(BaseException):
    pass


@pytest.mark.parametrize("kind", [Plain, Awaited])
@pytest.mark.parametrize("raised", [Odd, GeneratorExit, StopIteration, asyncio.CancelledError])
async def test_whatever_it_raises_ends_the_call(kind: type[Plain], raised: Any) -> None:
    def fail(_: list[str]) -> Any:
        raise raised("such a thing")

    async with asyncio.timeout(20):
        batcher = direct(kind(fail))
        with pytest.raises((EmbeddingError, Odd, GeneratorExit)):
            await batcher.embed(["a"], "document")
        batcher._embedder.answer = lambda texts: [[1.0, 2.0]]  # type: ignore[attr-defined, union-attr]
        assert (await batcher.embed(["a"], "document")).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("own", [False, True])
async def test_a_key_in_an_exception_is_not_shown(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_API_KEY", "sk-0123456789abcdef")

    def fail(_: list[str]) -> Any:
        said = "refused: sk-0123456789abcdef"
        try:
            raise ValueError(said)
        except ValueError as exc:
            raise (EmbeddingError("theirs", said) if own else KeyError(said)) from exc

    async with with_embedder(Plain(fail)) as store:
        await store.create_table("notes", SCHEMA)
        with pytest.raises(EmbeddingError) as caught:
            await store.insert("notes", rows(1))
        told = "".join(traceback.format_exception(caught.value))
        assert "refused" in told
        assert "0123456789abcdef" not in told.replace('said = "refused: sk-0123456789abcdef"', "")


# Time


class Gate:
    """Keeps calls in their threads until it is opened."""

    def __init__(self) -> None:
        self._open, self._reached = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._open.wait(20)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 20)

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_one_that_hangs_is_given_up(kind: str) -> None:
    gate = threading.Event()

    class Hanging(Plain):
        def __call__(self, texts: list[str]) -> Any:
            if "hang" in texts:
                gate.wait(20)
            return super().__call__(texts)

    class HangingAsync(Plain):
        async def __call__(self, texts: list[str]) -> Any:  # type: ignore[override]
            if "hang" in texts:
                await asyncio.sleep(20)
            return super().__call__(texts)

    batcher = direct(Hanging() if kind == "plain" else HangingAsync(), QUICK)
    began = time.monotonic()
    with pytest.raises(EmbeddingError, match="no answer within") as caught:
        await batcher.embed(["hang"], "document")
    assert caught.value.retryable
    assert time.monotonic() - began < 5
    gate.set()
    found = None
    while found is None:
        try:
            found = await batcher.embed(["a"], "document")
        except EmbeddingError:  # the first one's thread has not come back yet
            assert time.monotonic() - began < 20
    assert found.tolist() == [[1.0, 1.0]]


def counted_calls(work: Callable[[list[str]], None]) -> tuple[Plain, list[list[str]]]:
    """A plain embedder that does this for the texts of each call, and its calls."""
    calls: list[list[str]] = []

    def answer(texts: list[str]) -> Any:
        calls.append(list(texts))
        work(texts)
        return [[float(len(text)), 1.0] for text in texts]

    return Plain(answer), calls


async def test_the_time_of_a_request_is_the_embedder_s_not_that_of_others() -> None:
    """A plain embedder does one request after another. All of them take longer than one may."""
    embedder, calls = counted_calls(lambda _: time.sleep(0.25))
    limits = Limits(batch_size=2, concurrency=16, timeout=3, total_timeout=6)
    found = await direct(embedder, limits).embed([f"text {n}" for n in range(32)], "document")
    assert found.shape == (32, 2)
    assert len(calls) == 16


async def test_the_time_of_a_request_begins_when_another_store_s_has_ended() -> None:
    gate = Gate()
    embedder, calls = counted_calls(lambda texts: None if texts == ["b"] else gate.pass_through())
    first = asyncio.ensure_future(direct(embedder).embed(["a"], "document"))
    await gate.reached()
    brief = Limits(timeout=1.5, total_timeout=30)
    second = asyncio.ensure_future(direct(embedder, brief).embed(["b"], "document"))
    await asyncio.wait([second], timeout=2)
    assert not second.done()
    gate.open()
    assert (await second).tolist() == (await first).tolist() == [[1.0, 1.0]]
    assert calls == [["a"], ["b"]]


async def test_a_request_waits_for_the_embedder_s_place_no_longer_than_for_an_answer() -> None:
    gate = Gate()
    embedder, calls = counted_calls(lambda _: gate.pass_through())
    first = asyncio.ensure_future(direct(embedder).embed(["a"], "document"))
    await gate.reached()
    async with asyncio.timeout(20):
        with pytest.raises(EmbeddingError, match="no answer within"):
            await direct(embedder, QUICK).embed(["b"], "document")
    gate.open()
    await first
    assert (await direct(embedder).embed(["c"], "document")).tolist() == [[1.0, 1.0]]
    assert calls == [["a"], ["c"]]


async def test_awaitables_of_a_plain_function_fly_together() -> None:
    at_once, most = 0, 0

    async def answer(texts: list[str]) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.2)
        at_once -= 1
        return [[1.0, 2.0]] * len(texts)

    batcher = direct(Plain(answer), Limits(batch_size=1, concurrency=3))
    await batcher.embed(["first"], "document")
    await batcher.embed([f"text {n}" for n in range(9)], "document")
    assert most == 3


@pytest.mark.parametrize("kind", [Plain, Awaited])
async def test_a_store_closes_under_a_slow_embedder(kind: type[Plain]) -> None:
    gate, began = threading.Event(), threading.Event()

    def slow(texts: list[str]) -> Any:
        began.set()
        if kind is Plain:
            gate.wait(20)
        return [[1.0, 2.0]] * len(texts)

    embedder = kind(slow)
    store = await with_embedder(embedder)
    await store.create_table("notes", SCHEMA)
    calls = [asyncio.ensure_future(store.insert("notes", rows(3, 3 * n))) for n in range(5)]
    calls.append(asyncio.ensure_future(store.search("notes", "x")))
    if kind is Plain:
        await asyncio.to_thread(began.wait, 10)
    async with asyncio.timeout(5):
        await store.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    gate.set()
    assert all(
        isinstance(o, StoreClosedError) or (kind is Awaited and not isinstance(o, BaseException))
        for o in outcomes
    )


async def test_closing_does_not_wait_for_a_model_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, began = threading.Event(), threading.Event()
    stand_in = types.ModuleType("fastembed")

    def load(**_: object) -> Any:
        began.set()
        gate.wait(20)
        return Plain()

    stand_in.TextEmbedding = load  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "fastembed", stand_in)
    toml = tmp_path / "aiovec.toml"
    toml.write_text('[retrieval.embedders.default]\nkind = "fastembed"\nmodel = "m"\ndim = 2\n')
    store = await aiovec.connect(":memory:", config=toml)
    await store.create_table("notes", SCHEMA)
    call = asyncio.ensure_future(store.insert("notes", rows(1)))
    await asyncio.to_thread(began.wait, 10)
    try:
        async with asyncio.timeout(5):
            await store.close()
            with pytest.raises(StoreClosedError):
                await call
    finally:
        gate.set()


async def test_an_embedder_that_searches_the_store() -> None:
    stores: list[VectorStore] = []

    class Reentrant(Plain):
        async def __call__(self, texts: list[str]) -> Any:  # type: ignore[override]
            for store in stores:
                await store.search("notes", [1.0, 2.0])
                if texts != ["inner"]:
                    await store.search("notes", "inner")
            return [[float(len(text)), 1.0] for text in texts]

    async with with_embedder(Reentrant()) as store, asyncio.timeout(20):
        await store.create_table("notes", SCHEMA)
        stores.append(store)
        assert await store.insert("notes", rows(10)) == 10
        await asyncio.gather(*(store.search("notes", f"text {n}") for n in range(3)))


# Many calls


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Plain, Awaited])
async def test_a_thousand_calls_and_cancellations(kind: type[Plain]) -> None:
    async with with_embedder(kind()) as store, asyncio.timeout(60):
        await store.create_table("notes", SCHEMA)
        calls = [asyncio.ensure_future(store.insert("notes", rows(1, n))) for n in range(700)]
        calls += [asyncio.ensure_future(store.search("notes", f"q {n}")) for n in range(300)]  # type: ignore[arg-type]
        for n in range(0, 1000, 7):
            calls[n].cancel()
            if n % 5 == 0:
                await asyncio.sleep(0.001)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, asyncio.CancelledError), outcome
                assert n % 7 == 0
        kept = {record.id for record in await store.find("notes", limit=1000)}
        done = {f"r{n}" for n, outcome in enumerate(outcomes[:700]) if outcome == 1}
        assert done <= kept
        batcher = store._embedders._batchers["default"]
        desk = batcher._desk()
        assert not desk._flights
        assert desk._waiting == {"query": 0, "document": 0}
        assert await store.insert("notes", rows(1, 5000)) == 1


def test_one_loop_after_another_and_calls_left_behind() -> None:
    gate = threading.Event()

    def slow(texts: list[str]) -> Any:
        if "text 0" in texts:
            gate.wait(20)
        return [[1.0, 2.0]] * len(texts)

    stores: list[VectorStore] = []

    async def first() -> None:
        store = await with_embedder(Plain(slow))
        stores.append(store)
        await store.create_table("notes", SCHEMA)
        stores.append(asyncio.ensure_future(store.insert("notes", rows(1))))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)

    async def second() -> None:
        store = stores[0]
        gate.set()
        assert await store.insert("notes", rows(3, 1)) == 3
        assert await store.search("notes", "x", limit=1)
        await store.close()

    asyncio.run(first())
    asyncio.run(second())


async def test_a_table_that_names_a_third_embedder(tmp_path: Path) -> None:
    toml = tmp_path / "aiovec.toml"
    toml.write_text(
        "".join(f'[retrieval.embedders.{name}]\nkind = "demo"\n' for name in ("one", "two"))
    )
    async with aiovec.connect(":memory:", config=toml) as store:
        schema = Schema(256, fields={"body": str}, embed=Embed("body", using="three"))
        await store.create_table("notes", schema)
        for call in (store.insert("notes", rows(1)), store.search("notes", "x")):
            with pytest.raises(EmbeddingError, match=r"retrieval\.embedders\.three"):
                await call
        await store.create_table(
            "others", Schema(256, fields={"body": str}, embed=Embed("body", using="two"))
        )
        assert await store.insert("others", rows(1)) == 1


async def test_an_embedder_that_the_file_no_longer_describes_is_closed_too(
    tmp_path: Path,
) -> None:
    """A call that waits for one of before a change of the file ends with the store."""
    async with with_embedder(Plain()) as store:
        registry = store._embedders
        from aiovec._settings.embedders import EmbedderSettings
        from aiovec.backend import RetrievalSettings

        first = await registry.find("x", RetrievalSettings(embedders={"x": {"kind": "demo"}}))  # type: ignore[dict-item]
        second = await registry.find(
            "x",
            RetrievalSettings(embedders={"x": EmbedderSettings(kind="demo", batch_size=3)}),
        )
        assert first is not None
        assert second is not first
    with pytest.raises(StoreClosedError):
        await first.embed(["a"], "document")


async def test_the_loop_stays_free_for_huge_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    checked = batcher_module.checked_matrix

    def seen(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return checked(*args)

    monkeypatch.setattr(batcher_module, "checked_matrix", seen)

    class Wide(Plain):
        dim = 4096
        batch_size = 1000

        def __call__(self, texts: list[str]) -> Any:
            return np.ones((len(texts), 4096))

    texts = [str(n) for n in range(1000)]
    batcher = Batcher("w", Wide(), limits_of(Wide()))
    assert (await batcher.embed(texts, "document")).shape == (1000, 4096)
    assert threading.main_thread() not in threads
