"""The remote backend and servers that fail, lie, or are none."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.remote.fake import SCHEMA, Fake, fake_server, http, opened, problem, told

from aiovec import Field, VectorStore
from aiovec.backend import (
    BATCH_FRAME,
    END_FRAME,
    FAILED_FRAME,
    Message,
    Problem,
    RetrievalSettings,
    frame,
    pack,
)
from aiovec.errors import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    InvalidArgumentError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreMovedError,
    TableNotFoundError,
    UnsupportedError,
)
from aiovec_remote import client
from aiovec_remote.backend import RemoteBackend
from aiovec_remote.plugin import RemotePlugin
from aiovec_remote.settings import RemoteSettings

SECRET = "k3y-that-nobody-may-see"
QUICK = RemoteSettings(
    api_key=SECRET, connect_timeout=30, idle_timeout=30, reconnect_timeout=0.3, busy_timeout=0.3
)
# Where the server is silent.
HASTY = QUICK.model_copy(update={"idle_timeout": 2.0})
VECTOR = [1.0, 0.0]
RETRIEVAL = RetrievalSettings()


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    async with fake_server() as server:
        yield server


@contextlib.asynccontextmanager
async def store_of(fake: Fake, settings: RemoteSettings = QUICK) -> AsyncIterator[VectorStore]:
    backend = RemoteBackend(fake.url, settings)
    try:
        await backend.open()
    except BaseException:
        await backend.close()
        raise
    async with VectorStore(backend, RETRIEVAL) as store:
        yield store


def rows(**changed: Any) -> pa.Table:
    """The columns of two hits, as a server tells them."""
    columns: dict[str, Any] = {
        "id": pa.array(["a", "b"]),
        "year": pa.array([1, None], pa.int64()),
        "score": pa.array([0.5, None], pa.float64()),
        "name": pa.array(["x", None], pa.utf8()),
        "payload": pa.array(['{"k":1}', None], pa.utf8()),
        "#measure": pa.array([0.0, 0.5], pa.float64()),
    }
    columns.update({name.replace("measure", "#measure"): value for name, value in changed.items()})
    return pa.table({name: value for name, value in columns.items() if value is not None})


async def test_hits_as_they_came(fake: Fake) -> None:
    fake.answers["search"] = [told(Message({"counts": [2]}, rows()))]
    async with store_of(fake) as store:
        hits = await store.search("notes", VECTOR, limit=2)
    assert [hit.to_dict() for hit in hits] == [
        {"id": "a", "_score": 1.0, "_distance": 0.0, "year": 1, "score": 0.5, "name": "x", "k": 1},
        {"id": "b", "_score": 0.5, "_distance": 0.5, "year": None, "score": None, "name": None},
    ]


_BROKEN_UTF8 = pa.Array.from_buffers(
    pa.utf8(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
)
_WRONG_OFFSETS = pa.Array.from_buffers(
    pa.utf8(), 2, [None, pa.py_buffer(np.array([0, 9_999, 2], np.int32)), pa.py_buffer(b"ab")]
)


@pytest.mark.parametrize(
    "answer",
    [
        Message(),
        Message({"counts": [2]}),
        Message({"counts": [3]}, rows()),
        Message({"counts": [1]}, rows()),
        Message({"counts": [-1, 3]}, rows()),
        Message({"counts": [True, 1]}, rows()),
        Message({"counts": [1, 1]}, rows()),
        Message({"counts": "2"}, rows()),
        Message({"counts": [2]}, rows(id=None)),
        Message({"counts": [2]}, rows(id=pa.array(["a", None]))),
        Message({"counts": [2]}, rows(id=pa.array([1, 2]))),
        Message({"counts": [2]}, rows(id=_BROKEN_UTF8)),
        Message({"counts": [2]}, rows(name=_WRONG_OFFSETS)),
        Message({"counts": [2]}, rows(year=pa.array(["1", "2"]))),
        Message({"counts": [2]}, rows(year=pa.array([1, 2], pa.int32()))),
        Message({"counts": [2]}, rows(score=pa.array([float("nan"), 1.0]))),
        Message({"counts": [2]}, rows(payload=pa.array(["[1]", "{"]))),
        Message({"counts": [2]}, rows(payload=pa.array([b"1", b"2"]))),
        Message({"counts": [2]}, rows(measure=pa.array([0.0, None]))),
        Message({"counts": [2]}, rows(measure=pa.array([0.0, float("nan")]))),
        Message({"counts": [2]}, rows(measure=None)),
        Message({"counts": [2]}, rows(more=pa.array([1, 2]))),
        Message({"counts": [2]}, rows(name=pa.nulls(2))),
    ],
)
async def test_hits_that_cannot_be_believed(fake: Fake, answer: Message) -> None:
    fake.answers["search"] = [told(answer)]
    async with store_of(fake) as store:
        with pytest.raises(CorruptStoreError) as caught:
            await store.search("notes", VECTOR, limit=2)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("vector", [[[1, None], [1, 2]], [[1.0, float("nan")], [1, 2]], [[1], [2]]])
async def test_vectors_that_cannot_be_believed(fake: Fake, vector: list[Any]) -> None:
    column = pa.array(vector, pa.list_(pa.float32(), len(vector[0])))
    table = rows(measure=None).append_column(SCHEMA.vector, column)
    fake.answers["get"] = [told(Message({}, table))]
    async with store_of(fake) as store:
        with pytest.raises(CorruptStoreError):
            await store.get("notes", ["a", "b"])


@pytest.mark.parametrize(
    "body",
    [
        b"", b"not json", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000,
        b'{"tables": [1]}', b'{"tables": "a"}', b"{}", b'{"tables": {"$time": "x"}}',
        b'{"tables": ' + b"9" * 5_000 + b"}",
    ],
)  # fmt: skip
async def test_an_answer_of_garbage(fake: Fake, body: bytes) -> None:
    fake.answers["tables"] = [http(body)]
    async with store_of(fake) as store:
        with pytest.raises(CorruptStoreError):
            await store.tables()


async def test_compressed_and_damaged_arrow(fake: Fake) -> None:
    kind, good = pack(Message({"counts": [2]}, rows()))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, rows().schema, options=options) as writer:
        writer.write_table(rows())
    bodies = [sink.getvalue().to_pybytes(), b"ARROW1" + bytes(good), b"\xff" * 100]
    bodies += [bytes(good)[:end] for end in range(0, len(good) - 8, 97)]
    async with store_of(fake) as store:
        for body in bodies:
            fake.answers["search"] = [http(body, kind=kind)]
            with pytest.raises(CorruptStoreError):
                await store.search("notes", VECTOR, limit=2)


async def test_answers_without_end_are_not_read_to_it(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_LARGEST_ANSWER", 1_000_000)

    async def endless(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        for _ in range(400):
            writer.write(b" " * 100_000)
            await writer.drain()
        writer.write(b"{}")

    async def declared(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"").replace(b"length: 0", b"length: 9000000"))
        await reader.read()

    for answer in (endless, declared):
        fake.answers |= {"tables": [answer], "delete": [answer]}
        async with store_of(fake) as store:
            fake.gone.clear()
            with pytest.raises(AiovecError, match="more than 1,000,000 bytes") as caught:
                await store.tables()
            assert type(caught.value) is AiovecError
            await asyncio.wait_for(fake.gone.wait(), 5)
            with pytest.raises(OutcomeUnknownError, match="bytes"):
                await store.delete("notes", ["a"])
    assert len(fake.calls("tables")) == len(fake.calls("delete")) == 2


async def test_answers_that_are_cut_off_are_asked_for_again(fake: Fake) -> None:
    whole = told(Message({"tables": ["notes"]}))
    cuts = [whole[:end] for end in (0, 1, 10, len(whole) // 2, len(whole) - 1)]
    async with store_of(fake) as store:
        for cut in cuts:

            async def answer(_: Any, writer: asyncio.StreamWriter, cut: bytes = cut) -> None:
                writer.write(cut)

            fake.answers["tables"] = [answer, whole]
            assert await store.tables() == ["notes"]
        fake.answers["tables"] = [None]
        with pytest.raises(AiovecError, match="did not answer"):
            await store.tables()


async def test_a_write_whose_answer_is_lost_is_not_repeated_without_kept_keys(fake: Fake) -> None:
    fake.answers["delete"] = [None, told(Message({"count": 1}))]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.delete("notes", ["a"])
    assert caught.value.target == fake.url
    assert len(fake.calls("delete")) == 1


async def test_a_write_whose_answer_is_lost_is_repeated_under_its_key(fake: Fake) -> None:
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers["delete"] = [None, None, told(Message({"count": 1}))]
    async with store_of(fake, QUICK.model_copy(update={"reconnect_timeout": 60.0})) as store:
        assert await store.delete("notes", ["a"]) == 1
        first, second, third = fake.calls("delete")
        keys = {one.headers["idempotency-key"] for one in (first, second, third)}
        assert len(keys) == 1
        assert "idempotency-retry" not in first.headers
        assert second.headers["idempotency-retry"] == third.headers["idempotency-retry"] == "1"
        assert first.body == second.body == third.body
    fake.answers["delete"] = [None]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError):
            await store.delete("notes", ["a"])
    assert keys != {fake.calls("delete")[-1].headers["idempotency-key"]}


async def test_a_busy_server_after_a_lost_answer_leaves_the_outcome_unknown(fake: Fake) -> None:
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers["delete"] = [None, problem("503 Service Unavailable", b'{"detail": "busy"}')]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError):
            await store.delete("notes", ["a"])


@pytest.mark.parametrize(
    "refusal",
    [
        problem("401 Unauthorized"),
        problem("404 Not Found"),
        problem("426 Upgrade Required"),
        problem("500 Oops", b'{"detail": "no", "error": "AiovecError"}'),
        http(b"<html>", kind="text/html", status="404 Not Found"),
        http(status="302 Found", headers="location: /login\r\n"),
    ],
    ids=["401", "404", "426", "500", "html", "redirect"],
)
async def test_a_refused_repeat_of_a_lost_write_leaves_the_outcome_unknown(
    fake: Fake, refusal: bytes
) -> None:
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers["delete"] = [None, refusal]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError):
            await store.delete("notes", ["a"])


_STALE = problem("412 Precondition Failed")


async def test_a_repeat_is_made_for_the_state_that_the_table_has_come_to(fake: Fake) -> None:
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    states = [told(Message({"schema": SCHEMA.to_json(), "state": f"s{n}"})) for n in range(3)]
    fake.answers["open_table"] = states
    fake.answers["delete"] = [None, _STALE, _STALE, told(Message({"count": 1}))]
    async with store_of(fake) as store:
        assert await store.delete("notes", ["a"]) == 1
    lost, old, newer, newest = fake.calls("delete")
    states_asked = [json.loads(one.body)["state"] for one in (lost, old, newer, newest)]
    assert states_asked == ["s0", "s0", "s1", "s2"]
    assert "idempotency-retry" not in lost.headers
    assert [one.headers["idempotency-retry"] for one in (old, newer, newest)] == ["1"] * 3
    # For another state it is another request, which takes another key.
    keys = [one.headers["idempotency-key"] for one in (lost, old, newer, newest)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


async def test_a_repeat_for_a_table_that_changes_for_ever_ends(fake: Fake) -> None:
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers["delete"] = [None, _STALE]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError, match="altered"):
            await store.delete("notes", ["a"])


async def test_a_repeat_for_a_table_of_another_schema_leaves_the_outcome_unknown(
    fake: Fake,
) -> None:
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    altered = Message({"schema": SCHEMA.with_field("more", Field(int)).to_json(), "state": "s2"})
    fake.answers["open_table"] = [*fake.answers["open_table"], told(altered)]
    fake.answers["delete"] = [None, _STALE]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError, match="altered"):
            await store.delete("notes", ["a"])
    assert len(fake.calls("delete")) == 2
    fake.answers |= {"open_table": [told(altered), problem("404 Not Found")]}
    fake.answers["delete"] = [None, _STALE]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError):
            await store.delete("notes", ["a"])


async def test_a_repeat_that_does_not_reach_the_store_leaves_the_outcome_unknown(
    fake: Fake,
) -> None:
    fake.answers["open"] = [told(opened(keeps_keys=True)), problem("401 Unauthorized")]
    handle = Message({"schema": SCHEMA.to_json(), "state": "s2"})
    fake.answers["open_table"] = [*fake.answers["open_table"], told(handle, mark="two")]
    fake.answers["delete"] = [None, _STALE]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError, match="api_key"):
            await store.delete("notes", ["a"])


async def test_a_write_with_an_answer_of_garbage_may_be_done(fake: Fake) -> None:
    async with store_of(fake) as store:
        for answer in (
            http(b"?"),
            told(Message()),
            *(told(Message({"count": n})) for n in (-1, 2)),
        ):
            fake.answers["delete"] = [answer]
            with pytest.raises(OutcomeUnknownError):
                await store.delete("notes", ["a"])
        fake.answers["insert"] = [told(Message({"count": 2}))]
        with pytest.raises(OutcomeUnknownError):
            await store.insert("notes", [{"id": "a", "embedding": VECTOR}])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("year", "x"), ("year", 1.5), ("year", True), ("year", datetime(2020, 1, 1, tzinfo=UTC)),
        ("score", "x"), ("score", float("nan")), ("name", 1), ("id", 1), ("payload.k", [1]),
    ],
)  # fmt: skip
async def test_values_that_the_field_cannot_have(fake: Fake, field: str, value: Any) -> None:
    async with store_of(fake) as store:
        fake.answers["value_counts"] = [told(Message({"counts": [[value, 1]]}))]
        with pytest.raises(CorruptStoreError):
            await store.distinct("notes", field)
        fake.answers["bounds"] = [told(Message({"bounds": [value, value]}))]
        with pytest.raises(CorruptStoreError):
            await store.bounds("notes", field)


async def test_numbers_and_names_that_no_store_has(fake: Fake) -> None:
    async with store_of(fake) as store:
        for count in (-1, 2**63, True, 1.0):
            fake.answers |= {
                "count": [told(Message({"count": count}))],
                "value_counts": [told(Message({"counts": [[1, count]]}))],
            }
            with pytest.raises(CorruptStoreError):
                await store.count("notes")
            with pytest.raises(CorruptStoreError):
                await store.distinct("notes", "year")
        for name in ("../x", "", "A b"):
            fake.answers["tables"] = [told(Message({"tables": ["notes", name]}))]
            with pytest.raises(CorruptStoreError):
                await store.tables()


async def test_a_write_that_a_stopping_server_ended_may_be_done(fake: Fake) -> None:
    """Unlike one that a limit refused before it began."""
    ended = replace(Problem.plain(503, "stopping", retry_after=1), begun=True)
    answer = problem("503 Service Unavailable", ended.body(), "retry-after: 1\r\n")
    done = told(Message({"count": 1}))
    fake.answers["delete"] = [answer, done]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError, match="stopped"):
            await store.delete("notes", ["a"])
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers["delete"] = [answer, done]
    async with store_of(fake) as store:
        assert await store.delete("notes", ["a"]) == 1
    assert fake.calls("delete")[-1].headers["idempotency-retry"] == "1"


async def test_limits_of_the_server_are_waited_for(fake: Fake) -> None:
    again = problem("429 Too Many Requests", headers="retry-after: 0\r\n")
    busy = problem("503 Service Unavailable", b'{"detail": "busy", "error": "StoreBusyError"}')
    done = told(Message({"count": 1}))
    fake.answers["delete"] = [again, busy, done]
    async with store_of(fake, QUICK.model_copy(update={"busy_timeout": 60.0})) as store:
        assert await store.delete("notes", ["a"]) == 1
    async with store_of(fake) as store:
        fake.answers["delete"] = [busy]
        with pytest.raises(StoreBusyError, match="busy"):
            await store.delete("notes", ["a"])
        count = len(fake.calls("delete"))
        fake.answers["delete"] = [problem("429 Too Many Requests", headers="retry-after: 99\r\n")]
        with pytest.raises(StoreBusyError):
            await store.delete("notes", ["a"])
        assert len(fake.calls("delete")) == count + 1


async def test_a_call_that_took_the_server_too_long(fake: Fake) -> None:
    late = problem("504 Gateway Timeout", b'{"detail": "took more than 1 s"}')
    fake.answers |= {"delete": [late], "tables": [late]}
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError, match="more than 1 s"):
            await store.delete("notes", ["a"])
        with pytest.raises(StoreBusyError, match="more than 1 s"):
            await store.tables()
    assert len(fake.calls("delete")) == len(fake.calls("tables")) == 1


async def test_a_silent_server(fake: Fake) -> None:
    async def silence(reader: asyncio.StreamReader, _: Any) -> None:
        await reader.read()

    fake.answers["tables"] = [silence]
    async with store_of(fake, HASTY) as store:
        with pytest.raises(AiovecError, match="did not answer"):
            await store.tables()


async def test_the_time_to_reconnect_begins_with_the_loss(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that had run for long is asked for again as any other, and for as long."""
    now = 100.0
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now))

    async def lost_after_a_minute(*_: Any) -> None:
        nonlocal now
        now += 60

    done = told(Message({"count": 1}))
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers |= {"delete": [lost_after_a_minute, done], "count": [lost_after_a_minute, done]}
    async with store_of(fake) as store:
        assert await store.delete("notes", ["a"]) == 1
        assert await store.count("notes") == 1
        fake.answers["count"] = [lost_after_a_minute]
        with pytest.raises(AiovecError, match="did not answer"):
            await store.count("notes")
    assert len(fake.calls("count")) == 4


