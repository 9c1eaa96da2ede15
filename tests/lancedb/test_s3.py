"""The store on an S3 server: what it does there, its writers' turns, and a server that fails."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from tests.sqlite.support import FIELDS, State, python

import aiovec
from aiovec import AiovecError, DuplicateIdError, Schema, StoreBusyError, VectorStore
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.limits import ExportLimits, Limits
from aiovec_lancedb.locks import bucket as bucket_lock
from aiovec_lancedb.settings import LancedbSettings

from . import racing
from .buckets import BUCKET, KEY_ID, SECRET, Bucket, own_s3_server, s3_server
from .support import QUICK, run_code

SCHEMA = Schema(4, fields={"owner": str})
LOCK = ".aiovec/notes.lock"
# What a user would wait at most for each of the errors below; they are told far sooner.
SOON = 60


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as server:
        yield server


@asynccontextmanager
async def opened(
    bucket: Bucket, url: str, limits: Limits = QUICK, **settings: Any
) -> AsyncIterator[VectorStore]:
    backend = LancedbBackend(url, bucket.settings(**settings), limits)
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        yield store


def row(id: str, owner: str | None = None) -> dict[str, Any]:
    return {"id": id, "embedding": [1.0, 2.0, 3.0, 4.0], "owner": owner}


async def ids_in(store: VectorStore) -> list[str]:
    return [id async for batch in store.export("notes") for id in batch.column("id").to_pylist()]


# What a user does


async def test_a_store_from_its_first_row_to_its_next_opening(bucket: Bucket) -> None:
    url = bucket.new_url()
    rows = [State(1, 1).row(f"id{n}", f"o{n % 5}") for n in range(300)]
    async with opened(bucket, url) as store:
        await store.create_table("notes", Schema(16, fields={**FIELDS, "owner": str}))
        assert await store.insert("notes", rows) == 300
        hits = await store.search("notes", rows[7]["embedding"], limit=5, where="owner = 'o2'")
        assert hits[0].id == "id7"
        assert len(hits) == 5
        assert await store.upsert("notes", [State(2, 2).row("id7", "o2")]) == 1
        assert await store.update("notes", {"owner": "other"}, ids=["id8"]) == 1
        assert await store.delete("notes", ["id9", "absent"]) == 1
        await store.optimize("notes")
        if store.supports("indexes"):
            await store.create_index("notes", "ivf_flat")
            assert (await store.indexes("notes"))[0].kind == "ivf_flat"
        assert len(await ids_in(store)) == 299
        versions = await store.versions("notes")
        await store.restore("notes", versions[-1]["version"])
    async with opened(bucket, url) as store:
        assert await store.tables() == ["notes"]
        assert await store.count("notes") == 299
        [record] = await store.get("notes", "id7")
        assert State(2, 2).problems(record, "o2") == []
        [hit] = await store.search("notes", record.vector, limit=1)
        assert hit.id == "id7"
        await store.drop_table("notes")
        assert await store.tables() == []


async def test_a_backup_holds_the_writers_of_other_processes_off(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two stores are as two processes here: each has leases of its own."""
    url, at_once = bucket.new_url(), Limits(export=ExportLimits(one_moment=0))
    patient = {"busy_timeout": 60}
    async with (
        opened(bucket, url, **patient) as writer,
        opened(bucket, url, at_once, **patient) as store,
    ):
        for name in ("one", "two"):
            await writer.create_table(name, SCHEMA)

        async def write() -> None:
            for n in range(15):
                await writer.insert("one", [row(f"r{n}")])
                await writer.insert("two", [row(f"r{n}")])

        writing = asyncio.ensure_future(write())
        for copy in ("first", "second"):
            await asyncio.sleep(0.2)
            await store.backup(tmp_path / copy)
        await writing
    assert not [record for record in caplog.records if record.name.startswith("aiovec")]
    for copy in ("first", "second"):
        async with aiovec.connect(f"lancedb://{tmp_path / copy}") as copied:
            counts = [await copied.count(name) for name in ("one", "two")]
            assert counts[0] - counts[1] in {0, 1}


def _toml(folder: Path, url: str, options: dict[str, str] | None) -> Path:
    path = folder / "aiovec.toml"
    text = f'[retrieval]\nbackend = "lancedb"\nlancedb_url = "{url}"\n'
    if options:
        pairs = ", ".join(f'{key} = "{value}"' for key, value in options.items())
        text += f"[retrieval.lancedb]\nstorage_options = {{ {pairs} }}\n"
    path.write_text(text)
    return path


