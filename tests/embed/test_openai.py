"""A store whose vectors come from a service that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case, toml_value
from tests.embed.service import DIM, Reply, Request, Service, answer, vector_of

import aiovec
from aiovec import Embed, EmbeddingError, Schema, VectorStore

KEY = "sk-secretsecret-0123456789abcdef"
SCHEMA = Schema(DIM, fields={"body": str}, embed=Embed("body"))
AT_ONCE = {"Retry-After": "0"}

Open = Callable[..., Any]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as service:
        yield service


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def opened(service: Service, tmp_path: Path) -> Open:
    def opened(**options: object) -> Any:
        keys = {
            "kind": "openai", "model": "tiny", "dim": DIM, "base_url": service.url,
            "api_key_env": "MY_KEY", **options,
        }  # fmt: skip
        lines = [f"{key} = {toml_value(value)}" for key, value in keys.items()]
        config = tmp_path / "aiovec.toml"
        config.write_text("\n".join(["[retrieval.embedders.default]", *lines]))
        return aiovec.connect(":memory:", config=config)

    return opened


async def with_table(store: VectorStore) -> VectorStore:
    await store.create_table("notes", SCHEMA)
    return store


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"id": f"r{n}", "body": f"text {n}"} for n in range(start, start + count)]


async def test_rows_and_queries_are_embedded_by_the_service(service: Service, opened: Open) -> None:
    async with opened(query_prefix="query: ", document_prefix="passage: ") as store:
        await with_table(store)
        assert (await store.schema("notes")).model == "tiny"
        await store.insert("notes", rows(3))
        (record,) = await store.get("notes", "r1")
        assert np.asarray(record.vector).tolist() == vector_of("passage: text 1")
        assert len(await store.search("notes", "text 1", limit=1)) == 1
        documents, queries = service.requests
        assert documents.texts == [f"passage: text {n}" for n in range(3)]
        assert queries.texts == ["query: text 1"]
        assert documents.path == "/v1/embeddings"
        assert documents.headers["authorization"] == f"Bearer {KEY}"
        assert documents.headers["accept-encoding"] == "identity"
        assert documents.document["model"] == "tiny"
        assert "dimensions" not in documents.document
        await store.search("notes", "text 1")  # from memory
        assert len(service.requests) == 2
        assert len(service.connections) == 1
    async with opened(request_dim=True, cache_mb=0) as store:
        await with_table(store)
        for _ in range(2):
            await store.search("notes", "x")
        assert [request.document["dimensions"] for request in service.requests[2:]] == [DIM] * 2


async def test_tasks_share_requests_large_calls_are_split(service: Service, opened: Open) -> None:
    async with opened(batch_size=10, concurrency=3) as store:
        await with_table(store)
        service.answers.clear()
        large = asyncio.ensure_future(store.insert("notes", rows(95)))
        for _ in range(3):
            await service.came.acquire()
        small = [store.insert("notes", rows(1, n)) for n in range(100, 130)]
        calls = asyncio.gather(large, *small)
        service.answers.set()
        assert await calls == [95] + [1] * 30
        assert max(service.sizes) == 10
        assert sum(service.sizes) == 125
        assert len(service.sizes) < 30  # fewer than calls
        assert service.most_at_once == 3
        for record in await store.find("notes", limit=200, select=["embedding"]):
            text = f"text {record.id[1:]}"
            assert np.asarray(record.vector).tolist() == vector_of(text)


@pytest.mark.slow
async def test_a_passing_failure_is_retried(service: Service, opened: Open) -> None:
    busy = {"error": {"message": "busy"}}
    async with opened(cache_mb=0) as store:
        await with_table(store)
        for status in (408, 429, 500, 503):
            with case(status):
                service.requests.clear()
                service.plan = [lambda _, s=status: Reply(busy, status=s, headers=AT_ONCE)] * 2
                assert await store.upsert("notes", rows(2)) == 2
                assert service.sizes == [2, 2, 2]

        def cut(request: Request, at: int) -> Reply:
            whole = answer(request)
            whole.cut = at
            return whole

        service.requests.clear()
        service.plan = [lambda r: cut(r, 0), lambda r: cut(r, 40)]
        assert await store.upsert("notes", rows(2, 10)) == 2
        assert service.sizes == [2, 2, 2]


async def test_a_service_that_keeps_failing_is_given_up(service: Service, opened: Open) -> None:
    service.always = lambda _: Reply(
        {"error": {"message": "overloaded"}}, status=503, headers=AT_ONCE
    )
    async with opened(retries=2) as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match="overloaded") as caught:
            await store.insert("notes", rows(3))
        assert (caught.value.status, caught.value.retryable) == (503, True)
        assert (caught.value.row, caught.value.id) == (0, "r0")
        assert service.sizes == [3, 3, 3]  # no text is at fault, so the request is not divided
        # Waiting longer than the call may take is useless.
        service.always = lambda _: Reply({}, status=429, headers={"Retry-After": "3600"})
        with pytest.raises(EmbeddingError, match="429") as caught:
            await store.insert("notes", rows(1))
        assert caught.value.retryable
        assert await store.count("notes") == 0
    async with opened(base_url="http://127.0.0.1:9/v1", retries=0) as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match=r"127\.0\.0\.1") as caught:
            await store.insert("notes", rows(1))
        assert (caught.value.status, caught.value.retryable) == (None, True)


async def test_a_lasting_failure_is_not_retried(service: Service, opened: Open) -> None:
    elsewhere = {"Location": "http://127.0.0.1:9/"}
    root = service.url.removesuffix("/v1")
    for base, hint in {
        root: "; base_url usually ends in /v1",
        f"{service.url}/embeddings": "; base_url usually ends in /v1",
        service.url: "",
    }.items():
        service.always = lambda _: Reply({"detail": "Not Found"}, status=404)
        async with opened(base_url=base) as store:
            await with_table(store)
            with pytest.raises(EmbeddingError) as caught:
                await store.insert("notes", rows(1))
            assert caught.value.reason.startswith(f"POST {base}/embeddings answered 404: ")
            assert caught.value.reason.endswith(f"Not Found'}}{hint}")
    async with opened() as store:
        await with_table(store)
        for status in (401, 403, 404, 301):
            service.requests.clear()
            service.always = lambda _, s=status: Reply({"error": "no"}, status=s, headers=elsewhere)
            with case(status), pytest.raises(EmbeddingError, match=str(status)) as caught:
                await store.insert("notes", rows(3))
            assert not caught.value.retryable
            assert len(service.requests) == 1


async def test_the_text_that_a_service_refuses_is_named(service: Service, opened: Open) -> None:
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


async def test_a_hanging_service_times_out(service: Service, opened: Open) -> None:
    service.plan = [lambda _: Reply({}, hang=True)]
    async with opened(timeout=0.3) as store:
        await with_table(store)
        assert await store.insert("notes", rows(1)) == 1  # the second request had an answer
        service.always = lambda _: Reply({}, hang=True)
    async with opened(timeout=0.2, total_timeout=0.5, retries=100) as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match=r"within the (total_)?timeout of 0") as caught:
            await store.insert("notes", rows(1))
        assert caught.value.retryable


def item(n: int, vector: Any) -> dict[str, Any]:
    return {"index": n, "embedding": vector}


GOOD = vector_of("x")
WRONG: dict[str, tuple[Any, str]] = {
    "fewer": ({"data": [item(0, GOOD)]}, "2 texts"),
    "no data": ({"object": "list"}, "'data'"),
    "null": (None, "'data'"),
    "index": ({"data": [item(0, GOOD), item(2, GOOD)]}, "'index'"),
    "long vector": ({"data": [item(0, GOOD), item(1, [*GOOD, 1.0])]}, "no list of vectors"),
    "all longer": (
        {"data": [item(n, [*GOOD, 1.0]) for n in range(2)]},
        "the model makes vectors of 9 numbers, but dim is 8: set dim = 9",
    ),
    "flags": ({"data": [item(n, [True] * DIM) for n in range(2)]}, "not a vector of 8 numbers"),
    "base64": ({"data": [item(0, GOOD), item(1, "AAA=!")]}, "no list of vectors"),
    "no embedding": ({"data": [item(0, GOOD), {"index": 1}]}, "'embedding'"),
    "NaN": ({"data": [item(0, GOOD), item(1, [math.nan] * DIM)]}, "NaN or infinity"),
    "zero": ({"data": [item(0, GOOD), item(1, [0.0] * DIM)]}, "zero"),
}


async def test_a_wrong_answer_of_the_service_writes_nothing(service: Service, opened: Open) -> None:
    async with opened(cache_mb=0, retries=0) as store:
        await with_table(store)
        for name, (document, words) in WRONG.items():
            service.always = lambda _, d=document: Reply(d)
            with case(name), pytest.raises(EmbeddingError, match=words) as caught:
                await store.insert("notes", rows(2))
            assert (caught.value.embedder, caught.value.model) == ("default", "tiny")
            assert not caught.value.retryable
        for raw in (b"", b"<html>", b"{", b"\xff\xfe", b"[" * 100_000, b'{"data": 1e999}'):
            service.always = lambda _, r=raw: Reply(raw=r)
            with case(raw), pytest.raises(EmbeddingError):
                await store.insert("notes", rows(1))
        for status in (200, 500):  # not read to the end
            service.always = lambda _, s=status: Reply(raw=b" " * 2**22, status=s)
            with case(status), pytest.raises(EmbeddingError, match="more than 1,0") as caught:
                await store.insert("notes", rows(1))
            assert caught.value.status == status
        assert await store.count("notes") == 0


async def test_the_key_is_in_no_error_and_no_log(
    service: Service, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}, Authorization: Bearer {KEY}"}}
    masked = {"error": {"message": f"key {KEY[:8]}*****{KEY[-6:]}"}}
    replies: list[Callable[[Request], Reply]] = [
        lambda _: Reply(echo, status=401),
        lambda _: Reply(echo, status=500),
        lambda _: Reply(raw=f"it is {KEY}".encode()),
        lambda _: Reply(raw=(" " * 65_500 + KEY).encode(), status=401),
        lambda _: Reply({"data": [{"index": KEY, "embedding": GOOD}]}),
        lambda _: Reply({"data": []}, cut=1),
        lambda _: Reply(masked, status=401),
    ]
    seen: list[str] = []
    async with opened(retries=0) as store:
        await with_table(store)
        for reply in replies:
            service.always = reply
            with pytest.raises(EmbeddingError) as caught:
                await store.insert("notes", rows(1))
            error = caught.value
            exceptions = traceback.TracebackException.from_exception(error, capture_locals=True)
            # The test's own frame holds the key; all others are the product's.
            seen += [line for line in exceptions.format() if "tests/embed" not in line]
            seen += [repr(store), str(error), repr(error), repr(error.__dict__)]
    for key in (KEY + "with space\n", KEY + "ü" * 20):  # no header can hold them
        monkeypatch.setenv("MY_KEY", key)
        async with opened(retries=0) as store:
            await with_table(store)
            with pytest.raises(EmbeddingError) as caught:
                await store.insert("notes", rows(1))
            seen += [str(caught.value), repr(caught.value.__cause__)]
    whole = "\n".join([*seen, caplog.text])
    assert "EmbeddingError" in whole
    for secret in (KEY, KEY[:12], KEY[-8:]):
        assert secret not in whole


async def test_an_unset_key_is_named_and_no_other_key_is_sent(
    service: Service, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY")
    async with opened() as store:
        await with_table(store)
        with pytest.raises(EmbeddingError, match="MY_KEY holds no key"):
            await store.insert("notes", rows(1))
        assert not service.requests
    # An app's own service gets no key that is meant for another.
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with opened(api_key_env="") as store:
        await with_table(store)
        await store.insert("notes", rows(1))
        assert "authorization" not in service.requests[0].headers
