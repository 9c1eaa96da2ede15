"""Writes that are cancelled, or whose responses are lost or late, are done once or not at all.

After each write, the store behind the proxy is read and compared with a model of the table.
"""

from __future__ import annotations

import asyncio
import random
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.contract.remote_server import Server
from tests.harness.cases import case
from tests.harness.proxy import Proxy, Request
from tests.harness.values import SMALL, small_rows
from tests.remote.answers import http, problem
from tests.remote.conftest import Opens

import aiovec
from aiovec import VectorStore
from aiovec.errors import OutcomeUnknownError, StoreBusyError

Call = Callable[[VectorStore], Awaitable[Any]]
Rows = dict[str, tuple[int, float]]
"""The year of each row, and the second number of its vector."""

BUSY = problem(503, "busy", error="StoreBusyError", headers="retry-after: 0\r\n")
BUSY_FOR_LONG = problem(429, "too many", headers="retry-after: 99\r\n")
FULL = problem(429, "too many calls", headers="retry-after: 0\r\n")
LATE = problem(504, "took more than 1 s")
GATEWAY = http(b"<html>", status=502, kind="text/html")
ALWAYS = 1000


def drawn(chance: random.Random, rows: Rows) -> tuple[Call, int, Rows]:
    """Draw a write; return it, its result, and the rows after it."""
    year, second = chance.randrange(2000, 2100), float(chance.randrange(9))
    old = chance.sample(sorted(rows), 2)
    new = [f"n{chance.getrandbits(40)}" for _ in range(2)]
    ids, vector = [*old, *new], [1.0, second, 0.0, 0.0]
    made = [{"id": id, "embedding": vector, "year": year} for id in ids]
    added = dict.fromkeys(new, (year, second))
    left = {id: row for id, row in rows.items() if id not in old}
    writes: list[tuple[Call, int, Rows]] = [
        (lambda s: s.insert("notes", made[2:]), 2, rows | added),
        (lambda s: s.insert("notes", made, on_conflict="skip"), 2, rows | added),
        (lambda s: s.upsert("notes", made), 4, rows | dict.fromkeys(ids, (year, second))),
        (lambda s: s.update("notes", {"year": year}, ids=ids), 2,
         rows | {id: (year, rows[id][1]) for id in old}),
        (lambda s: s.set_vectors("notes", ids, [vector] * 4), 2,
         rows | {id: (rows[id][0], second) for id in old}),
        (lambda s: s.delete("notes", ids), 2, left),
        (lambda s: s.delete("notes", where=f"id = '{old[0]}'"), 1, left | {old[1]: rows[old[1]]}),
    ]  # fmt: skip
    return chance.choice(writes)


async def rows_in(store: VectorStore) -> Rows:
    rows = await store.find("notes", limit=10_000, include_vector=True)
    return {row.id: (row["year"], float(row.vector[1])) for row in rows}  # type: ignore[index]


class Mishap(NamedTuple):
    """What happens to a write, the error that its caller gets, and whether it was done."""

    arm: Callable[[Proxy, str], Any]
    error: type[BaseException] | None = None
    done: bool = True


def cut(*lengths: int) -> Callable[[Proxy, str], None]:
    return lambda proxy, _: proxy.cut(*lengths)


def answer(*answers: bytes) -> Callable[[Proxy, str], None]:
    return lambda proxy, _: proxy.answer(*answers)


def lost_and_refused(proxy: Proxy, _: str) -> None:
    proxy.cut(0)
    proxy.answer(*[BUSY] * ALWAYS)


def restarted(proxy: Proxy, url: str) -> None:
    """Lose the response, and let the server reopen the store before the retry."""
    close = urllib.request.Request(f"{url}/close", method="POST")

    async def meddle(_: Request, ask: Callable[[], Awaitable[bytes]], __: object) -> bool:
        await ask()
        (await asyncio.to_thread(urllib.request.urlopen, close)).close()
        return False

    proxy.arm(meddle)


MISHAPS: dict[str, Mishap] = {
    "none": Mishap(lambda *_: None),
    "the answer is lost": Mishap(cut(0)),
    "the answer is lost twice": Mishap(cut(0, 0)),
    "a byte of the answer comes": Mishap(cut(1)),
    "a part of the answer comes": Mishap(cut(100)),
    "the server is busy": Mishap(answer(FULL, BUSY)),
    "a gateway answers": Mishap(answer(GATEWAY)),
    "the server restarts": Mishap(restarted),
    "all answers are lost": Mishap(cut(*[0] * ALWAYS), OutcomeUnknownError),
    "the answer is lost, then the server is busy": Mishap(lost_and_refused, OutcomeUnknownError),
    "the server stays busy": Mishap(answer(*[BUSY] * ALWAYS), StoreBusyError, done=False),
    "the server is busy for long": Mishap(answer(BUSY_FOR_LONG), StoreBusyError, done=False),
    "the server gives up": Mishap(answer(LATE), OutcomeUnknownError, done=False),
    "cancelled, the server has it": Mishap(
        lambda proxy, _: proxy.hold(ask=True), asyncio.CancelledError
    ),
    "cancelled on its way": Mishap(
        lambda proxy, _: proxy.hold(), asyncio.CancelledError, done=False
    ),
}  # fmt: skip


