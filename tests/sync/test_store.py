"""The store without await, over the real SQLite backend."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
import pytest
from tests.connect.toy import Toy, install
from tests.sqlite.support import run_code

import aiovec
from aiovec import DuplicateIdError, Hit, Record, Schema, StoreClosedError, sync
from aiovec.sync.portal import Portal


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"n{n}", "embedding": [1.0, n, n * n, 1.0], "year": n}
        for n in range(first, first + count)
    ]


SCHEMA = Schema(4, fields={"year": int})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[sync.Store]:
    with sync.connect(tmp_path / "notes.db") as opened:
        opened.create_table("notes", SCHEMA)
        yield opened


def _public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_the_faces_have_the_same_methods() -> None:
    assert _public(sync.Store) == _public(aiovec.VectorStore)
    # There the name and the store are slots, here they are not.
    assert _public(sync.Table) | {"name", "store"} == _public(aiovec.Table)


def test_the_faces_have_the_same_signatures() -> None:
    for here, there in ((sync.Store, aiovec.VectorStore), (sync.Table, aiovec.Table)):
        for name in _public(there) - {"store", "name", "target", "backend_name", "read_only"}:
            method, awaited = getattr(here, name), getattr(there, name)
            assert not inspect.iscoroutinefunction(method), name
            mine, theirs = inspect.signature(method), inspect.signature(awaited)
            assert list(mine.parameters)[1:] == list(theirs.parameters)[1:], name


def test_writing_and_reading(store: sync.Store) -> None:
    assert store.tables() == ["notes"]
    assert store.schema("notes") == SCHEMA
    assert store.insert("notes", rows(0, 3)) == 3
    assert store.upsert("notes", rows(2, 2)) == 2
    assert store.count("notes", "year >= 1") == 3
    assert store.update("notes", {"year": 9}, ids="n0") == 1
    (hit, *_) = store.search("notes", [1, 3, 9, 1], limit=2)
    assert isinstance(hit, Hit)
    assert (hit.id, hit["year"]) == ("n3", 3)
    (record,) = store.get("notes", ["n0"])
    assert isinstance(record, Record)
    assert record["year"] == 9
    assert [r.id for r in store.find("notes", order_by="year", descending=True)][:2] == ["n0", "n3"]
    assert store.delete("notes", ["n0", "nosuch"]) == 1
    assert store.delete_where("notes", "year = 1") == 1
    assert store.stats("notes").rows == 2
    store.optimize("notes")
    store.ping()
    assert store.supports("changes")
    assert store.target in repr(store)


def test_a_table_handle(store: sync.Store) -> None:
    notes = store.table("notes")
    assert notes.name == "notes"
    assert notes.insert(rows(0, 5)) == 5
    assert notes.count() == 5
    assert notes.search([1, 2, 4, 1], limit=1)[0].id == "n2"
    assert sum(batch.num_rows for batch in notes.export(batch_size=2)) == 5
    notes.drop()
    assert store.tables() == []


def test_errors_come_as_they_are(store: sync.Store) -> None:
    store.insert("notes", rows(0, 1))
    with pytest.raises(DuplicateIdError):
        store.insert("notes", rows(0, 1))
    with pytest.raises(aiovec.TableNotFoundError):
        store.count("nosuch")
    with pytest.raises(aiovec.ConfigError):
        sync.connect("nosuch://x")
    with pytest.raises(TypeError):
        store.count()  # type: ignore[call-arg]


def test_export_is_a_plain_iterator(store: sync.Store) -> None:
    store.insert("notes", rows(0, 10))
    batches = store.export("notes", batch_size=4)
    assert isinstance(batches, Iterator)
    first = next(batches)
    assert isinstance(first, pa.RecordBatch)
    store.insert("notes", rows(10, 5))  # not seen by the snapshot
    assert first.num_rows + sum(batch.num_rows for batch in batches) == 10
    cursor = first.schema.metadata[b"aiovec.cursor"]
    assert sum(b.num_rows for b in store.export("notes", after=cursor)) == 15 - first.num_rows
    with pytest.raises(aiovec.TableNotFoundError):
        next(store.export("nosuch"))


def test_a_close_beside_an_open_export_says_nothing(tmp_path: Path) -> None:
    code = """
import sys, aiovec, aiovec.sync
store = aiovec.sync.connect(sys.argv[1])
store.create_table("t", aiovec.Schema(2))
store.upsert("t", [{"id": str(n), "embedding": [n + 1, 2]} for n in range(3000)])
batches = store.export("t", batch_size=10)
next(batches)
store.close()
try:
    next(batches)
