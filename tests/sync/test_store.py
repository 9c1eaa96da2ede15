"""The synchronous store has the same methods, for any thread, with or without an event loop."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest
from tests.harness.values import SMALL, ids_of, small_rows

import aiovec
from aiovec import DuplicateIdError, StoreClosedError, TableNotFoundError, sync

QUERY = [1.0, 0.0, 0.0, 0.0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[sync.VectorStore]:
    with sync.connect(tmp_path / "notes.db") as opened:
        opened.create_table("notes", SMALL)
        yield opened


def _public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_the_faces_have_the_same_methods() -> None:
    assert _public(sync.VectorStore) == _public(aiovec.VectorStore)
    # In ``aiovec.Table``, name and store are slots; in ``sync.Table``, they are not.
    assert _public(sync.Table) | {"name", "store"} == _public(aiovec.Table)
    for blocking, face in ((sync.VectorStore, aiovec.VectorStore), (sync.Table, aiovec.Table)):
        for name in _public(face):
            method, awaited = getattr(blocking, name, None), getattr(face, name)
            if inspect.isfunction(method):
                assert not inspect.iscoroutinefunction(method), name
                signature, expected = inspect.signature(method), inspect.signature(awaited)
                assert list(signature.parameters)[1:] == list(expected.parameters)[1:], name
    shown = inspect.signature(sync.Table.search).parameters
    assert "table" not in shown
    assert shown["tuning"].default is None  # each option is named, with its default


def test_errors_come_as_they_are(store: sync.VectorStore) -> None:
    store.insert("notes", small_rows(1))
    with pytest.raises(DuplicateIdError):
        store.insert("notes", small_rows(1))
    with pytest.raises(TableNotFoundError):
        store.count("nosuch")
    with pytest.raises(aiovec.ConfigError):
        sync.connect("nosuch://x")
    with pytest.raises(TypeError):
        store.count()  # type: ignore[call-arg]


def test_rows_are_a_plain_iterator(store: sync.VectorStore) -> None:
    store.insert("notes", small_rows(3))
    assert [row["year"] for row in store.rows("notes")] == [0, 1, 2]
    assert [row.id for row in store.table("notes").rows("year = 1")] == ["r0001"]


def test_export_is_a_plain_iterator(store: sync.VectorStore) -> None:
    store.insert("notes", small_rows(10))
    batches = store.export("notes", batch_size=4)
    assert isinstance(batches, Iterator)
    first = next(batches)
    assert isinstance(first, pa.RecordBatch)
    store.insert("notes", small_rows(5, start=10))  # not seen by the snapshot
    assert first.num_rows + sum(batch.num_rows for batch in batches) == 10
    cursor = first.schema.metadata[b"aiovec.cursor"]
    assert sum(b.num_rows for b in store.export("notes", after=cursor)) == 15 - first.num_rows
    with pytest.raises(TableNotFoundError):
        next(store.export("nosuch"))
    for _ in range(20):  # more than can be open at the same time; each ends early
        next(store.export("notes", batch_size=1))
    assert store.count("notes") == 15


class Lazy:
    """Items that are read during iteration, such as the query set of a web framework."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        assert threading.current_thread() is threading.main_thread()
        yield from self._items()


def test_iterables_are_read_in_the_callers_thread(store: sync.VectorStore) -> None:
    """The iterables may use the store."""
    assert store.insert("notes", Lazy(lambda: small_rows(3, start=store.count("notes")))) == 3
    assert ids_of(store.get("notes", Lazy(lambda: ["r0000", "r0002"]))) == ["r0000", "r0002"]
    store.create_table("copy", SMALL)
    assert store.insert("copy", store.export("notes", batch_size=1)) == 3
    assert store.delete("copy", (f"r{n:04}" for n in range(2))) == 2


def test_many_threads_share_a_store(store: sync.VectorStore) -> None:
    def work(worker: int) -> int:
        for n in range(10):
            store.insert("notes", small_rows(1, start=worker * 100 + n))
            assert store.search("notes", QUERY, limit=1)
        return len(store.get("notes", [f"r{worker * 100 + n:04}" for n in range(10)]))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [10] * 8
    assert store.count("notes") == 80


async def test_opening_inside_a_running_event_loop_is_refused_but_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notes.db"
    for notebook in ("ipykernel", "marimo"):
        monkeypatch.delitem(sys.modules, notebook, raising=False)
    with pytest.raises(aiovec.AiovecError, match=r"asyncio\.to_thread"):
        sync.connect(path)
    assert not path.exists()
    store = await asyncio.to_thread(sync.connect, path)
    assert await sync.aio(store, lambda s: s.tables()) == []
    await asyncio.to_thread(store.close)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with sync.connect(":memory:") as store:  # as in a notebook, whose cells run on a loop
        store.create_table("notes", SMALL)
        assert store.insert("notes", small_rows(2)) == 2


def test_a_rerank_that_calls_the_store_or_exits_is_an_error(store: sync.VectorStore) -> None:
    store.insert("notes", small_rows(3))

    async def waits_for_the_store(hits: Any) -> Any:
        store.ping()
        return hits

    async def exits(hits: Any) -> Any:
        sys.exit(3)

    with pytest.raises(RuntimeError, match="asynchronous"):
        store.search("notes", QUERY, rerank=waits_for_the_store)
    with pytest.raises(SystemExit):
        store.search("notes", QUERY, rerank=exits)
    assert store.count("notes") == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl-C to one thread of a test")
