"""Rows that expire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.contract.base import ContractBase, filled
from tests.harness.values import DIM, ids_of

from aiovec import Field, Schema, VectorStore
from aiovec.errors import DuplicateIdError, InvalidArgumentError

SCHEMA = Schema(
    DIM,
    fields={"until": Field(datetime, expires=True), "year": int, "body": Field(str, text=True)},
)
NOW = datetime.now(UTC)
TIMES = (NOW - timedelta(days=1), NOW + timedelta(days=1), None)
NAMES = [f"r{n}" for n in range(6)]
LIVE = ["r1", "r2", "r4", "r5"]


def row(n: int, until: datetime | None) -> dict[str, Any]:
    return {
        "id": f"r{n}", "embedding": [1.0, n, 0.0, 0.0], "year": n, "body": "wool", "until": until,
    }  # fmt: skip


ROWS = [row(n, TIMES[n % 3]) for n in range(6)]


class ExpiringContract(ContractBase):
    """``Field(datetime, expires=True)``."""

    @pytest.mark.core
    async def test_expired_rows_are_hidden_from_every_read(self, store: VectorStore) -> None:
        await filled(store, SCHEMA, ROWS)
        assert (await store.schema("notes")).expires == "until"
        query = ROWS[0]["embedding"]
        assert ids_of(await store.find("notes", order_by="id")) == LIVE
        assert ids_of(await store.get("notes", NAMES)) == LIVE
        assert ids_of(await store.get("notes", NAMES, select=["year"])) == LIVE
        assert await store.exists("notes", NAMES) == set(LIVE)
        assert await store.count("notes") == 4
        assert await store.count("notes", "year < 4 OR until IS NULL") == 3
        assert await store.distinct("notes", "year") == dict.fromkeys((1, 2, 4, 5), 1)
        assert await store.bounds("notes", "year") == (1, 5)
        assert ids_of(await store.search("notes", query)) == LIVE
        (hits,) = await store.search_many("notes", [query], where=["year > 1"])
        assert ids_of(hits) == LIVE[1:]
        assert ids_of(await store.search_like("notes", "r1")) == LIVE[1:]
        with pytest.raises(InvalidArgumentError):
            await store.search_like("notes", "r0")
        if store.supports("text"):
            assert sorted(ids_of(await store.search_text("notes", "wool"))) == LIVE
            assert sorted(ids_of(await store.search_hybrid("notes", "wool", query))) == LIVE
        batches = [batch async for batch in store.export("notes")]
        assert sorted(id for batch in batches for id in batch["id"].to_pylist()) == LIVE
        assert await store.update("notes", {"year": 9}, ids=["r0", "r1"]) == 1
        assert await store.update("notes", {"until": TIMES[0]}, where="year = 9") == 1
        assert ids_of(await store.find("notes", order_by="id")) == LIVE[1:]

    async def test_expired_rows_are_deleted(self, store: VectorStore) -> None:
        await filled(store, SCHEMA, ROWS)
        assert (await store.stats("notes")).rows == 6
        await store.optimize("notes")
        assert (await store.stats("notes")).rows == 4
        assert await store.count("notes") == 4
        assert await store.delete("notes", where="TRUE") == 4
        await store.insert("notes", ROWS)
        assert await store.delete("notes", where="TRUE") == 6

    async def test_the_id_of_an_expired_row_is_free(self, store: VectorStore) -> None:
        await filled(store, SCHEMA, ROWS)
        assert await store.insert("notes", [row(0, None)]) == 1
        with pytest.raises(DuplicateIdError):
            await store.insert("notes", [row(0, None)])
        await store.update("notes", {"until": TIMES[0]}, ids="r0")
        again = [row(0, TIMES[1]), row(1, None)]
        assert await store.insert("notes", again, on_conflict="skip") == 1
        assert ids_of(await store.find("notes", order_by="id")) == ["r0", *LIVE]

    async def test_one_field_of_datetimes_expires(self, store: VectorStore) -> None:
        with pytest.raises(InvalidArgumentError):
            Field(str, expires=True)
        with pytest.raises(InvalidArgumentError):
            Schema(DIM, fields=dict.fromkeys("ab", Field(datetime, expires=True)))
        await filled(store, Schema(DIM), [{"id": "a", "embedding": [1.0] * DIM}])
        await store.add_field("notes", "until", Field(datetime, expires=True, index="btree"))
        assert await store.count("notes") == 1
        await store.update("notes", {"until": TIMES[0]}, ids="a")
        assert await store.count("notes") == 0
        await store.drop_field("notes", "until")
        assert await store.count("notes") == 1