async def _use(store: VectorStore) -> None:
    await store.create_table("notes", SCHEMA)
    await store.insert("notes", [row("a")])
    assert [hit.id for hit in await store.search("notes", [1, 2, 3, 4])] == ["a"]


async def test_options_from_the_toml_file(bucket: Bucket, tmp_path: Path) -> None:
    path = await asyncio.to_thread(_toml, tmp_path, bucket.new_url(), bucket.options)
    async with aiovec.connect(config=path) as store:
        await _use(store)


async def test_options_from_the_environment(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    async with aiovec.connect(bucket.new_url()) as store:
        await _use(store)
    path = await asyncio.to_thread(_toml, tmp_path, bucket.new_url(), None)
    async with aiovec.connect(config=path) as store:
        await _use(store)


async def test_options_by_the_environment_of_aiovec(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = json.dumps(bucket.options)
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__STORAGE_OPTIONS", options)
    async with aiovec.connect(bucket.new_url()) as store:
        await _use(store)


# Writers in several processes


def race(bucket: Bucket, rounds: int, **environment: str) -> tuple[list[int], list[str]]:
    """Two processes write the same new ids: what each won, and the ids after it."""
    url = bucket.new_url()

    async def create() -> None:
        async with opened(bucket, url) as store:
            await store.create_table("notes", SCHEMA)

    async def look() -> list[str]:
        async with opened(bucket, url) as store:
            return await ids_in(store)

    asyncio.run(create())
    won = racing.race(url, rounds, {**bucket.environment, **environment})
    return won, asyncio.run(look())


def _check_race(bucket: Bucket, rounds: int) -> None:
    won, ids = race(bucket, rounds)
    assert len(ids) == len(set(ids)) == 3 * rounds + 1
    assert sum(won) == rounds


def test_two_processes(bucket: Bucket) -> None:
    _check_race(bucket, 4)


@pytest.mark.soak
def test_two_processes_60_rounds(bucket: Bucket) -> None:
    _check_race(bucket, 60)


@pytest.mark.soak
def test_without_the_lock_ids_stand_twice(bucket: Bucket) -> None:
    """Why there is one: Lance merges the appends of two writers without a look at their ids."""
    _, ids = race(bucket, 40, AIOVEC_RETRIEVAL__LANCEDB__BUCKET_LOCK="false")
    assert len(ids) > len(set(ids))


async def test_tasks_and_stores_of_one_process(bucket: Bucket) -> None:
    url = bucket.new_url()
    async with opened(bucket, url) as one, opened(bucket, url) as two:
        await one.create_table("notes", SCHEMA)
        for n in range(3):
            calls = [store.insert("notes", [row(f"i{n}")]) for store in (one, two) * 3]
            calls += [store.upsert("notes", [row(f"u{n}")]) for store in (one, two) * 3]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert outcomes[:6].count(1) == 1
            assert sum(isinstance(o, DuplicateIdError) for o in outcomes[:6]) == 5
            assert outcomes[6:] == [1] * 6
        ids = await ids_in(one)
        assert len(ids) == len(set(ids)) == 6


# The lock object


def lock_of(bucket: Bucket, url: str, **options: Any) -> bucket_lock.LeasedLock:
    place = bucket_lock.Bucket(url, url, bucket.options)
    # A key of its own, so that only the object keeps two of them apart.
    return bucket_lock.LeasedLock(
        f"lock {id(options)} {time.monotonic_ns()}", place, "notes", **options
    )


def test_the_lock_excludes(bucket: Bucket) -> None:
    url = bucket.new_url()
    one, two = lock_of(bucket, url), lock_of(bucket, url)
    for _ in range(3):
        assert one.acquire(5)
        assert not two.acquire(0.3)
        one.release()
        assert two.acquire(5)
        assert not one.acquire(0.3)
        two.release()
    for lock in (one, two):
        lock.close()


def test_a_lock_left_behind_is_taken_over(bucket: Bucket) -> None:
    url = bucket.new_url()
    dead, heir = lock_of(bucket, url, term=0.6), lock_of(bucket, url, term=60)
    dead._keep = lambda tag, over: None  # type: ignore[method-assign]  # its process is dead
    assert dead.acquire(5)
    begun = time.monotonic()
    assert heir.acquire(30)
    assert time.monotonic() - begun > 0.6
    heir.release()
    heir.close()


def dead_lock(bucket: Bucket, url: str, table: str = "notes", **options: Any) -> None:
    """Leave a lock behind, as a process does that is killed."""
    place = bucket_lock.Bucket(url, url, bucket.options)
    lock = bucket_lock.LeasedLock(f"dead {table} {time.monotonic_ns()}", place, table, **options)
    lock._keep = lambda tag, over: None  # type: ignore[method-assign]
    assert lock.acquire(5)


def test_who_asks_for_a_lock_left_behind_waits_no_longer(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is written into the lock, which looked like a sign of life of its holder."""
    url = bucket.new_url()
    dead_lock(bucket, url, term=60)
    heir = lock_of(bucket, url)
    found = heir._look()
    assert found is not None
    assert not heir._may_take(*found)
    now = time.monotonic
    monkeypatch.setattr(bucket_lock.time, "monotonic", lambda: now() + 61)
    heir._waits_since = 0.0
    heir._ask_for(*found)
    asked = heir._look()
    assert asked is not None
    assert asked[1]["wanted"]
    assert asked[0] != found[0]
    assert heir._may_take(*asked)


def test_a_lock_is_watched_for_others_of_the_process(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket.new_url()
    dead_lock(bucket, url, term=60)
    place = bucket_lock.Bucket(url, url, bucket.options)
    watcher, heir = (bucket_lock.LeasedLock("watched", place, "notes") for _ in range(2))
    watcher.watch()
    now = time.monotonic
    with monkeypatch.context() as patched:
        patched.setattr(bucket_lock.time, "monotonic", lambda: now() + 61)
        assert heir.acquire(0)
    heir.release()
    heir.close()


async def test_two_locks_left_behind_expire_at_once(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the upkeep of a dead process watches the lock that it wrote under, too."""
    url, watched = bucket.new_url(), set()

    def watch(lock: bucket_lock.LeasedLock) -> None:
        watched.add(lock._object)
        real(lock)

    real = bucket_lock.LeasedLock.watch
    monkeypatch.setattr(bucket_lock.LeasedLock, "watch", watch)
    async with opened(bucket, url) as store:
        await store.create_table("notes", SCHEMA)
        for table in ("notes", "notes.upkeep"):
            await asyncio.to_thread(dead_lock, bucket, url, table, term=0.3)
        await store.drop_table("notes")
        assert watched == {LOCK}
        assert await store.tables() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        '{"term": null}', '{"term": "long"}', '{"term": 1e300}', '{"term": NaN}', '{"term": -1}',
        '{"term": 1%s}' % ("0" * 400), '{"free": [1]}', "[" * 100_000, "[]", "\0",
    ],
    ids=range(10),
)  # fmt: skip
def test_a_lock_object_of_any_text_is_taken_over(bucket: Bucket, text: str) -> None:
    url = bucket.new_url()
    store = bucket_lock.Bucket(url, url, bucket.options).store()
    obstore.put(store, LOCK, text.encode())
    lock = lock_of(bucket, url, term=0.4)
    assert not lock.acquire(0), "its own term counts in place of one that cannot be"
    assert lock.acquire(30)
    lock.release()
    lock.close()


def test_a_lock_that_no_thread_can_keep_is_given_back(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket.new_url()
    lock, other = lock_of(bucket, url, term=60), lock_of(bucket, url)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(AiovecError, match="needs a thread"):
            lock.acquire(5)
    for one in (lock, other):
        assert one.acquire(5)
        one.release()
        one.close()


@pytest.mark.slow
def test_a_lock_that_is_held_for_long_is_not_taken_over(bucket: Bucket) -> None:
    url = bucket.new_url()
    holder, other = lock_of(bucket, url, term=2.0), lock_of(bucket, url, term=2.0)
    assert holder.acquire(5)
    assert not other.acquire(3.5)
    holder.release()
    assert other.acquire(5)
    other.release()
    for lock in (holder, other):
        lock.close()


def test_a_holder_that_lost_its_lock_says_so(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    url = bucket.new_url()
    holder = lock_of(bucket, url, term=0.8)
    assert holder.acquire(5)
    obstore.delete(bucket_lock.Bucket(url, url, bucket.options).store(), ".aiovec/notes.lock")
    other = lock_of(bucket, url)
    assert other.acquire(5)
    with caplog.at_level(logging.ERROR, "aiovec.lancedb"):
        holder.release()
        holder.close()
    assert "another process may have written" in caplog.text
    assert not lock_of(bucket, url).acquire(0.2), "the other still holds it"
    other.release()
    other.close()


def test_who_writes_without_a_pause_gives_way(bucket: Bucket) -> None:
    url = bucket.new_url()
    busy, other = lock_of(bucket, url), lock_of(bucket, url)
    over = threading.Event()
    turns = 0

    def write() -> None:
        nonlocal turns
        while not over.is_set():
            assert busy.acquire(30)
            turns += 1
            time.sleep(0.02)
            busy.release()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            before = turns
            assert other.acquire(30)
            # Each write of the other is one turn: this one asks after half a second.
            assert turns - before < 150
            other.release()
    finally:
        over.set()
        thread.join()
        for lock in (busy, other):
            lock.close()


KILLED = """
import sys, time
from aiovec_lancedb.locks import bucket
lock = bucket.LeasedLock("x", bucket.Bucket(sys.argv[1], sys.argv[1], {}), "notes", term=1.5)
assert lock.acquire(10)
print("held", flush=True)
time.sleep(60)
"""


async def test_a_killed_process_keeps_nobody_out_for_long(bucket: Bucket) -> None:
    url = bucket.new_url()
    async with opened(bucket, url) as store:
        await store.create_table("notes", SCHEMA)
    async with opened(bucket, url, busy_timeout=0.5) as store:
        process = python(
            "-c", KILLED, url, stdout=subprocess.PIPE, env={**os.environ, **bucket.environment}
        )
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "held\n"
            with pytest.raises(StoreBusyError):
                await store.insert("notes", [row("a")])
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)
    async with opened(bucket, url) as store:
        assert await store.count("notes") == 0
        assert await store.insert("notes", [row("a")]) == 1


# Requests that write take a while, as they do over a network.
UNCLOSED = """
import asyncio, sys, time, warnings
import aiovec, obstore
from aiovec import Schema

put = obstore.put

def slowly(*arguments, **options):
    time.sleep(0.5)
    return put(*arguments, **options)

obstore.put = slowly

async def main():
    store = await aiovec.connect(sys.argv[1])
    await store.create_table("notes", Schema(4), exist_ok=True)
    await store.insert("notes", [{"id": sys.argv[2], "embedding": [1, 2, 3, 4]}])
    if sys.argv[2] == "hangs":
        asyncio.get_running_loop().stop()  # as a framework does that is told to exit

warnings.simplefilter("ignore", ResourceWarning)
try:
    asyncio.run(main())
except RuntimeError as exc:
    if "stopped before" not in str(exc):
        raise
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["returns", "hangs"])
async def test_a_process_that_exits_without_a_close_leaves_no_lock(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """B19: the next writer waited for the whole term of the lock."""
    url = bucket.new_url()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    for _ in range(1 if how == "hangs" else 2):
        await run_code(UNCLOSED, url, how)
        found = await asyncio.to_thread(
            lambda: obstore.get(bucket_lock.Bucket(url, url, bucket.options).store(), LOCK).bytes()
        )
        assert json.loads(bytes(found))["free"] is True
        async with opened(bucket, url) as store:
            assert await store.delete("notes", [how]) == 1


# A server that fails


class _Failing(http.server.BaseHTTPRequestHandler):
    """Answers every request with one status; 0 stands for no answer."""

    status = 500
    over: threading.Event

    def _answer(self) -> None:
        if not self.status:
            self.over.wait()
            return
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def failing(status: int) -> Iterator[str]:
    over = threading.Event()
    handler = type("Handler", (_Failing,), {"status": status, "over": over})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()
            thread.join()


def nobody_listens() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def told(settings: LancedbSettings, url: str = f"s3://{BUCKET}/store") -> str:
    """Opening fails: what is said. Nothing of it is a secret."""
    backend = LancedbBackend(url, settings)
    async with asyncio.timeout(SOON):
        with pytest.raises(AiovecError) as caught:
            await backend.open()
    await backend.close()
    error: BaseException | None = caught.value
    shown = [repr(backend), repr(settings), backend.target]
    while error is not None:
        shown += [str(error), repr(error), *traceback.format_exception(error)]  # B7
        error = error.__cause__ or error.__context__
    assert not any(secret in text for text in shown for secret in (SECRET, KEY_ID)), shown
    assert url in str(caught.value)
    assert not re.search(r"\.rs|RetryError|Location", str(caught.value))
    return str(caught.value)


@pytest.mark.slow
async def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    assert "bucket does not exist" in await told(bucket.settings(), "s3://another-bucket/store")


@pytest.mark.slow
async def test_wrong_credentials() -> None:
    with s3_server(open_to_all=False) as strict:
        assert "rejects these credentials" in await told(strict.settings())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, r"rejects these credentials.*HTTP 403"),
        (404, r"does not know this address.*HTTP 404"),
        (500, r"the server fails.*HTTP 500"),
        (503, r"the server fails.*HTTP 503"),
        (0, "did not answer in time|did not answer within"),
    ],
)
async def test_a_server_that_fails(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, status: int, says: str
) -> None:
    with failing(status) as endpoint:
        options = {**bucket.options, "aws_endpoint": endpoint, "timeout": "0.5s"}
        options["client_max_retries"] = "0"
        assert re.search(says, await told(LancedbSettings(storage_options=options)))


@pytest.mark.slow
async def test_nobody_listens(bucket: Bucket) -> None:
    options = {**bucket.options, "aws_endpoint": nobody_listens()}
    assert "cannot be reached" in await told(LancedbSettings(storage_options=options))


@pytest.mark.slow
async def test_http_has_to_be_allowed(bucket: Bucket) -> None:
    options = {**bucket.options, "allow_http": "false"}
    assert "allow_http" in await told(LancedbSettings(storage_options=options))


@pytest.mark.soak
async def test_a_server_that_goes_away() -> None:
    with own_s3_server() as server:
        async with opened(server, server.new_url()) as store:
            await store.create_table("notes", SCHEMA)
            await store.insert("notes", [row("a")])
            await asyncio.to_thread(server.end)
            calls = {
                "count": lambda: store.count("notes"), "ping": store.ping,
                "search": lambda: store.search("notes", [1, 2, 3, 4]),
                "insert": lambda: store.insert("notes", [row("b")]),
                "export": lambda: ids_in(store),
            }  # fmt: skip
            for name, call in calls.items():
                async with asyncio.timeout(SOON):
                    with pytest.raises(AiovecError) as caught:
                        await call()
                assert "cannot be reached" in str(caught.value), f"{name}: {caught.value}"
                assert SECRET not in str(caught.value.__cause__)


@pytest.mark.soak
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
async def test_a_server_that_stands_still_and_goes_on() -> None:
    with own_s3_server() as server:
        options = {**server.options, "timeout": "1s", "client_max_retries": "0"}
        backend = LancedbBackend(server.new_url(), LancedbSettings(storage_options=options))
        await backend.open()
        async with VectorStore(backend, RetrievalSettings()) as store:
            await store.create_table("notes", SCHEMA)
            await store.insert("notes", [row("a")])
            server.process.send_signal(signal.SIGSTOP)
            try:
                # By the moment at which it stopped, LanceDB tells one or the other.
                says = "did not answer in time|cannot be reached"
                for call in (
                    lambda: store.count("notes"),
                    lambda: store.insert("notes", [row("b")]),
                ):
                    async with asyncio.timeout(SOON):
                        with pytest.raises(AiovecError, match=says):
                            await call()
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert await store.count("notes") == 1
            assert await store.insert("notes", [row("b")]) == 1


# Where the lock finds what it needs


def test_options_of_the_lock(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that LanceDB takes: of the storage, of the HTTP client, and its own."""
    url = bucket.new_url()
    others = {"AWS_ALLOW_HTTP": "true", "new_table_enable_stable_row_ids": "false", "Timeout": "9s"}
    options = {k: v for k, v in bucket.options.items() if k != "allow_http"} | others
    lock = bucket_lock.LeasedLock("options", bucket_lock.Bucket(url, url, options), "notes")
    assert lock.acquire(5)
    lock.release()
    lock.close()
    assert SECRET not in repr(bucket_lock.Bucket(url, url, options))


async def test_a_store_without_conditional_writes(bucket: Bucket) -> None:
    """An old server that knows none of them refuses the lock, and the write with it."""
    url = bucket.new_url()
    with failing(501) as endpoint:
        options = {**bucket.options, "aws_endpoint": endpoint}
        lock = bucket_lock.LeasedLock("none", bucket_lock.Bucket(url, url, options), "notes")
        with pytest.raises(AiovecError, match="does not support this request"):
            await asyncio.to_thread(lock.acquire, 5)


def test_vectors_travel_unchanged(bucket: Bucket) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((50, 4), dtype=np.float32)

    async def go() -> None:
        async with opened(bucket, bucket.new_url()) as store:
            await store.create_table("notes", SCHEMA)
            ids = [f"v{n:02}" for n in range(50)]
            await store.insert("notes", {"id": ids, "embedding": vectors})
            for n, record in enumerate(await store.get("notes", ids)):
                assert record.vector.tobytes() == vectors[n].tobytes()

    asyncio.run(go())