except aiovec.StoreClosedError:
    print("closed")
"""
    done = run_code(code, str(tmp_path / "notes.db"))
    assert (done.stdout, done.stderr) == ("closed\n", "")


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_an_export_left_early(leave: str, store: sync.Store) -> None:
    store.insert("notes", rows(0, 10))
    for _ in range(30):  # more than there are connections for exports
        batches = store.export("notes", batch_size=1)
        next(batches)
        if leave == "close":
            batches.close()
        del batches
    assert store.count("notes") == 10


def test_handles_keep_their_store_open(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    with sync.connect(file) as store:
        store.create_table("notes", SCHEMA)
        store.insert("notes", rows(0, 3))
    notes = sync.connect(file).table("notes")
    gc.collect()
    assert notes.count() == 3
    batches = notes.store.table("notes").export(batch_size=1)
    assert sum(batch.num_rows for batch in batches) == 3
    notes.store.close()


def test_an_iterator_is_collected_while_a_call_begins(tmp_path: Path) -> None:
    """The garbage collector may run anywhere, in any thread."""
    code = """
import gc, signal, sys
from aiovec import Schema, sync

with sync.connect(sys.argv[1]) as store:
    store.create_table("notes", Schema(4))
    store.insert("notes", [{"id": id, "embedding": [1, 2, 3, 4]} for id in "ab"])
    rows = store.export("notes", batch_size=1)
    next(rows)
    kept = [rows]
    kept.append(kept)
    loop = store._portal._loop
    begin = loop.call_soon_threadsafe

    def begin_and_collect(*call, **options):
        gc.collect()
        return begin(*call, **options)

    loop.call_soon_threadsafe = begin_and_collect
    gc.disable()
    del kept, rows
    signal.alarm(20)
    print(store.tables())
    del loop.call_soon_threadsafe
    print(store.count("notes"))
