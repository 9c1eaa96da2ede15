"""Functions and objects of users that raise what asyncio cannot pass on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.harness.waiting import until

from aiovec import Hit, Schema, VectorStore


class Row(dict[str, Any]):
    def items(self, *_: object) -> Any:
        raise StopIteration

    get = keys = __iter__ = __getitem__ = items  # type: ignore[assignment]


def raise_stop_iteration(_: object) -> Any:
    return next(iter([]))


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.search("notes", [1, 2, 3, 4], rerank=raise_stop_iteration),
        lambda store: store.upsert("notes", [Row(id="b", embedding=[1, 2, 3, 4])] * 5000),
    ],
)
async def test_stop_iteration_ends_the_call(
    store: VectorStore, call: Callable[[VectorStore], Any]
) -> None:
    """It cannot be raised into a future, and the call waited for ever."""
    await store.create_table("notes", Schema(4))
    await store.insert("notes", [{"id": "a", "embedding": [1, 2, 3, 4]}])
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(call(store), 20)
    assert await store.count("notes") == 1


async def test_a_rerank_that_goes_on_after_its_search_was_cancelled_keeps_its_place(
    store: VectorStore,
) -> None:
    """Else searches that are given up would leave a thread each, without bound."""
    await store.create_table("notes", Schema(4))
    await store.insert("notes", [{"id": "a", "embedding": [1, 2, 3, 4]}])
    go_on, begun = threading.Event(), []

    def slow(hits: list[Hit]) -> list[Hit]:
        begun.append(len(hits))
        go_on.wait(60)
        return hits

    for _ in range(3):
        searches = [
            asyncio.ensure_future(store.search("notes", [1, 2, 3, 4], rerank=slow))
            for _ in range(10)
        ]
        await until(lambda: len(begun) >= 4)
        await asyncio.sleep(0.05)
        for search in searches:
            search.cancel()
        await asyncio.wait(searches, timeout=30)  # at once, though the functions run on
        assert all(search.cancelled() for search in searches)
    assert len(begun) == 4
    go_on.set()
    assert len(await store.search("notes", [1, 2, 3, 4], rerank=slow)) == 1
