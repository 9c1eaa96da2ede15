"""Export cursors that callers have changed."""

from __future__ import annotations

import random

import pytest
from tests.contract.base import case
from tests.harness.values import SMALL, small_rows

from aiovec import InvalidArgumentError, VectorStore


async def test_garbled_cursors_are_refused_or_go_on_where_they_say(store: VectorStore) -> None:
    """With any cursor, no row is returned twice, and no error of LanceDB itself is raised."""
    await store.create_table("notes", SMALL)
    await store.insert("notes", small_rows(60))
    for cursor in (b"@", b"@{}", b"@" + b"[" * 100_000, b"@\xff", b"+\xff", b"?"):
        with case(cursor[:10]), pytest.raises(InvalidArgumentError):
            await anext(store.export("notes", after=cursor))
    batches = [batch async for batch in store.export("notes", batch_size=7)]
    cursors = [batch.schema.metadata[b"aiovec.cursor"] for batch in batches]
    chance, refused = random.Random(1), 0
    for _ in range(80):
        cursor = bytearray(chance.choice(cursors))
        place = chance.randrange(len(cursor))
        cursor[place : place + chance.randrange(3)] = chance.choice(
            [b"-1", b"0", b"2147483648", b"9" * 30, b"", b"\xff", b'"']
        )
        with case(bytes(cursor)):
            try:
                rest = [batch async for batch in store.export("notes", after=bytes(cursor))]
            except InvalidArgumentError:
                refused += 1
            else:
                ids = [id for batch in rest for id in batch.column("id").to_pylist()]
                assert len(ids) == len(set(ids)) <= 60
    assert refused > 10