async def suffer(mishap: Mishap, call: Call, store: VectorStore, proxy: Proxy, url: str) -> Any:
    """Make the call while the mishap happens to it, and return its result."""
    came = mishap.arm(proxy, url)
    task = asyncio.ensure_future(call(store))
    if isinstance(came, asyncio.Event):
        await came.wait()
        task.cancel()
    try:
        return await task
    finally:
        proxy.disarm()
        proxy.closed.clear()


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
async def test_a_write_is_done_once_whatever_happens_to_its_answer(
    seed: int, url: str, proxy: Proxy, opens: Opens
) -> None:
    chance = random.Random(seed)
    async with aiovec.connect(url) as behind:
        rows = await rows_in(behind)
        for name, mishap in chance.sample(sorted(MISHAPS.items()), len(MISHAPS)):
            patience = 60.0 if mishap.error is None else 0.3
            call, result, after = drawn(chance, rows)
            async with opens(reconnect_timeout=patience, busy_timeout=patience) as store:
                with case((seed, name)):
                    attempt = suffer(mishap, call, store, proxy, url)
                    if mishap.error is None:
                        assert await attempt == result
                    else:
                        with pytest.raises(mishap.error):
                            await attempt
                    rows = after if mishap.done else rows
                    assert await rows_in(behind) == rows


@pytest.mark.parametrize("refusal", [b"", FULL, GATEWAY], ids=["lost", "busy", "gateway"])
async def test_a_cancelled_write_is_not_done_later_though_its_cancellation_is_lost(
    refusal: bytes, url: str, proxy: Proxy, opens: Opens
) -> None:
    came, late, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def come_late(_: Request, ask: Callable[[], Awaitable[bytes]], __: object) -> bool:
        came.set()
        await late.wait()
        await ask()
        done.set()
        return False

    async def refuse(_: Request, __: object, client: asyncio.StreamWriter) -> bool:
        client.write(refusal)
        return False

    async with opens() as store, aiovec.connect(url) as behind:
        assert await store.count("notes") == 10
        proxy.arm(come_late)
        write = asyncio.ensure_future(store.insert("notes", small_rows(1, start=99)))
        await came.wait()
        proxy.arm(refuse, refuse)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        late.set()
        await done.wait()
        assert await behind.count("notes") == 10


ALTERATIONS: dict[str, tuple[Call, Any]] = {
    "create_table": (lambda s: s.create_table("more", SMALL), SMALL),
    "rename_table": (lambda s: s.rename_table("more", "most"), None),
    "drop_table": (lambda s: s.drop_table("most"), None),
    "add_field": (lambda s: s.add_field("notes", "lang", str), None),
    "rename_field": (lambda s: s.rename_field("notes", "lang", "tongue"), None),
    "drop_field": (lambda s: s.drop_field("notes", "tongue"), None),
    "create_field_index": (lambda s: s.create_field_index("notes", "year", "btree"), None),
    "drop_field_index": (lambda s: s.drop_field_index("notes", "year"), None),
}


async def test_an_alteration_whose_answer_is_lost_is_done_once(proxy: Proxy, opens: Opens) -> None:
    async with opens(reconnect_timeout=60.0) as store:
        for name, (call, result) in ALTERATIONS.items():
            with case(name):
                proxy.cut(0)
                first = len(proxy.requests)
                assert await call(store) == result
                keys = [each.headers.get("idempotency-key") for each in proxy.requests[first:]]
                assert len(keys) >= 2
                assert len(set(filter(None, keys))) == 1
        assert await store.tables() == ["notes"]


async def test_a_store_without_keys_never_writes_twice(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    async with Proxy(server.url("lancedb", tmp_path)) as proxy, aiovec.connect(proxy.url) as store:
        await store.create_table("notes", SMALL)
        assert await store.count("notes") == 0  # the next request is then the insert
        proxy.cut(0)
        with pytest.raises(OutcomeUnknownError, match="requested before") as caught:
            await store.insert("notes", small_rows(2))
        assert caught.value.target == proxy.url
        assert await store.count("notes") == 2
    server.forget()