def test_an_interrupt_cancels_the_call(store: sync.VectorStore) -> None:
    cancelled = threading.Event()

    async def rerank(hits: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cancelled.set()
            raise

    store.insert("notes", small_rows(3))
    with pytest.raises(KeyboardInterrupt):
        store.search("notes", QUERY, rerank=rerank)
    assert cancelled.is_set(), "the call has ended when the interrupt comes through"
    assert store.count("notes") == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no interval timer")
# An interrupt within the callback of a weak reference, which cannot raise it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_moment_hangs_no_call(store: sync.VectorStore) -> None:
    """Even if an interrupt arrives while a call starts, no call hangs, and the store stays open."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    store.insert("notes", small_rows(3))
    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for n in range(2000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + n % 80))
                assert len(store.search("notes", QUERY)) == 3
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted
    assert store.count("notes") == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl-C to one thread of a test")
def test_an_interrupted_opening_or_closing_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, before = threading.Thread.start, {*threading.enumerate()}

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    async def interrupt(_: aiovec.VectorStore) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(3600)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        sync.connect(tmp_path / "notes.db")
    monkeypatch.undo()
    stores = [sync.connect(tmp_path / "notes.db")]
    monkeypatch.setattr(aiovec.VectorStore, "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stores[0].close()
    monkeypatch.undo()
    with pytest.warns(ResourceWarning, match="never closed"):
        stores.clear()
    for thread in {*threading.enumerate()} - before:
        if thread.name == "aiovec-sync":
            thread.join(60)
            assert not thread.is_alive()


# Closing


def test_every_call_on_a_closed_store_says_so(tmp_path: Path) -> None:
    store = sync.connect(tmp_path / "notes.db")
    store.create_table("notes", SMALL)
    batches = store.export("notes")
    notes = store.table("notes")
    store.close()
    store.close()
    for call in (store.tables, store.ping, notes.count, lambda: next(batches)):
        with pytest.raises(StoreClosedError, match=r"notes\.db"):
            call()
    with sync.connect(tmp_path / "notes.db") as again:
        assert again.tables() == ["notes"]
    with pytest.raises(aiovec.ConfigError):
        sync.connect("")


# One store for plain and for asynchronous code


def test_a_store_is_awaited_and_called(store: sync.VectorStore) -> None:
    async def use(n: int) -> int:
        await sync.aio(store, lambda s: s.insert("notes", small_rows(1, start=n)))
        with pytest.raises(TableNotFoundError):
            await sync.aio(store, lambda s: s.count("absent"))

        async def inner(s: aiovec.VectorStore) -> int:  # a call within a call
            return await sync.aio(store, lambda again: again.count("notes"))

        return await sync.aio(store, inner)

    store.insert("notes", small_rows(1))
    assert asyncio.run(use(1)) == 2
    assert asyncio.run(use(2)) == 3  # on another loop
    with ThreadPoolExecutor(4) as pool:  # and on several at once
        list(pool.map(lambda n: asyncio.run(use(n)), range(10, 14)))
    assert store.count("notes") == 7


async def test_a_cancelled_call_of_aio_has_ended(store: sync.VectorStore) -> None:
    began, over = threading.Event(), threading.Event()

    async def slow(_: aiovec.VectorStore) -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            over.set()

    call = asyncio.ensure_future(sync.aio(store, slow))
    await asyncio.to_thread(began.wait)  # while the caller's loop goes on
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert over.is_set()
    with anyio.move_on_after(0.01) as scope:
        await sync.aio(store, slow)
    assert scope.cancelled_caught

    async def cancels_a_part(inner: aiovec.VectorStore) -> int:
        part = asyncio.ensure_future(inner.count("notes"))
        part.cancel()
        return await part

    with pytest.raises(asyncio.CancelledError):
        await sync.aio(store, cancels_a_part)
    assert await sync.aio(store, lambda inner: inner.count("notes")) == 0
    store.close()
    with pytest.raises(StoreClosedError):
        await sync.aio(store, lambda inner: inner.count("notes"))


async def test_a_call_of_aio_that_meets_the_stores_end_ends_too(
    store: sync.VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's thread may be so slow that the store's loop never starts the call."""
    check = store._portal._check

    def check_slowly() -> None:
        check()
        monkeypatch.setattr(store._portal, "_check", check)
        store.close()

    monkeypatch.setattr(store._portal, "_check", check_slowly)
    async with asyncio.timeout(60):
        with pytest.raises(StoreClosedError):
            await sync.aio(store, lambda inner: inner.count("notes"))


def test_a_store_lives_as_long_as_an_export_of_it(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sync.connect(path) as store:
        store.create_table("notes", SMALL)
        store.insert("notes", small_rows(10))
    batches = sync.connect(path).table("notes").export(batch_size=4)
    with pytest.warns(ResourceWarning, match="never closed"):
        assert sum(batch.num_rows for batch in batches) == 10