"""
    done = run_code(code, str(tmp_path / "notes.db"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "['notes']\n2\n", "")


def test_an_iterator_is_read_where_it_was_made(store: sync.Store) -> None:
    threads = set()

    def generated() -> Iterator[dict[str, Any]]:
        for row in rows(0, 3):
            threads.add(threading.get_ident())
            store.ping()  # the store may be used in it
            yield row

    assert store.insert("notes", generated()) == 3
    assert threads == {threading.get_ident()}
    store.create_table("copy", SCHEMA)
    assert store.insert("copy", store.export("notes", batch_size=1)) == 3
    assert store.delete("copy", (f"n{n}" for n in range(2))) == 2


def test_from_many_threads(store: sync.Store) -> None:
    def work(worker: int) -> int:
        for n in range(10):
            store.insert("notes", rows(worker * 100 + n, 1))
            assert store.search("notes", [1, 0, 0, 1], limit=1)
        return len(store.get("notes", [f"n{worker * 100 + n}" for n in range(10)]))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [10] * 8
    assert store.count("notes") == 80


async def test_inside_a_running_event_loop(tmp_path: Path) -> None:
    asyncio.get_running_loop()
    with sync.connect(":memory:") as store:
        store.create_table("notes", SCHEMA)
        assert store.insert("notes", rows(0, 1)) == 1


def test_two_stores_at_once(tmp_path: Path) -> None:
    with sync.connect(tmp_path / "a.db") as one, sync.connect(tmp_path / "b.db") as two:
        for store in (one, two):
            store.create_table("notes", SCHEMA)
        one.insert("notes", rows(0, 5))
        assert two.insert("notes", one.export("notes")) == 5
        assert one.target != two.target


def test_a_function_that_the_store_calls_cannot_wait_for_it(store: sync.Store) -> None:
    store.insert("notes", rows(0, 3))

    async def rerank(hits: Any) -> Any:
        store.ping()
        return hits

    with pytest.raises(RuntimeError, match="asynchronous"):
        store.search("notes", [1, 0, 0, 1], rerank=rerank)
    assert store.count("notes") == 3


def test_an_exit_inside_comes_out(store: sync.Store) -> None:
    store.insert("notes", rows(0, 3))

    async def rerank(hits: Any) -> Any:
        sys.exit(3)

    with pytest.raises(SystemExit):
        store.search("notes", [1, 0, 0, 1], rerank=rerank)
    assert store.count("notes") == 3


def test_context_variables_are_seen_inside(store: sync.Store) -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="no")
    seen = []

    def rerank(hits: Any) -> Any:
        seen.append(variable.get())
        return hits

    store.insert("notes", rows(0, 3))
    variable.set("yes")
    store.search("notes", [1, 0, 0, 1], rerank=rerank)
    assert seen == ["yes"]


# Closing


def test_closed(tmp_path: Path) -> None:
    store = sync.connect(tmp_path / "notes.db")
    store.create_table("notes", SCHEMA)
    batches = store.export("notes")
    notes = store.table("notes")
    store.close()
    store.close()
    for call in (store.tables, store.ping, notes.count, lambda: next(batches)):
        with pytest.raises(StoreClosedError, match=r"notes\.db"):
            call()
    with sync.connect(tmp_path / "notes.db") as again:
        assert again.tables() == ["notes"]


def _threads() -> int:
    return sum(thread.name.startswith("aiovec-sync") for thread in threading.enumerate())


def test_close_ends_the_thread(tmp_path: Path) -> None:
    before = _threads()
    store = sync.connect(":memory:")
    assert _threads() == before + 1
    store.close()
    assert _threads() == before
    with pytest.raises(aiovec.ConfigError):
        sync.connect("")
    assert _threads() == before


def test_closed_by_many_threads_while_others_write(tmp_path: Path) -> None:
    store = sync.connect(tmp_path / "notes.db")
    store.create_table("notes", SCHEMA)
    written: list[str] = []

    def write(worker: int) -> None:
        for n in range(1000):
            try:
                store.insert("notes", rows(worker * 1000 + n, 1))
            except StoreClosedError:
                return
            written.append(f"n{worker * 1000 + n}")

    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, worker) for worker in range(4)]
        while len(written) < 20:
            time.sleep(0.001)
        for closing in [pool.submit(store.close) for _ in range(4)]:
            closing.result()
        for writer in writers:
            writer.result()
    with sync.connect(tmp_path / "notes.db") as again:
        assert {record.id for record in again.find("notes", limit=5000)} >= set(written)


def test_a_store_that_nobody_closed(tmp_path: Path) -> None:
    before = _threads()
    store = sync.connect(tmp_path / "notes.db")
    gone = weakref.ref(store)
    with pytest.warns(ResourceWarning, match="never closed"):
        del store
    assert gone() is None
    deadline = time.monotonic() + 30
    while _threads() > before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert _threads() == before


@pytest.mark.slow
@pytest.mark.parametrize("last", ["", "sys.exit(3)", "raise SystemExit(3)"])
def test_a_process_ends_without_closing(last: str, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from aiovec import sync, Schema\n"
        f"store = sync.connect({str(tmp_path / 'notes.db')!r})\n"
        "store.create_table('notes', Schema(4))\n"
        # More than sixteen rows, so that a worker thread has checked them.
        "store.insert('notes', [{'id': str(n), 'embedding': [1, 0, 0, n]} for n in range(100)])\n"
        "batches = store.export('notes', batch_size=1)\n"
        "next(batches)\n"
        f"{last}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=60, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.returncode == (3 if last else 0)


AT_THE_END = """
import sys
from aiovec import AiovecError, Schema, sync

class Notes:
    def __init__(self):
        self.store = sync.connect(sys.argv[1])
        self.store.create_table("notes", Schema(4))
        self.what = sys.argv[2]

    def __del__(self):
        assert sys.is_finalizing()
        if self.what == "close":
            self.store.close()
        else:
            try:
                self.store.count("notes")
            except AiovecError as exc:
                print(type(exc).__name__)

def opened():
    with sync.connect(sys.argv[1]) as store:
        yield store

if sys.argv[2] == "generator":
    kept = opened()
    next(kept)
else:
    kept = Notes()
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["close", "count", "generator"])
def test_a_store_that_the_ending_interpreter_collects(what: str, tmp_path: Path) -> None:
    """Its thread is halted by then: to wait for it was to wait for ever."""
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END, str(tmp_path / "notes.db"), what],
        timeout=60, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("StoreClosedError\n" if what == "count" else "")