async def test_the_last_try_is_at_the_end_of_the_time(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given up after as little as half of it."""
    tries: list[float] = []
    now = 100.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def lost(*_: Any) -> None:
        tries.append(now)

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(client, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    fake.answers["count"] = [lost]
    async with store_of(fake, QUICK.model_copy(update={"reconnect_timeout": 0.7})) as store:
        with pytest.raises(AiovecError, match="did not answer"):
            await store.count("notes")
    assert tries[-1] - tries[0] == pytest.approx(0.7)


async def test_a_silent_server_is_not_waited_for_again(fake: Fake) -> None:
    async def silence(reader: asyncio.StreamReader, _: Any) -> None:
        await reader.read()

    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers |= {"delete": [silence], "tables": [silence]}
    patient = HASTY.model_copy(update={"reconnect_timeout": 60.0})
    async with store_of(fake, patient) as store:
        with pytest.raises(OutcomeUnknownError):
            await store.delete("notes", ["a"])
        with pytest.raises(AiovecError, match="did not answer"):
            await store.tables()
    assert len(fake.calls("delete")) == len(fake.calls("tables")) == 1


async def test_a_cancelled_read_closes_its_connection(fake: Fake) -> None:
    asked = asyncio.Event()

    async def silence(reader: asyncio.StreamReader, _: Any) -> None:
        asked.set()
        await reader.read()

    fake.answers["search"] = [silence]
    async with store_of(fake) as store:
        fake.gone.clear()
        search = asyncio.ensure_future(store.search("notes", VECTOR))
        await asyncio.wait_for(asked.wait(), 20)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
        await asyncio.wait_for(fake.gone.wait(), 20)


async def test_a_cancelled_write_is_ended_at_the_server_first(fake: Fake) -> None:
    asked = asyncio.Event()

    async def silence(reader: asyncio.StreamReader, _: Any) -> None:
        asked.set()
        await reader.read()

    fake.answers |= {"delete": [silence], "cancel": [told(Message())]}
    async with store_of(fake) as store:
        delete = asyncio.ensure_future(store.delete("notes", ["a"]))
        await asyncio.wait_for(asked.wait(), 20)
        delete.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delete
        (cancelled,) = fake.calls("cancel")
        assert fake.calls("delete")[0].headers["idempotency-key"].encode() in cancelled.body


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http(b"<html>", status="404 Not Found", kind="text/html"), "no aiovec server"),
        (http(b"<html>", kind="text/html"), "no aiovec server"),
        (http(b"", status="302 Found", headers="location: http://127.0.0.1:1/\r\n"), "redirect"),
        (http(b"", status="307 x", headers="location: http://127.0.0.1:1/\r\n"), "redirect"),
        (problem("426 Upgrade Required", b'{"detail": "speaks version 9"}'), "version 9"),
        (problem("401 Unauthorized", b'{"detail": "no key"}'), "api_key"),
        (problem("403 Forbidden", b'{"detail": "may not write"}'), "may not write"),
    ],
)
async def test_what_is_no_server_for_us(fake: Fake, answer: bytes, words: str) -> None:
    fake.answers["open"] = [answer]
    with pytest.raises(ConfigError, match=words) as caught:
        async with store_of(fake):
            pass
    assert SECRET not in str(caught.value)
    assert fake.url in str(caught.value)
    assert len(fake.requests) == 1


async def test_proxies_in_front_of_a_server_that_restarts(fake: Fake) -> None:
    gateway = http(b"<html>", status="502 Bad Gateway", kind="text/html")
    fake.answers["tables"] = [gateway, told(Message({"tables": []}))]
    fake.answers["delete"] = [gateway]
    async with store_of(fake) as store:
        assert await store.tables() == []
        with pytest.raises(OutcomeUnknownError, match="proxy"):
            await store.delete("notes", ["a"])


@pytest.mark.parametrize("status", ["500 Internal Server Error", "520 x", "524 A Timeout Occurred"])
async def test_a_write_that_a_proxy_fails_may_be_done(fake: Fake, status: str) -> None:
    failed, done = http(b"<html>", status=status, kind="text/html"), told(Message({"count": 1}))
    fake.answers["delete"] = [failed, done]
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError, match=f"HTTP {status[:3]}"):
            await store.delete("notes", ["a"])
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers["delete"] = [failed, done]
    async with store_of(fake) as store:
        assert await store.delete("notes", ["a"]) == 1
    assert fake.calls("delete")[-1].headers["idempotency-retry"] == "1"


async def test_a_write_in_which_the_server_fails_may_be_done(fake: Fake) -> None:
    """Nobody knows how far it was. A read changes nothing, and fails at once."""
    failed = problem("500 Internal Server Error", Problem.plain(500, "see the log").body())
    done = told(Message({"count": 1}))
    fake.answers |= {"delete": [failed, done], "tables": [failed]}
    async with store_of(fake) as store:
        with pytest.raises(OutcomeUnknownError, match="HTTP 500: see the log"):
            await store.delete("notes", ["a"])
        with pytest.raises(AiovecError, match="HTTP 500: see the log") as caught:
            await store.tables()
    assert type(caught.value) is AiovecError
    assert len(fake.calls("delete")) == len(fake.calls("tables")) == 1
    fake.answers["open"] = [told(opened(keeps_keys=True))]
    fake.answers["delete"] = [failed, done]
    async with store_of(fake) as store:
        assert await store.delete("notes", ["a"]) == 1
    assert fake.calls("delete")[-1].headers["idempotency-retry"] == "1"


async def test_waits_that_a_server_or_a_proxy_asks_for(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    now = 1000.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(client, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    html: dict[str, Any] = {"body": b"<html>", "kind": "text/html"}
    patient = QUICK.model_copy(update={"reconnect_timeout": 30.0, "busy_timeout": 30.0})
    done = told(Message({"tables": []}))
    async with store_of(fake, patient) as store:
        for text, least, most in ((date, 15, 20), ("7", 7, 7), ("what", 0, 1), ("nan", 0, 1)):
            after = f"retry-after: {text}\r\n"
            for answer in (
                problem("503 Service Unavailable", headers=after),
                http(status="503 Service Unavailable", headers=after, **html),
                http(status="429 Too Many Requests", headers=after, **html),
            ):
                waits.clear()
                fake.answers["tables"] = [answer, done]
                assert await store.tables() == []
                assert len(waits) == 1
                assert least <= waits[0] <= most
        # A proxy that asks for more than there is: one try more, at the end of the time.
        waits.clear()
        away = http(status="503 x", headers="retry-after: 3600\r\n", **html)
        fake.answers["tables"] = [away]
        with pytest.raises(AiovecError, match="HTTP 503"):
            await store.tables()
        assert waits == [30.0]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"error": 3, "facts": []}'])
async def test_errors_of_garbage(fake: Fake, body: bytes) -> None:
    fake.answers["tables"] = [problem("500 Internal Server Error", body)]
    async with store_of(fake) as store:
        with pytest.raises(AiovecError):
            await store.tables()


async def test_errors_are_those_of_the_server(fake: Fake) -> None:
    body = b'{"error": "TableNotFoundError", "detail": "gone", "facts": {"table": "t"}}'
    fake.answers["open_table"] = [problem("404 Not Found", body)]
    moved = b'{"error": "StoreMovedError", "detail": "moved", "facts": {}}'
    fake.answers["tables"] = [problem("503 Service Unavailable", moved)]
    large = problem("413 Content Too Large", b'{"detail": "at most 1 MiB"}')
    async with store_of(fake) as store:
        with pytest.raises(TableNotFoundError) as caught:
            await store.count("t")
        assert caught.value.table == "t"
        with pytest.raises(StoreMovedError):
            await store.tables()
        fake.answers["create_table"] = [large]
        with pytest.raises(InvalidArgumentError, match="1 MiB"):
            await store.create_table("t", SCHEMA)


async def test_no_server_at_all() -> None:
    backend = RemoteBackend("http://127.0.0.1:1", QUICK)
    with pytest.raises(AiovecError, match="aiovec serve"):
        await backend.open()
    await backend.close()


async def test_what_speaks_no_tls_or_no_http(fake: Fake) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    backend = RemoteBackend(f"https://127.0.0.1:{port}", QUICK)
    with pytest.raises(ConfigError, match="https://127"):
        await backend.open()
    await backend.close()
    server.close()
    for answer in (b"SSH-2.0-OpenSSH_9\r\n", b"\x00" * 100, b"HTTP/1.1 99 x\r\n\r\n"):
        fake.answers["open"] = [answer]
        with pytest.raises(AiovecError, match="did not answer"):
            async with store_of(fake):
                pass


async def test_heads_that_are_too_long_or_say_two_lengths(fake: Fake) -> None:
    whole = told(Message({"tables": []}))
    long = b"x-more: " + b"y" * 100_000 + b"\r\n"
    twice = b"content-length: 3\r\n"
    async with store_of(fake) as store:
        for more in (long, twice):
            fake.answers["tables"] = [whole.replace(b"aiovec-store", more + b"aiovec-store")]
            with pytest.raises(AiovecError):
                await store.tables()


async def test_another_store_behind_the_same_address_is_noticed(fake: Fake) -> None:
    async with store_of(fake) as store:
        assert not store.supports("snapshots")
        fake.answers["tables"] = [told(Message({"tables": []}), mark="two")]
        await store.tables()
        fake.answers["open"] = [told(opened(abilities=("snapshots",)), mark="two")]
        await store.tables()
        assert store.supports("snapshots")
        assert not store.supports("text")
        count = len(fake.calls("open"))
        await store.tables()
        assert len(fake.calls("open")) == count


async def test_a_store_opened_for_reading_asks_for_no_write(fake: Fake) -> None:
    backend = RemoteBackend(fake.url, QUICK)
    backend.read_only = True
    await backend.open()
    handle = await backend.open_table("notes")
    with pytest.raises(UnsupportedError, match="read_only"):
        await backend.delete(handle, ids=["a"], where=None)
    with pytest.raises(UnsupportedError, match="read_only"):
        await backend.drop_table("notes")
    await backend.close()
    assert {request.call for request in fake.requests} == {"open", "open_table"}


async def test_the_key_is_sent_and_never_shown(fake: Fake) -> None:
    async with store_of(fake) as store:
        assert fake.requests[0].headers["authorization"] == f"Bearer {SECRET}"
        shown = [repr(store), store.target, repr(QUICK), repr(store._follower.engine.backend)]
    assert not any(SECRET in text for text in shown)


# Exports


def batch(cursor: str = "00ff", **changed: Any) -> bytes:
    table = rows(measure=None, **changed).cast(
        pa.schema([field for field in SCHEMA.to_arrow() if field.name != SCHEMA.vector])
    ) if not changed else rows(measure=None, **changed)  # fmt: skip
    column = pa.array([[1, 0], [0, 1]], pa.list_(pa.float32(), 2))
    names = SCHEMA.to_arrow().names
    whole = table.append_column(SCHEMA.vector, column).select(names)
    _, data = pack(Message({"cursor": cursor}, whole))
    return frame(BATCH_FRAME, len(data)) + bytes(data)


def exported(*parts: bytes, length: int | None = None) -> bytes:
    body = b"".join(parts)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: x\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


END = frame(END_FRAME, 0)


async def collected(store: VectorStore) -> list[int]:
    return [len(batch) async for batch in store.export("notes")]


@pytest.mark.parametrize("key", ["k3y\r\nX-Other: 1", "k3y\0", "a k3y", "k3y\u00e9"])
async def test_a_key_that_no_header_carries(fake: Fake, key: str) -> None:
    with pytest.raises(ConfigError, match="API key") as caught:
        async with store_of(fake, RemoteSettings(api_key=key)):
            pass
    assert caught.value.key == "retrieval.remote.api_key"
    assert "k3y" not in str(caught.value)


async def test_a_key_from_a_file_with_the_end_of_its_line(fake: Fake) -> None:
    async with store_of(fake, RemoteSettings(api_key=f"{SECRET}\n")):
        assert fake.calls("open")[0].headers["authorization"] == f"Bearer {SECRET}"


_READ_ONLY = b'{"detail": "no", "error": "UnsupportedError"}'


@pytest.mark.parametrize(
    "refusal", [problem("403 Forbidden"), problem("422 Unprocessable", _READ_ONLY)]
)
async def test_a_table_that_exists_where_nobody_may_write(fake: Fake, refusal: bytes) -> None:
    """An app begins with it."""
    fake.answers["create_table"] = [refusal]
    fake.answers["tables"] = [told(Message({"tables": ["notes"]}))]
    async with store_of(fake) as store:
        await store.create_table("notes", SCHEMA, exist_ok=True)
        for table, exist_ok in (("notes", False), ("new", True)):
            with pytest.raises((ConfigError, UnsupportedError)):
                await store.create_table(table, SCHEMA, exist_ok=exist_ok)


async def test_an_export_that_waits_for_its_turn_too_long(fake: Fake) -> None:
    fake.answers["export"] = [problem("504 Gateway Timeout", b'{"detail": "took too long"}')]
    async with store_of(fake) as store:
        with pytest.raises(StoreBusyError, match="took too long"):
            await collected(store)


async def test_an_export_and_its_cursor(fake: Fake) -> None:
    fake.answers["export"] = [exported(batch(), batch(), END)]
    async with store_of(fake) as store:
        batches = [one async for one in store.export("notes")]
    assert [len(one) for one in batches] == [2, 2]
    assert batches[0].schema.metadata[b"aiovec.cursor"] == b"\x00\xff"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (exported(batch(), batch()), AiovecError),
        (exported(batch()[:-5], length=10**6), AiovecError),
        (exported(batch(), b"\x01"), AiovecError),
        (exported(batch(), frame(7, 3) + b"abc"), CorruptStoreError),
        (exported(frame(BATCH_FRAME, 2**60) + b"abc"), AiovecError),
        (exported(frame(BATCH_FRAME, 3) + b"abc", END), CorruptStoreError),
        (exported(batch(cursor="zz"), END), CorruptStoreError),
        (exported(batch(name=pa.array([1, 2])), END), CorruptStoreError),
        (exported(batch(), frame(FAILED_FRAME, 2) + b"{}"), AiovecError),
        (exported(batch(), frame(FAILED_FRAME, 2**24) + b" " * 2**24), CorruptStoreError),
    ],
)
async def test_an_export_that_cannot_be_believed(
    fake: Fake, answer: bytes, error: type[AiovecError]
) -> None:
    fake.answers["export"] = [answer]
    async with store_of(fake, HASTY if error is AiovecError else QUICK) as store:
        with pytest.raises(error):
            await collected(store)


async def test_batches_of_an_export_have_a_bound(fake: Fake) -> None:
    """A server could send one without end. The client does not wait for it."""

    async def huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(exported(frame(BATCH_FRAME, 2**40), length=2**41))
        await reader.read()

    fake.answers["export"] = [huge]
    async with store_of(fake) as store:
        fake.gone.clear()
        with pytest.raises(AiovecError, match="smaller batch_size"):
            await collected(store)
        await asyncio.wait_for(fake.gone.wait(), 5)


async def test_an_abandoned_export_closes_its_connection(fake: Fake) -> None:
    async def endless(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n\r\n")
        while True:
            writer.write(batch())
            await writer.drain()
            await asyncio.sleep(0.001)

    fake.answers["export"] = [endless]
    async with store_of(fake) as store:
        async with contextlib.aclosing(store.export("notes")) as batches:  # type: ignore[type-var]
            async for _ in batches:
                fake.gone.clear()
                break
        await asyncio.wait_for(fake.gone.wait(), 5)


async def test_a_close_ends_what_is_under_way(fake: Fake) -> None:
    async def silence(reader: asyncio.StreamReader, _: Any) -> None:
        await reader.read()

    fake.answers["search"] = [silence]
    async with store_of(fake) as store:
        searching = asyncio.ensure_future(store.search("notes", VECTOR))
        await asyncio.sleep(0.1)
    with pytest.raises(StoreClosedError):
        await searching


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "http://", "http:///x", "http://host:99999", "http://host:x", "http://host:0",
        f"http://ann:{SECRET}@host", f"http://{SECRET}@host", f"http://host/?key={SECRET}",
        f"http://host/#{SECRET}", "http://ho st", "http://host/a\tb", "remote://",
        "http://[::1", "http://host\x00",
    ],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemotePlugin().locate(address)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("http://host", "http://host"), ("https://host:4002/", "https://host:4002"),
        ("remote://host:1", "http://host:1"), ("http://[::1]:80/a/b/", "http://[::1]:80/a/b"),
    ],
)  # fmt: skip
def test_addresses(address: str, meant: str) -> None:
    assert RemotePlugin().locate(address).address == meant
