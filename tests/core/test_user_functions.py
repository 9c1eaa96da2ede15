"""Functions and objects of users that raise what asyncio cannot pass on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aiovec import Schema, VectorStore


class Row(dict[str, Any]):
    def items(self, *_: object) -> Any:
        raise StopIteration

    get = keys = __iter__ = __getitem__ = items  # type: ignore[assignment]


def nothing_left(_: object) -> Any:
    return next(iter([]))


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.search("notes", [1, 2, 3, 4], rerank=nothing_left),
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
