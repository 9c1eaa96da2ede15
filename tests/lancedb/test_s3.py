"""The store on an S3 server: what it does there, its writers, and a server that fails."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.marks import begin_move, pause_writers, resume_writers, set_moved
from tests.harness.processes import start_code
from tests.harness.proxy import Proxy
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import AiovecError, DuplicateIdError, Schema, TableExistsError, TableNotFoundError

from . import contest
from .buckets import BUCKET, KEY_ID, SECRET, Bucket, s3_server
from .support import backend_on, ids_in, opened

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as server:
        yield server


@pytest.fixture
def environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let other processes reach the bucket."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


# A process that makes a table, and inserts a row of this number, or drops the table, as each line
# says.
OTHER = """
import asyncio, sys
import aiovec
from tests.harness.values import SMALL, small_rows

async def main():
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        target, table, number = line.split()
        async with aiovec.connect(target) as store:
            if number == "drop":
                await store.drop_table(table)
            else:
                await store.create_table(table, SMALL, exist_ok=True)
            if number.isdecimal():
                await store.insert(table, small_rows(1, start=int(number)))
        print("done", flush=True)

asyncio.run(main())
"""


async def tell(process: asyncio.subprocess.Process, *words: object) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
    assert await process.stdout.readline() == b"done\n"


async def test_an_index_a_version_and_a_backup(bucket: Bucket, tmp_path: Path) -> None:
    """The contract suite has all other calls of a store in a bucket."""
    async with opened(bucket.new_url(), storage_options=bucket.options, index="none") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(300))
        await store.create_index("notes", "ivf_flat")
        hits = await store.search("notes", small_rows(300)[7]["embedding"], where="year < 100")
        assert (hits[0].id, len(hits)) == ("r0007", 10)
        version = (await store.versions("notes"))[-1]["version"]
        await store.delete("notes", where="TRUE")
        await store.revert("notes", version)
        await store.backup(tmp_path / "copy")
    async with opened(tmp_path / "copy") as copy:
        assert await ids_in(copy) == [row["id"] for row in small_rows(300)]
        assert [info.kind for info in await copy.indexes("notes")] == ["ivf_flat"]


async def test_storage_options_come_from_the_toml_or_the_environment(
    bucket: Bucket, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = tmp_path / "aiovec.toml"
    text = f'[retrieval]\nbackend = "lancedb"\nlancedb_url = "{bucket.new_url()}"\n'
    pairs = ", ".join(f'{key} = "{value}"' for key, value in bucket.options.items())
    config.write_text(f"{text}[retrieval.lancedb]\nstorage_options = {{ {pairs} }}\n")
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", SMALL)
    config.write_text(text)
    request.getfixturevalue("environment")
    async with aiovec.connect(config=config) as store:
        assert await store.tables() == ["notes"]


async def test_an_index_is_measured_with_few_requests(bucket: Bucket) -> None:
    """The vectors that measured searches find are read once, and not for each search."""
    rng = np.random.default_rng(0)
    async with Proxy(bucket.endpoint) as proxy:
        options = {**bucket.options, "aws_endpoint": proxy.url}
        async with opened(bucket.new_url(), storage_options=options, index="none") as store:
            await store.create_table("notes", Schema(16))
            vectors = rng.standard_normal((2000, 16)).astype(np.float32)
            ids = [f"r{n}" for n in range(2000)]
            await store.insert("notes", {"id": ids, "embedding": vectors})
            before = len(proxy.requests)
            await store.create_index("notes", "ivf_flat")
            [info] = await store.indexes("notes")
            assert info.recall is not None
            read = [request for request in proxy.requests[before:] if "/data/" in request.line]
            assert len(read) < 300


async def test_facts_take_no_request_for_each_version(bucket: Bucket) -> None:
    """A table may have a hundred versions, whose manifests nobody needs to read for that."""
    async with Proxy(bucket.endpoint) as proxy:
        settings = {"storage_options": {**bucket.options, "aws_endpoint": proxy.url}}
        settings |= {"upkeep": "elsewhere", "max_versions": 1}
        async with opened(bucket.new_url(), **settings) as store:
            await store.create_table("notes", SMALL)
            for row in small_rows(40):
                await store.insert("notes", [row])
            await store.stats("notes")
            before = len(proxy.requests)
            assert (await store.stats("notes")).details["versions"] == 41
            assert len(proxy.requests) - before < 20
            await store.optimize("notes")  # another process may be reading the versions
            assert len(await store.versions("notes")) > 41


async def test_a_list_of_tables_asks_once_about_each(bucket: Bucket) -> None:
    async with Proxy(bucket.endpoint) as proxy:
        settings = {"storage_options": {**bucket.options, "aws_endpoint": proxy.url}}
        async with opened(bucket.new_url(), **settings, upkeep="elsewhere") as store:
            for n in range(5):
                await store.create_table(f"t{n}", SMALL)
            assert len(await store.tables()) == 5
            before = len(proxy.requests)
            for _ in range(2):
                assert len(await store.tables()) == 5
            with pytest.raises(TableNotFoundError):
                await store.count("t7")
            assert len(proxy.requests) - before < 12


async def test_a_feed_reads_the_history_several_versions_at_a_time(bucket: Bucket) -> None:
    """A reader that comes late needs the manifest of each version since its last visit."""
    url, most, now = bucket.new_url(), 0, 0

    async def slow(request: Any, ask: Any, client: asyncio.StreamWriter) -> bool:
        nonlocal most, now
        is_manifest = request.line.startswith("GET") and ".manifest" in request.line
        now += is_manifest
        most = max(most, now)
        await asyncio.sleep(0.05 * is_manifest)
        now -= is_manifest
        client.write(await ask())
        return True

    async with (
        Proxy(bucket.endpoint) as proxy,
        opened(url, storage_options=bucket.options, upkeep="elsewhere") as writer,
    ):
        options = {**bucket.options, "aws_endpoint": proxy.url}
        await writer.create_table("notes", SMALL)
        async with opened(url, storage_options=options, upkeep="elsewhere") as reader:
            number = (await reader.changes("notes", 0)).number
            for row in small_rows(20):
                await writer.insert("notes", [row])
            proxy.arm(*[slow] * 1000)
            page = await reader.changes("notes", number)
            assert len(page.upserted) == 20
            assert 4 < most <= 16


async def test_a_creation_overtaken_at_any_request_keeps_the_faster_ones_rows(
    bucket: Bucket, environment: pytest.MonkeyPatch
) -> None:
    """Whatever of one creation comes first: the rows of who was faster stay."""
    other = await start_code(OTHER)
    async with Proxy(bucket.endpoint) as proxy:
        options = {**bucket.options, "aws_endpoint": proxy.url}

        async def passing(_: Any, ask: Any, client: asyncio.StreamWriter) -> bool:
            client.write(await ask())
            return True

        for step in itertools.count():
            url = bucket.new_url()

            async def overtaking(*request: Any, url: str = url) -> bool:
                await tell(other, url, "notes", 0)
                return await passing(*request)

            async with opened(url, storage_options=options) as store:
                proxy.arm(*[passing] * step, overtaking)
                assert await store.create_table("notes", SMALL, exist_ok=True) == SMALL
                overtaken = not proxy.armed
                proxy.disarm()
                if not overtaken:
                    assert step > 3, "a creation takes hardly a request"
                    break
                assert await store.count("notes") == 1, f"overtaken at request {step}"
                assert await store.insert("notes", small_rows(1, start=1)) == 1
                with pytest.raises(TableExistsError):
                    await store.create_table("notes", SMALL)
                assert await ids_in(store) == ["r0000", "r0001"]
    await other.communicate(b"")


@pytest.mark.parametrize("written", [False, True])
async def test_a_creation_killed_at_any_write_leaves_a_table_or_a_free_name(
    bucket: Bucket, environment: pytest.MonkeyPatch, written: bool
) -> None:
    """At each of its writes, before or behind it: the name is free, or it is that of a table."""
    for at in itertools.count():
        url = bucket.new_url()
        async with Proxy(bucket.endpoint) as proxy:
            environment.setenv("AWS_ENDPOINT", proxy.url)
            process = await start_code(OTHER)
            writes = itertools.count()

            async def meddle(
                request: Any, ask: Any, client: asyncio.StreamWriter,
                process: Any = process, writes: Any = writes, at: int = at,
            ) -> bool:  # fmt: skip
                if request.line.startswith("PUT") and next(writes) == at:
                    if written:
                        await ask()
                    process.kill()
                    return False
                client.write(await ask())
                return True

            proxy.arm(*[meddle] * 1000)
            await process.communicate(f"{url} notes none\n".encode())
        if process.returncode == 0:
            assert at
            break
        async with opened(url, storage_options=bucket.options) as store:
            if "notes" in await store.tables():
                assert await store.count("notes") == 0
            else:
                with pytest.raises(TableNotFoundError):
                    await store.count("notes")
            await store.create_table("notes", SMALL, exist_ok=True)
            assert await store.insert("notes", small_rows(2)) == 2


async def test_a_transaction_of_a_killed_creation_is_no_table(bucket: Bucket) -> None:
    """It writes a transaction first, which is no table."""
    url = bucket.new_url()
    async with opened(url, storage_options=bucket.options) as store:
        bucket.put(url, "notes.lance/_transactions/0-7d3c.txn", b"some")
        assert await store.tables() == []
        for call in (store.count("notes"), store.insert("notes", small_rows(1))):
            with pytest.raises(TableNotFoundError):
                await call
        await store.create_table("notes", SMALL)
        assert await store.insert("notes", small_rows(2)) == 2
        assert await store.tables() == ["notes"]
        # The next one of that name is another one, and says so to who knew the first.
        await store.drop_table("notes")
        assert await store.tables() == []
        await store.create_table("notes", Schema(2))
        await store.insert("notes", [{"id": "a", "embedding": [1, 2]}])
        assert await store.count("notes") == 1


async def test_two_processes_with_calls_of_every_kind(bucket: Bucket) -> None:
    """Nothing is lost of what both write to a row, and of an id one insert wins."""
    rounds, url = 5, bucket.new_url()
    async with opened(url, storage_options=bucket.options) as store:
        await store.create_table("notes", SMALL)
        for task in range(contest.TASKS):
            ids = [f"shared{task}", *(f"g{task}-{n}" for n in range(rounds))]
            await store.insert("notes", list(map(contest.row, ids)))
        before = len(await store.versions("notes"))
    said = await asyncio.to_thread(contest.outputs_of_two, url, rounds, bucket.environment)
    won: list[list[str]] = list(map(json.loads, said))
    async with opened(url, storage_options=bucket.options) as store:
        records = await store.find("notes", limit=1000)
        rows = {record.id: record for record in records}
        assert len(records) == len(rows)
        for task in range(contest.TASKS):
            shared = rows.pop(f"shared{task}")
            assert (shared["one"], shared["two"]) == (rounds - 1, rounds - 1)
            for me in ("one", "two"):
                own = rows.pop(f"{me}{task}")
                assert (own["year"], own["name"]) == (rounds - 1, f"{rounds - 1}")
        assert {id: row["name"] for id, row in rows.items()} == {
            id: me for me, ids in zip(("one", "two"), won, strict=True) for id in ids
        }
        assert sum(map(len, won)) == len(rows)
        calls = 2 * contest.TASKS * rounds * 5
        assert len(await store.versions("notes")) - before < calls / 2


async def test_of_overlapping_inserts_one_is_kept_whole(bucket: Bucket) -> None:
    """Of two that share an id one is kept as a whole, and nothing of the other."""
    url, options = bucket.new_url(), bucket.options
    async with (
        opened(url, storage_options=options) as first,
        opened(url, storage_options=options) as second,
    ):
        await first.create_table("notes", SMALL)
        kept = []
        for n in range(6):
            batches = [small_rows(3, start=10 * n + shift, name=f"{shift}") for shift in (0, 2)]
            calls = [first.insert("notes", batches[0]), second.insert("notes", batches[1])]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes].count(DuplicateIdError) == 1, outcomes
            kept += batches[outcomes.index(3)]
        records = {row["id"]: row["name"] for row in await second.find("notes", limit=100)}
        assert records == {row["id"]: row["name"] for row in kept}
        assert len(await ids_in(first)) == len(kept)


async def test_a_write_to_a_table_that_another_process_drops(
    bucket: Bucket, environment: pytest.MonkeyPatch
) -> None:
    """Its files are missing then, and yet nothing is damaged."""
    url = bucket.new_url()
    async with Proxy(bucket.endpoint) as proxy:
        options = {**bucket.options, "aws_endpoint": proxy.url}
        async with opened(url, storage_options=options, upkeep="elsewhere") as store:
            await store.create_table("notes", SMALL)
            await store.insert("notes", small_rows(3))
            other = await start_code(OTHER)

            async def dropping(request: Any, ask: Any, client: asyncio.StreamWriter) -> bool:
                if request.line.startswith("GET") and "/data/" in request.line:
                    proxy.disarm()
                    await tell(other, url, "notes", "drop")
                client.write(await ask())
                return True

            proxy.arm(*[dropping] * 100)
            with pytest.raises(TableNotFoundError):
                await store.insert("notes", small_rows(2, start=5))
            assert not proxy.armed, "the insert read no rows"
            await other.communicate(b"")


@pytest.mark.parametrize("committing", [False, True])
@pytest.mark.parametrize("end", ["resumed", "expired", "left"])
@pytest.mark.usefixtures("environment")
async def test_a_write_in_a_pause_is_acknowledged_unless_the_store_is_left(
    bucket: Bucket, committing: bool, end: str
) -> None:
    """The pause begins before the write or, if ``committing``, while its commit is on the way to
    the server: nobody knows then whether the migration copies the row."""
    url, paused = bucket.new_url(), asyncio.Event()
    async with Proxy(bucket.endpoint) as proxy, backend_on(url) as mover:
        options = {**bucket.options, "aws_endpoint": proxy.url}
        async with opened(url, storage_options=options, upkeep="elsewhere") as store:
            await store.create_table("notes", SMALL)
            await begin_move(mover, "r1")

            async def pause() -> None:
                await pause_writers(mover, "r1", 0.5 if end == "expired" else 20.0)
                paused.set()

            async def overtaking(request: Any, ask: Any, client: asyncio.StreamWriter) -> bool:
                if request.line.startswith("PUT") and ".manifest" in request.line:
                    proxy.disarm()
                    await pause()
                client.write(await ask())
                return True

            proxy.arm(*[overtaking] * 100 * committing)
            if not committing:
                await pause()
            write = asyncio.ensure_future(store.insert("notes", small_rows(1)))
            await asyncio.wait_for(paused.wait(), 30)
            if end != "expired":
                await asyncio.wait({write}, timeout=1)
                assert not write.done()
            if end == "resumed":
                assert await resume_writers(mover, "r1")
            if end != "left":
                assert await write == 1
                assert await ids_in(store) == ["r0000"]
                assert not await set_moved(mover, "r1", 1)
                return
            assert await set_moved(mover, "r1", 1)
            error = aiovec.OutcomeUnknownError if committing else aiovec.StoreMovedError
            with pytest.raises(error, match="run r1" if committing else "has moved") as caught:
                await write
            assert caught.value.target == url


# A server that fails


@asynccontextmanager
async def failing(bucket: Bucket, status: int) -> AsyncIterator[str]:
    """Answer every request with one status; 0 stands for no answer."""

    async def fail(_: Any, __: Any, client: asyncio.StreamWriter) -> bool:
        if not status:
            await asyncio.Event().wait()
        client.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
        return True

    async with Proxy(bucket.endpoint) as proxy:
        proxy.arm(*[fail] * 1000)
        yield proxy.url


def nobody_listens() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def refusal(options: dict[str, str], url: str = f"s3://{BUCKET}/store") -> str:
    """Return the error of a store that cannot be opened. It shows no secret."""
    with pytest.raises(AiovecError) as caught:
        async with asyncio.timeout(120), opened(url, storage_options=options):
            pass
    error: BaseException | None = caught.value
    shown = []
    while error is not None:
        shown += [str(error), repr(error), *traceback.format_exception(error)]
        error = error.__cause__ or error.__context__
    assert not any(secret in text for text in shown for secret in (SECRET, KEY_ID)), shown
    assert url in str(caught.value)
    assert not re.search(r"\.rs|RetryError|Location", str(caught.value))
    return str(caught.value)


async def test_an_unreachable_store_is_explained_without_secrets(bucket: Bucket) -> None:
    once: dict[str, Any] = {**bucket.options, "timeout": "0.5s", "client_max_retries": "0"}
    with case("no bucket"):
        assert "bucket does not exist" in await refusal(bucket.options, "s3://another-bucket/store")
    with case("no http"):
        assert "allow_http" in await refusal({**bucket.options, "allow_http": "false"})
    with case("nobody listens"):
        assert "cannot be reached" in await refusal({**once, "aws_endpoint": nobody_listens()})

    async def meets(status: int, says: str) -> None:
        with case(status):
            async with failing(bucket, status) as endpoint:
                assert re.search(says, await refusal({**once, "aws_endpoint": endpoint}))

    await asyncio.gather(
        meets(403, r"rejects these credentials.*HTTP 403"),
        meets(404, r"does not know this address.*HTTP 404"),
        meets(500, r"the server fails.*HTTP 500"),
        meets(0, "did not answer in time|did not answer within"),
    )
    with s3_server(open_to_all=False) as strict:
        assert "rejects these credentials" in await refusal(strict.options)


async def test_bucket_without_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no role, whether it refuses the question or nobody answers it."""
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    options = {key: value for key, value in bucket.options.items() if "key" not in key}
    says = "no credentials; set storage_options, or the variables of this object storage"
    async with failing(bucket, 403) as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
        assert says in await refusal(options)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert says in await refusal(options)
