"""Contract tests for writes under a key: a repeated write is done once, with the same outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase, case
from tests.harness.values import DIM, SMALL, small_rows

from aiovec import VectorStore
from aiovec.backend.context import CallContext, WriteKey, calling
from aiovec.errors import DuplicateIdError, InvalidArgumentError, TableNotFoundError

Call = Callable[[VectorStore], Awaitable[Any]]

# Calls that, made twice, would fail, or return or change something else the second time. Each has
# its result, and the call that another caller makes between the two.
_CALLS: dict[str, tuple[Call, Any, Call]] = {
    "insert": (
        lambda s: s.insert("notes", small_rows(3, start=20)), 3,
        lambda s: s.delete("notes", ["r0020"]),
    ),
    "insert, skip": (
        lambda s: s.insert("notes", small_rows(3, start=8), on_conflict="skip"), 1,
        lambda s: s.delete("notes", ["r0010"]),
    ),
    "upsert": (
        lambda s: s.upsert("notes", small_rows(3, start=8)), 3,
        lambda s: s.update("notes", {"name": "later"}, where="TRUE"),
    ),
    "update": (
        lambda s: s.update("notes", {"name": "new", "more": 1}, where="year < 4"), 4,
        lambda s: s.update("notes", {"name": "later", "year": 100}, where="TRUE"),
    ),
    "update of rows": (
        lambda s: s.update("notes", [{"id": "r0001", "year": 7}, {"id": "r0099", "more": 1}]), 1,
        lambda s: s.update("notes", {"year": 100}, where="TRUE"),
    ),
    "set_vectors": (
        lambda s: s.set_vectors("notes", ["r0001", "r0099"], [[1.0] * DIM] * 2), 1,
        lambda s: s.set_vectors("notes", ["r0001"], [[2.0] * DIM]),
    ),
    "delete": (
        lambda s: s.delete("notes", ["r0001", "r0099"]), 1,
        lambda s: s.upsert("notes", small_rows(3)),
    ),
    "delete_where": (
        lambda s: s.delete("notes", where="year < 4"), 4,
        lambda s: s.upsert("notes", small_rows(6)),
    ),
    "create_table": (
        lambda s: s.create_table("more", SMALL), SMALL,
        lambda s: s.insert("more", small_rows(2)),
    ),
    "rename_table": (
        lambda s: s.rename_table("notes", "more"), None, lambda s: s.create_table("notes", SMALL),
    ),
    "drop_table": (
        lambda s: s.drop_table("notes"), None, lambda s: s.create_table("notes", SMALL),
    ),
    "add_field": (
        lambda s: s.add_field("notes", "lang", str), None,
        lambda s: s.update("notes", {"lang": "de"}, where="TRUE"),
    ),
    "rename_field": (
        lambda s: s.rename_field("notes", "name", "title"), None,
        lambda s: s.add_field("notes", "name", str),
    ),
    "drop_field": (
        lambda s: s.drop_field("notes", "name"), None, lambda s: s.add_field("notes", "name", int),
    ),
    "create_field_index": (
        lambda s: s.create_field_index("notes", "year", "btree"), None,
        lambda s: s.drop_field_index("notes", "year"),
    ),
}  # fmt: skip


def _keyed(name: str, digest: bytes = b"1") -> AbstractContextManager[None]:
    return calling(CallContext(key=WriteKey(name, digest)))


async def _content(store: VectorStore) -> dict[str, Any]:
    """Return all schemas and rows."""
    matches: dict[str, Any] = {}
    for name in await store.tables():
        rows = await store.find(name, limit=100, include_vector=True)
        matches[name] = (await store.schema(name)).to_json(), [row.to_dict() for row in rows]
    return matches


class OnceContract(ContractBase):
    """The ability "once", of backends that have it."""

    async def test_a_write_is_done_once_under_its_key(self, store: VectorStore) -> None:
        self.need(store, "once")
        for name, (call, outcome, between) in _CALLS.items():
            with case(name):
                for table in await store.tables():
                    await store.drop_table(table)
                await store.create_table("notes", SMALL)
                await store.create_field_index("notes", "name", "btree")
                await store.insert("notes", small_rows(10))
                with _keyed(name):
                    assert await call(store) == outcome
                    done = await _content(store)
                    assert await call(store) == outcome
                    assert await _content(store) == done
                await between(store)
                later = await _content(store)
                assert later != done
                with _keyed(name):
                    assert await call(store) == outcome
                assert await _content(store) == later

    async def test_a_key_belongs_to_one_write(self, notes: VectorStore) -> None:
        self.need(notes, "once")
        with _keyed("k"):
            await notes.insert("notes", small_rows(1, start=20))
        before = await _content(notes)
        with _keyed("k", b"2"), pytest.raises(InvalidArgumentError) as caught:
            await notes.insert("notes", small_rows(1, start=30))
        assert caught.value.value == "k"
        assert await _content(notes) == before
        with _keyed("other", b"2"):
            assert await notes.insert("notes", small_rows(1, start=30)) == 1

    async def test_a_write_that_failed_leaves_its_key_free(self, notes: VectorStore) -> None:
        self.need(notes, "once")
        for _ in range(2):
            with _keyed("k"), pytest.raises(DuplicateIdError):
                await notes.insert("notes", small_rows(1))
        with _keyed("k"), pytest.raises(TableNotFoundError):
            await notes.insert("absent", small_rows(1))
        await notes.delete("notes", ["r0000"])
        for _ in range(2):
            with _keyed("k"):
                assert await notes.insert("notes", small_rows(1)) == 1
        assert await notes.count("notes") == 10

    async def test_writes_at_once_under_keys_are_each_done_once(self, notes: VectorStore) -> None:
        """Some of the writes share a commit, and some of these share a key."""
        self.need(notes, "once")

        async def insert(number: int) -> int:
            with _keyed(f"k{number}"):
                return await notes.insert("notes", small_rows(2, start=100 + 2 * number))

        async def insert_skipping(number: int) -> int:
            with _keyed(f"s{number}"):
                rows = small_rows(2, start=300 + 2 * number)
                return await notes.insert("notes", rows, on_conflict="skip")

        for _ in range(2):
            calls = [call(n) for n in range(20) for call in (insert, insert_skipping) * 2]
            assert await asyncio.gather(*calls) == [2] * 80
            assert await notes.count("notes") == 90

    async def test_a_key_outlives_its_store(self, tmp_path: Path) -> None:
        self.need_persistence()
        for _ in range(3):
            async with self.connect(tmp_path) as store:
                self.need(store, "once")
                with _keyed("create"):
                    await store.create_table("notes", SMALL)
                with _keyed("insert"):
                    assert await store.insert("notes", small_rows(5)) == 5
                await store.delete("notes", ["r0001"])
                assert await store.count("notes") == 4

    async def test_one_of_two_stores_with_the_same_key_writes(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with self.connect(tmp_path) as first, self.connect(tmp_path) as second:
            self.need(first, "once")
            await first.create_table("notes", SMALL)

            async def insert(store: VectorStore, number: int) -> int:
                with _keyed(f"k{number}"):
                    return await store.insert("notes", small_rows(1, start=number))

            calls = [insert(store, number) for number in range(20) for store in (first, second)]
            assert await asyncio.gather(*calls) == [1] * 40
            assert await first.count("notes") == 20
