"""A store whose vectors come from a service that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import io
import logging
import math
import time
import traceback
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tests.embed.service import DIM, Reply, Request, Service, answer, vector_of
from tests.waiting import until

import aiovec
from aiovec import Embed, EmbeddingError, Schema, StoreClosedError, VectorStore

KEY = "sk-secretsecret-0123456789abcdef"
SCHEMA = Schema(DIM, fields={"body": str}, embed=Embed("body"))

Open = Callable[..., Any]


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as service:
        yield service


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    # Retries without their pauses, of which one test looks at the length.
    monkeypatch.setattr("aiovec._embed.batcher._FIRST_PAUSE", 0.01)


@pytest.fixture
def opened(service: Service, tmp_path: Path) -> Open:
    def opened(**options: object) -> Any:
        keys = {
            "kind": "openai", "model": "tiny", "dim": DIM, "base_url": service.url,
            "api_key_env": "MY_KEY", **options,
        }  # fmt: skip
        lines = ["[retrieval.embedders.default]"]
        for key, value in keys.items():
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            lines.append(f"{key} = {shown}")
        config = tmp_path / "aiovec.toml"
        config.write_text("\n".join(lines))
        return aiovec.connect(":memory:", config=config)

    return opened


async def with_table(store: VectorStore) -> VectorStore:
    await store.create_table("notes", SCHEMA)
    return store


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"id": f"r{n}", "body": f"text {n}"} for n in range(start, start + count)]


async def test_rows_and_searches_go_through_the_service(service: Service, opened: Open) -> None:
    async with opened(query_prefix="query: ", document_prefix="passage: ") as store:
        await with_table(store)
        assert (await store.schema("notes")).model == "tiny"
        await store.insert("notes", rows(3))
        (record,) = await store.get("notes", "r1")
        assert np.asarray(record.vector).tolist() == vector_of("passage: text 1")
        (hit,) = await store.search("notes", "text 1", limit=1)
        assert hit.id in {"r0", "r1", "r2"}
        documents, queries = service.requests
        assert documents.texts == [f"passage: text {n}" for n in range(3)]
        assert queries.texts == ["query: text 1"]
        assert documents.path == "/v1/embeddings"
        assert documents.headers["authorization"] == f"Bearer {KEY}"
        assert documents.document["model"] == "tiny"
        assert "dimensions" not in documents.document
        await store.search("notes", "text 1")  # from memory
        assert len(service.requests) == 2
        assert service.connections == 1


async def test_base64_and_a_requested_dim(service: Service, opened: Open) -> None:
    async with opened(base64=True, request_dim=True, cache_mb=0) as store:
        await with_table(store)
        await store.insert("notes", rows(2))
        assert service.requests[0].document["encoding_format"] == "base64"
        assert service.requests[0].document["dimensions"] == DIM
        (record,) = await store.get("notes", "r1")
        assert np.asarray(record.vector).tolist() == vector_of("text 1")
        await store.search("notes", "x")
        await store.search("notes", "x")
        assert len(service.requests) == 3  # without a cache


async def test_tasks_at_once_share_requests(service: Service, opened: Open) -> None:
    service.delay = 0.05
    async with opened() as store:
        await with_table(store)
        await store.count("notes")  # the table is open, as in an app that runs
        await asyncio.gather(*(store.insert("notes", rows(1, n)) for n in range(64)))
        assert await store.count("notes") == 64
        assert len(service.requests) <= 6
        assert sum(service.sizes) == 64


async def test_a_large_call_is_cut_into_requests(service: Service, opened: Open) -> None:
    service.delay = 0.01
    async with opened(batch_size=10, concurrency=3) as store:
        await with_table(store)
        await store.insert("notes", rows(95))
        assert sorted(service.sizes) == [5] + [10] * 9
        assert service.most_at_once <= 3
        found = await store.get("notes", [f"r{n}" for n in range(95)])
        for n, record in enumerate(found):
            assert np.asarray(record.vector).tolist() == vector_of(f"text {n}")


async def test_a_small_call_does_not_wait_for_a_large_one(service: Service, opened: Open) -> None:
    service.answers.clear()
    service.plan = [answer] * 5
    service.always = lambda _: Reply({}, hang=True)
    async with opened(batch_size=20, concurrency=1) as store:
        await with_table(store)
        large = asyncio.ensure_future(store.insert("notes", rows(1000)))
        await service.came.acquire()
        small = asyncio.ensure_future(store.insert("notes", [{"id": "small", "body": "small"}]))
        query = asyncio.ensure_future(store.search("notes", "a query"))
        desk = store._embedders._batchers["default"]._desk()
        await until(lambda: [len(queue) for queue in desk._queues.values()] == [1, 2])
        service.answers.set()
        # With the few answers that there are.
        await asyncio.wait_for(asyncio.gather(small, query), 20)
        assert not large.done()
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        assert await store.count("notes") == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_passing_failures_are_retried(status: int, service: Service, opened: Open) -> None:
    service.plan = [lambda _: Reply({"error": {"message": "busy"}}, status=status)] * 2
    async with opened() as store:
        await with_table(store)
        assert await store.insert("notes", rows(2)) == 2
        assert service.sizes == [2, 2, 2]


async def test_retry_after_is_honoured(service: Service, opened: Open) -> None:
    def soon() -> str:
        return formatdate(time.time() + 2, usegmt=True)

    service.plan = [
        lambda _: Reply({}, status=429, headers={"Retry-After": "0.3"}),
        lambda _: Reply({}, status=503, headers={"Retry-After": soon()}),
        lambda _: Reply({}, status=503, headers={"Retry-After": "nonsense"}),
    ]
    async with opened() as store:
        await with_table(store)
        began = time.monotonic()
        await store.insert("notes", rows(1))
        assert 0.9 < time.monotonic() - began < 10
        # To wait longer than the call may take has no use.
        service.plan = [lambda _: Reply({}, status=429, headers={"Retry-After": "3600"})]
        began = time.monotonic()
        with pytest.raises(EmbeddingError, match="429") as caught:
            await store.insert("notes", rows(1, 5))
        assert time.monotonic() - began < 10
        assert caught.value.retryable
        assert caught.value.status == 429


async def test_a_service_that_stays_away_is_given_up(service: Service, opened: Open) -> None:
    service.always = lambda _: Reply({"error": {"message": "overloaded"}}, status=503)
    async with opened(retries=2) as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match="overloaded") as caught:
            await store.insert("notes", rows(3))
        assert (caught.value.status, caught.value.retryable) == (503, True)
        assert (caught.value.row, caught.value.id) == (0, "r0")
        assert "later" in str(caught.value)
        assert service.sizes == [3, 3, 3]  # the fault of none of the texts: not divided
        assert await store.count("notes") == 0


@pytest.mark.parametrize("status", [401, 403, 404, 301])
async def test_lasting_failures_are_not_retried(
    status: int, service: Service, opened: Open
) -> None:
    elsewhere = {"Location": "http://127.0.0.1:9/"}
    service.always = lambda _: Reply({"error": "no"}, status=status, headers=elsewhere)
    async with opened() as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match=str(status)) as caught:
            await store.insert("notes", rows(3))
        assert not caught.value.retryable
        assert len(service.requests) == 1


async def test_the_text_that_a_service_refuses_is_found(service: Service, opened: Open) -> None:
    def picky(request: Request) -> Reply:
        if any("bad" in text for text in request.texts):
            return Reply({"error": {"message": "input is too long"}}, status=400)
        return answer(request)

    service.always = picky
    async with opened() as store:
        await with_table(store)
        given = rows(20)
        given[13]["body"] = "a bad text"
        outcomes = await asyncio.gather(
            store.insert("notes", given), *(store.insert("notes", rows(1, n)) for n in (30, 31)),
            return_exceptions=True,
        )  # fmt: skip
        failed = outcomes[0]
        assert isinstance(failed, EmbeddingError)
        assert (failed.row, failed.id, failed.status) == (13, "r13", 400)
        assert "too long" in failed.reason
        assert outcomes[1:] == [1, 1]
        assert await store.count("notes") == 2


async def test_hangs_end_within_the_time_limits(service: Service, opened: Open) -> None:
    service.plan = [lambda _: Reply({}, hang=True)]
    async with opened(timeout=0.3) as store:
        await with_table(store)
        assert await store.insert("notes", rows(1)) == 1  # the second request had an answer
        service.always = lambda _: Reply({}, hang=True)
    async with opened(timeout=0.2, total_timeout=0.7, retries=100) as store:
        await with_table(store)
        began = time.monotonic()
        with pytest.raises(EmbeddingError, match=r"within 0\.") as caught:
            await store.insert("notes", rows(1))
        assert 0.5 < time.monotonic() - began < 10
        assert caught.value.retryable


async def test_cut_connections_and_cut_bodies_are_retried(service: Service, opened: Open) -> None:
    def cut(at: int) -> Callable[[Request], Reply]:
        def reply(request: Request) -> Reply:
            whole = answer(request)
            whole.cut = at
            return whole

        return reply

    service.plan = [cut(0), cut(20), cut(40)]
    async with opened() as store:
        await with_table(store)
        assert await store.insert("notes", rows(2)) == 2
        assert len(service.requests) == 4


async def test_a_service_that_is_not_there(opened: Open) -> None:
    async with opened(base_url="http://127.0.0.1:9/v1", retries=1) as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match=r"127\.0\.0\.1") as caught:
            await store.insert("notes", rows(1))
        assert caught.value.retryable
        assert caught.value.status is None


def replied(document: Any, request: Request) -> Reply:
    return Reply(document, status=401)


def item(n: int, vector: Any) -> dict[str, Any]:
    return {"index": n, "embedding": vector}


GOOD = vector_of("x")
WRONG: dict[str, tuple[Any, str]] = {
    "fewer": ({"data": [item(0, GOOD)]}, "1 vectors for 2 texts"),
    "more": ({"data": [item(n, GOOD) for n in range(3)]}, "3 vectors for 2 texts"),
    "none": ({"data": []}, "0 vectors"),
    "no data": ({"object": "list"}, "no list 'data'"),
    "a list": ([1, 2], "no list 'data'"),
    "null": (None, "no list 'data'"),
    "twice": ({"data": [item(1, GOOD), item(1, GOOD)]}, "index 1 stands twice"),
    "index": ({"data": [item(0, GOOD), item(2, GOOD)]}, "has the index 2"),
    "index below": ({"data": [item(0, GOOD), item(-1, GOOD)]}, "has the index -1"),
    "index of text": ({"data": [item(0, GOOD), {"index": "1", "embedding": GOOD}]}, "index '1'"),
    "short vector": ({"data": [item(0, GOOD), item(1, GOOD[:-1])]}, "7 dimensions, not 8"),
    "long vector": ({"data": [item(0, GOOD), item(1, [*GOOD, 1.0])]}, "9 dimensions, not 8"),
    "texts": ({"data": [item(0, GOOD), item(1, ["1"] * DIM)]}, "no list of numbers"),
    "nulls": ({"data": [item(0, GOOD), item(1, [None] * DIM)]}, "no list of numbers"),
    "flags": ({"data": [item(0, GOOD), item(1, [True] * DIM)]}, "no list of numbers"),
    "nested": ({"data": [item(0, GOOD), item(1, [[1.0]] * DIM)]}, "no list of numbers"),
    "base64": ({"data": [item(0, GOOD), item(1, "AAA=!")]}, "no list of numbers"),
    "base64 bytes": ({"data": [item(0, GOOD), item(1, "AAAA")]}, "no list of numbers"),
    "huge": ({"data": [item(0, GOOD), item(1, [10**400] * DIM)]}, "no list of numbers"),
    "no embedding": ({"data": [item(0, GOOD), {"index": 1}]}, "no 'embedding'"),
    "NaN": ({"data": [item(0, GOOD), item(1, [math.nan] * DIM)]}, "NaN or infinity"),
    "too large": ({"data": [item(0, GOOD), item(1, [1e300] * DIM)]}, "NaN or infinity"),
    "zero": ({"data": [item(0, GOOD), item(1, [0.0] * DIM)]}, "zero"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_answers_write_nothing(name: str, service: Service, opened: Open) -> None:
    document, words = WRONG[name]
    service.always = lambda _: Reply(document)
    async with opened() as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match=words) as caught:
            await store.insert("notes", rows(2))
        assert caught.value.embedder == "default"
        assert caught.value.model == "tiny"
        assert not caught.value.retryable
        assert await store.count("notes") == 0


@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b"{", b"\xff\xfe", b"[" * 100_000, b'{"data": 1e999}']
)
async def test_what_is_no_json(raw: bytes, service: Service, opened: Open) -> None:
    service.always = lambda _: Reply(raw=raw)
    async with opened() as store:
        await with_table(store)
        with pytest.raises(EmbeddingError):
            await store.insert("notes", rows(1))


async def test_nan_fails_only_its_own_call(service: Service, opened: Open) -> None:
    def some(request: Request) -> Reply:
        data = [
            item(n, [math.nan] * DIM if "7" in text else vector_of(text))
            for n, text in enumerate(request.texts)
        ]
        return Reply({"data": data})

    service.always = some
    async with opened() as store:
        await with_table(store)
        outcomes = await asyncio.gather(
            *(store.insert("notes", rows(1, n)) for n in range(10)), return_exceptions=True
        )
        assert [n for n, outcome in enumerate(outcomes) if outcome != 1] == [7]


async def test_a_huge_body_is_not_read(service: Service, opened: Open) -> None:
    service.always = lambda _: Reply(raw=b" " * 30_000_000)
    async with opened() as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match="longer than"):
            await store.insert("notes", rows(1))
        service.always = lambda _: Reply(raw=b"x" * 30_000_000, status=400)
        with pytest.raises(EmbeddingError, match="HTTP 400: xxx") as caught:
            await store.insert("notes", rows(1))
        assert len(str(caught.value)) < 600


async def test_compressed_answers_are_not_taken(service: Service, opened: Open) -> None:
    import gzip

    bomb = gzip.compress(b" " * 50_000_000)
    service.always = lambda _: Reply(raw=bomb, headers={"Content-Encoding": "gzip"})
    async with opened() as store:
        await with_table(store)
        with pytest.raises(EmbeddingError):
            await store.insert("notes", rows(1))
        assert service.requests[0].headers["accept-encoding"] == "identity"


async def test_the_key_is_nowhere(
    service: Service, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}, Authorization: Bearer {KEY}"}}
    replies: list[Callable[[Request], Reply]] = [
        lambda _: Reply(echo, status=401),
        lambda _: Reply(echo, status=400),
        lambda _: Reply(echo, status=500),
        lambda _: Reply(raw=f"it is {KEY}".encode()),
        lambda _: Reply(raw=(" " * 65_500 + KEY).encode(), status=401),
        lambda _: Reply(raw=KEY.encode() * 1000, status=403),
        lambda _: Reply({"data": [{"index": KEY, "embedding": GOOD}]}),
        lambda _: Reply({"data": []}, cut=1),
        lambda _: Reply({"data": []}, hang=True),
        lambda _: Reply({"error": {"message": f"key {KEY[:8]}*****{KEY[-6:]}"}}, status=401),
    ]
    seen: list[str] = []
    async with opened(retries=0, timeout=0.5) as store:
        await with_table(store)
        seen += [repr(store), repr(store._embedders._batchers), repr(store._embedders._services)]
        for reply in replies:
            service.always = reply
            with pytest.raises(EmbeddingError) as caught:
                await store.insert("notes", rows(1))
            error = caught.value
            told = io.StringIO()
            exceptions = traceback.TracebackException.from_exception(error, capture_locals=True)
            # The test's own frame holds the key; all others are the product's.
            for line in exceptions.format():
                if "tests/embed" not in line:
                    told.write(line)
            seen += [str(error), repr(error), repr(error.__dict__), told.getvalue()]
            seen += [repr(error.__cause__), repr(error.__context__)]
    for bad in ("with space\n", "ü" * 20, "\x00bad-key-here"):
        with monkeypatch.context() as patch:
            try:
                patch.setenv("MY_KEY", KEY + bad)
            except ValueError:  # an environment takes no NUL
                continue
            said = {"error": {"message": f"Incorrect API key provided: {KEY + bad}"}}
            service.always = partial(replied, said)
            async with opened(retries=0) as store:
                await with_table(store)
                with pytest.raises(EmbeddingError) as caught:
                    await store.insert("notes", rows(1))
                seen += [str(caught.value), repr(caught.value.__cause__)]
    seen.append(caplog.text)
    whole = "\n".join(seen)
    assert "EmbeddingError" in whole
    for secret in (KEY, KEY[:12], KEY[-8:]):
        assert secret not in whole


async def test_a_key_that_is_not_set(
    service: Service, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY")
    async with opened() as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match="MY_KEY holds no key"):
            await store.insert("notes", rows(1))
        assert not service.requests
    # A service of one's own gets no key that is meant for another.
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with opened(api_key_env="") as store:
        await with_table(store)
        await store.insert("notes", rows(1))
        assert "authorization" not in service.requests[0].headers


async def test_cancellation_at_every_stage(service: Service, opened: Open) -> None:
    service.delay = 0.02
    async with opened(batch_size=4, concurrency=2, retries=1) as store:
        await with_table(store)
        service.plan = [lambda _: Reply({}, status=503)] * 3
        for pause in [0.0, *(n / 400 for n in range(0, 60, 3))]:
            calls = [
                asyncio.ensure_future(store.insert("notes", rows(6, 100 * n))) for n in range(4)
            ]
            await asyncio.sleep(pause)
            for call in calls[:3]:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert outcomes[3] == 6 or isinstance(outcomes[3], EmbeddingError)
            ids = {record.id for record in await store.find("notes", limit=1000)}
            for n, outcome in enumerate(outcomes):
                mine = {f"r{100 * n + k}" for k in range(6)}
                kept = len(mine & ids)
                assert kept == 6 if outcome == 6 else kept in (0, 6)
            await store.delete_where("notes", "TRUE")
        desk = store._embedders._batchers["default"]._desk()
        await until(lambda: not desk._flights)
        assert not any(desk._queues.values())
        assert set(desk._waiting.values()) == {0}


async def test_a_request_that_nobody_wants_is_given_up(service: Service, opened: Open) -> None:
    service.plan = [lambda _: Reply({}, hang=True)] * 2
    async with opened(concurrency=1) as store:
        await with_table(store)
        calls = [asyncio.ensure_future(store.insert("notes", rows(1, n))) for n in range(3)]
        await service.came.acquire()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        service.plan = []
        assert await asyncio.wait_for(store.insert("notes", rows(1)), 10) == 1


async def test_closing_ends_what_waits(service: Service, opened: Open) -> None:
    service.always = lambda _: Reply({}, hang=True)
    store = await opened()
    await with_table(store)
    calls = [asyncio.ensure_future(store.insert("notes", rows(1, n))) for n in range(3)]
    await service.came.acquire()
    await asyncio.wait_for(store.close(), 10)
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, StoreClosedError)
    with pytest.raises(StoreClosedError):
        await store.search("notes", "text")


def test_one_loop_after_another(tmp_path: Path) -> None:
    async def first() -> VectorStore:
        async with Service() as service:
            service.keeps_alive = False
            (tmp_path / "aiovec.toml").write_text(
                "[retrieval.embedders.default]\n"
                f'model = "tiny"\ndim = {DIM}\nbase_url = "{service.url}"\n'
            )
            store = await aiovec.connect(tmp_path / "notes.db", config=tmp_path / "aiovec.toml")
            await with_table(store)
            await store.insert("notes", rows(2))
            return store

    store = asyncio.run(first())

    async def second() -> None:
        async with Service() as service:
            section: Any = store._embedders._services[0]._embedder
            section._url = f"{service.url}/embeddings"
            await store.insert("notes", rows(2, 10))
            assert await store.count("notes") == 4
            await store.close()

    asyncio.run(second())