# Interruption


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl-C to one thread of a test")
def test_an_interrupt_cancels_the_call(store: sync.Store) -> None:
    cancelled = threading.Event()
    began = threading.Event()

    async def rerank(hits: Any) -> Any:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            cancelled.set()
            raise

    def interrupt() -> None:
        began.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    store.insert("notes", rows(0, 3))
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        store.search("notes", [1, 0, 0, 1], rerank=rerank)
    assert cancelled.is_set(), "the call has ended when the interrupt comes through"
    assert store.count("notes") == 3


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_as_a_call_begins(
    store: sync.Store, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    """It may come before the thread has the call, or before the caller waits for it."""
    began, cancelled = threading.Event(), threading.Event()

    async def rerank(hits: Any) -> Any:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            cancelled.set()
            raise

    def start(self: Portal, running: Any) -> None:
        monkeypatch.undo()
        if begun:
            self._start(running)
            assert began.wait(30)
        raise KeyboardInterrupt

    store.insert("notes", rows(0, 3))
    monkeypatch.setattr(Portal, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        store.search("notes", [1, 0, 0, 1], rerank=rerank)
    assert (began.is_set(), cancelled.is_set()) == (begun, begun)
    assert store.count("notes") == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl-C to one thread of a test")
def test_an_interrupt_while_connecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _threads()
    install(monkeypatch, tmp_path / "site", toy="ToyPlugin")
    made: list[Toy] = []
    began = threading.Event()

    async def slow(self: Toy) -> None:
        made.append(self)
        began.set()
        await asyncio.sleep(3600)

    def interrupt() -> None:
        began.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Toy, "open", slow)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        sync.connect("toy://x")
    assert made[0].done == ["close"]
    assert _threads() == before


# Fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from aiovec import sync, StoreClosedError\n"
        f"store = sync.connect({str(tmp_path / 'notes.db')!r})\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        store.tables()\n"
        "    except StoreClosedError as exc:\n"
        "        store.close()\n"
        "        if 'fork' in str(exc):\n"
        f"            with sync.connect({str(tmp_path / 'other.db')!r}) as other:\n"
        "                os._exit(40 + len(other.tables()))\n"
        "    os._exit(1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 40\n"
        "assert store.tables() == []\n"
        "store.close()\n"
    )
    done = subprocess.run(
        # Python warns of forking where threads run, which is what is tried here.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_vectors_of_numpy(store: sync.Store) -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert store.insert("notes", {"id": list("abcd"), "embedding": vectors}) == 4
    assert [hits[0].id for hits in store.search_many("notes", vectors, limit=1)] == list("abcd")


class Lazy:
    """What is read when it is iterated, such as the query set of a web framework."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        assert threading.current_thread() is threading.main_thread()
        yield from self._items()


def test_lazy_iterables_are_read_in_the_thread_of_their_maker(store: sync.Store) -> None:
    """Who may use the store in them. They were read on the store's own event loop."""
    store.insert("notes", Lazy(lambda: rows(store.count("notes"), 2)))
    assert store.upsert("notes", Lazy(lambda: rows(1, 3))) == 3
    columns = {
        "id": Lazy(lambda: ["x", "y"]), "embedding": [[1.0] * 4] * 2, "year": Lazy(lambda: [1, 2])
    }  # fmt: skip
    assert store.insert("notes", columns) == 2
    assert [one.id for one in store.get("notes", Lazy(lambda: ["n0", "y"]))] == ["n0", "y"]


async def test_a_scope_of_anyio_ends_a_call_of_aio(store: sync.Store) -> None:
    async def slow(_: aiovec.VectorStore) -> None:
        await asyncio.sleep(60)

    with anyio.move_on_after(0.05) as scope:
        await sync.aio(store, slow)
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            await sync.aio(store, slow)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await sync.aio(store, slow)
    assert await sync.aio(store, lambda inner: inner.count("notes")) == 0


async def test_a_part_that_was_cancelled_does_not_close_the_store(store: sync.Store) -> None:
    async def call(inner: aiovec.VectorStore) -> int:
        part = asyncio.ensure_future(inner.count("notes"))
        part.cancel()
        return await part

    with pytest.raises(asyncio.CancelledError):
        await sync.aio(store, call)
    assert await sync.aio(store, lambda inner: inner.count("notes")) == 0


def test_a_thread_with_the_number_of_the_stores_is_told_that_it_is_closed() -> None:
    told = []
    for _ in range(10):
        store = sync.connect(":memory:")
        store.close()

        def use(store: sync.Store = store) -> None:
            try:
                store.tables()
            except Exception as exc:  # noqa: BLE001 - which it is is asked below
                told.append(type(exc))

        for _ in range(3):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
    assert told == [StoreClosedError] * 30
