"""Contract tests for rows that expire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.values import DIM, ids_of

from aiovec import Embed, F, Field, Schema, Table, VectorStore
from aiovec.errors import (
    AiovecError,
    DuplicateIdError,
    InvalidArgumentError,
    InvalidRowError,
)

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

TENANTS = Schema(
    DIM,
    fields={"until": Field(datetime, expires=True), "tenant": Field(str, partition=True)},
)


def item(id: str, tenant: str = "acme", until: datetime | None = TIMES[1]) -> dict[str, Any]:
    return {"id": id, "embedding": [1.0] * DIM, "tenant": tenant, "until": until}


def _many(id: str, tenant: str = "acme") -> list[dict[str, Any]]:
    return [item(id, tenant), *(item(f"{id} {n}", tenant) for n in range(99))]


Act = Callable[[Table, str], Awaitable[Any]]
# Calls, each with its result for a row that has expired, and for a row that has not.
CALLS: dict[str, tuple[Act, Any, Any]] = {
    "exists": (lambda t, id: _number(t.exists(id)), 0, 1),
    "get": (lambda t, id: _number(t.get(id)), 0, 1),
    "find": (lambda t, id: _number(t.find(F.id == id)), 0, 1),
    "count": (lambda t, id: t.count(F.id == id), 0, 1),
    "distinct": (lambda t, id: _number(t.distinct("tenant", F.id == id)), 0, 1),
    "search": (lambda t, id: _number(t.search([1.0] * DIM, where=F.id == id)), 0, 1),
    "search_like": (lambda t, id: _number(t.search_like(id, limit=1)), InvalidArgumentError, 1),
    "update": (lambda t, id: t.update({"until": TIMES[1]}, ids=id), 0, 1),
    "update a key": (lambda t, id: t.update({"payload.n": 1}, ids=id), 0, 1),
    "update by filter": (lambda t, id: t.update({"payload.n": 1}, where=F.id == id), 0, 1),
    "update by both": (lambda t, id: t.update({"until": None}, ids=id, where=F.id == id), 0, 1),
    "update of rows": (lambda t, id: t.update([{"id": id, "until": None, "n": 1}]), 0, 1),
    "strict update": (
        lambda t, id: t.update([{"id": id, "until": None}], strict=True), InvalidRowError, 1,
    ),
    "set_vectors": (lambda t, id: t.set_vectors([id], [[2.0] * DIM]), 0, 1),
    "delete": (lambda t, id: t.delete(id), 0, 1),
    "delete by filter": (lambda t, id: t.delete(where=F.id == id), 0, 1),
    "insert": (lambda t, id: t.insert([item(id)]), 1, DuplicateIdError),
    "insert many": (lambda t, id: t.insert(_many(id)), 100, DuplicateIdError),
    "skip": (lambda t, id: t.insert([item(id)], on_conflict="skip"), 1, 0),
    "skip many": (lambda t, id: t.insert(_many(id), on_conflict="skip"), 100, 99),
    "replace": (lambda t, id: t.insert([item(id)], on_conflict="replace"), 1, 1),
    "upsert": (lambda t, id: t.upsert([item(id)]), 1, 1),
    "upsert elsewhere": (lambda t, id: t.upsert([item(id, "globex")]), 1, InvalidRowError),
    "upsert many": (lambda t, id: t.upsert(_many(id, "globex")), 100, InvalidRowError),
    "replace elsewhere": (
        lambda t, id: t.insert([item(id, "globex")], on_conflict="replace"), 1, InvalidRowError,
    ),
}  # fmt: skip


async def swept(store: VectorStore, schema: Schema, rows: Any) -> None:
    """Create the table ``notes`` with these rows. Expired rows stay, because ``optimize`` has just
    swept, and writes sweep at most once an hour."""
    await filled(store, schema)
    await store.optimize("notes")
    await store.insert("notes", rows)


async def _number(matches: Awaitable[Any]) -> int:
    return len(await matches)


async def _outcome(call: Awaitable[Any]) -> Any:
    """Return the result of a call, or the type of its error."""
    try:
        return await call
    except AiovecError as exc:
        if isinstance(exc, InvalidRowError):
            assert "acme" not in str(exc)  # noqa: PT017 - other tenants' partitions stay hidden
        return type(exc)


class ExpiringContract(ContractBase):
    """``Field(datetime, expires=True)``."""

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_expired_rows_are_hidden_from_every_read(self, store: VectorStore) -> None:
        await swept(store, SCHEMA, ROWS)
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
        (hits,) = await store.search_many("notes", [query], each_where=["year > 1"])
        assert ids_of(hits) == LIVE[1:]
        assert ids_of(await store.search_like("notes", "r1")) == LIVE[1:]
        with pytest.raises(InvalidArgumentError):
            await store.search_like("notes", "r0")
        if store.supports("text"):
            assert sorted(ids_of(await store.search_text("notes", "wool"))) == LIVE
            assert sorted(ids_of(await store.search_hybrid("notes", "wool", query))) == LIVE
        assert sorted([record.id async for record in store.rows("notes")]) == LIVE
        batches = [batch async for batch in store.export("notes")]
        assert sorted(id for batch in batches for id in batch["id"].to_pylist()) == LIVE
        assert await store.update("notes", {"year": 9}, ids=["r0", "r1"]) == 1
        assert await store.update("notes", {"until": TIMES[0]}, where="year = 9") == 1
        assert ids_of(await store.find("notes", order_by="id")) == LIVE[1:]

    @pytest.mark.core
    @pytest.mark.parametrize("together", [False, True])
    async def test_an_expired_row_does_not_exist(self, store: VectorStore, together: bool) -> None:
        table = store.table("notes")
        rows = [
            item(f"{name} {state}", until=until)
            for name in CALLS
            for state, until in (("gone", TIMES[0]), ("here", TIMES[1]))
        ]
        await swept(store, TENANTS, rows)
        calls = [
            (f"{name} {state}", act, expected)
            for name, (act, *outcomes) in CALLS.items()
            for state, expected in zip(("gone", "here"), outcomes, strict=True)
        ]
        if together:  # like many tasks whose writes share commits
            made = await asyncio.gather(*(_outcome(act(table, id)) for id, act, _ in calls))
        else:
            made = [await _outcome(act(table, id)) for id, act, _ in calls]
        for (id, _, expected), outcome in zip(calls, made, strict=True):
            with case(id):
                assert outcome == expected
                gone = id.endswith("gone") and expected in (
                    0,
                    InvalidArgumentError,
                    InvalidRowError,
                )
                deleted = id in ("delete here", "delete by filter here")
                assert await table.exists(id) == (set() if gone or deleted else {id})

    async def test_expired_rows_are_deleted_by_the_sweep_alone(self, store: VectorStore) -> None:
        await swept(store, SCHEMA, ROWS)
        for expired in (2, 0):
            stats = await store.stats("notes")
            assert (stats.rows, stats.details["expired_rows"]) == (4, expired)
            await store.optimize("notes")
        assert await store.count("notes") == 4
        assert await store.delete("notes", where="TRUE") == 4
        await store.insert("notes", ROWS)
        assert await store.delete("notes", where="TRUE") == 4
        assert (await store.stats("notes")).details["expired_rows"] == 2

    async def test_the_id_of_an_expired_row_is_free(self, tmp_path: Path) -> None:
        async with self.connect(tmp_path, keys=self.one_writer) as store:
            await swept(store, SCHEMA, ROWS)
            assert await store.insert("notes", [row(0, None)]) == 1
            with pytest.raises(DuplicateIdError) as caught:
                await store.insert("notes", [row(0, None), row(3, None)])
            assert caught.value.ids == ["r0"]
            await store.update("notes", {"until": TIMES[0]}, ids="r0")
            again = [row(0, TIMES[1]), row(1, None)]
            assert await store.insert("notes", again, on_conflict="skip") == 1
            assert ids_of(await store.find("notes", order_by="id")) == ["r0", *LIVE]
            # If several calls insert the same id at the same time, one of them succeeds.
            await store.insert("notes", [row(n, TIMES[0]) for n in range(6, 12)])
            taking = [store.insert("notes", [row(6 + n % 6, None)]) for n in range(12)]
            outcomes = await asyncio.gather(*map(_outcome, taking))
            for first, second in zip(outcomes[:6], outcomes[6:], strict=True):
                assert {first, second} == {1, DuplicateIdError}

    @pytest.mark.slow
    async def test_no_row_is_seen_after_its_time(self, store: VectorStore) -> None:
        await filled(store, SCHEMA)
        until = datetime.now(UTC) + timedelta(seconds=1.5)
        await store.insert("notes", [row(0, until)])
        calls: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: store.count("notes"),
            lambda: store.get("notes", "r0"),
            lambda: store.find("notes"),
            lambda: store.search("notes", [1.0] * DIM),
            lambda: store.update("notes", {"year": 1}, ids="r0"),
        )
        over = False
        while not over:
            over = datetime.now(UTC) > until
            for number, call in enumerate(calls):
                began = datetime.now(UTC)
                seen = bool(await call())
                with case((number, began, until)):
                    if datetime.now(UTC) < until.replace(microsecond=0):
                        assert seen
                    if began > until:
                        assert not seen
            await asyncio.sleep(0.02)

    async def test_expired_rows_take_no_place_among_the_nearest(self, store: VectorStore) -> None:
        schema = Schema(DIM, metric="l2", fields={"until": SCHEMA.fields["until"], "even": bool})
        rows = [
            {"id": f"r{n}", "embedding": [n, 0, 0, 0], "even": n % 2 == 0, "until": TIMES[n >= 40]}
            for n in range(10, 70)
        ]
        await swept(store, schema, rows)
        near, far = [0.0] * DIM, [69.0, 0, 0, 0]
        for limit in (1, 5, 25, 40):
            nearest = [f"r{n}" for n in range(40, 70)]
            assert ids_of(await store.search("notes", near, limit=limit)) == nearest[:limit]
            even, odd = await store.search_many(
                "notes", [near, far], limit=limit, each_where=["even = TRUE", "even = FALSE"]
            )
            assert ids_of(even) == nearest[::2][:limit]
            assert ids_of(odd) == nearest[::-2][:limit]
        hits = await store.search("notes", near, group_by="even", per_group=2, limit=2)
        assert ids_of(hits) == ["r40", "r41", "r42", "r43"]
        (hit,) = await store.search("notes", near, limit=1, select=["even"], include_vector=True)
        assert dict(hit) == {"id": "r40", "even": True}
        assert list(hit.vector) == [40, 0, 0, 0]
        # If rows after the expired ones are equally far away, those with the lowest ids are found.
        equal = [{"embedding": [0, 100, 0, 0], "until": TIMES[1]} for _ in range(60)]
        gone = [{"embedding": [0, 99, 0, n / 100], "until": TIMES[0]} for n in range(6)]
        more = [*equal, *gone, {"embedding": [0, 98, 0, 0], "until": None}]
        more = [{"id": f"s{n:02}", **row} for n, row in enumerate(more)]
        await store.insert("notes", more[::-1])
        hits = await store.search("notes", [0, 98, 0, 0], limit=3)
        assert ids_of(hits) == ["s66", "s00", "s01"]
        like = await store.search_like("notes", "r41", limit=2, select=[])
        assert ids_of(like) == ["r40", "r42"]

    async def test_searches_together_see_one_state_of_rows_that_expire(
        self, store: VectorStore
    ) -> None:
        """Only the first query finds more expired rows than it has fetched."""
        near, far = [1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]
        expired = [row(n, TIMES[0]) | {"embedding": near} for n in range(30)]
        live = [row(n, None) | {"embedding": far} for n in (30, 31)]
        await swept(store, SCHEMA, [*expired, *live])
        over = False

        async def write() -> None:
            while not over:
                for one in live:
                    one["year"] += 1
                await store.upsert("notes", live)

        writing = asyncio.ensure_future(write())
        for _ in range(20):
            answers = await store.search_many("notes", [near, far], limit=2)
            found = [[(hit.id, hit["year"]) for hit in hits] for hits in answers]
            assert found[0] == found[1]
        over = True
        await writing

    async def test_texts_of_expired_ids_are_embedded(self, tmp_path: Path) -> None:
        schema = Schema(fields=SCHEMA.fields, embed=Embed("body"))
        async with self.connect(tmp_path, embedders={"default": {"kind": "demo"}}) as store:
            rows = [{"id": f"r{n}", "body": "wool", "until": TIMES[n]} for n in range(2)]
            await swept(store, schema, rows)
            new = [{"id": f"r{n}", "body": "silk"} for n in range(2)]
            assert await store.insert("notes", new, on_conflict="skip") == 1
            assert ids_of(await store.find("notes", "body = 'silk'")) == ["r0"]

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_an_export_of_expiring_rows_goes_on(self, store: VectorStore) -> None:
        await swept(store, SCHEMA, ROWS)
        whole = [batch async for batch in store.export("notes", batch_size=2, select=["year"])]
        assert all(batch.schema.names == ["id", "year"] for batch in whole)
        assert all(batch.num_rows for batch in whole)
        for number, batch in enumerate(whole):
            await store.update("notes", {"year": 7}, where="TRUE")
            after = batch.schema.metadata[b"aiovec.cursor"]
            rest = store.export("notes", batch_size=2, select=["year"], after=after)
            ids = {id async for batch in rest for id in batch["id"].to_pylist()}
            expected = {id for batch in whole[number + 1 :] for id in batch["id"].to_pylist()}
            assert ids == expected

    @pytest.mark.arrow
    async def test_a_follower_never_keeps_a_row_that_expired(self, store: VectorStore) -> None:
        self.need(store, "changes")
        await swept(store, SCHEMA, ROWS)
        kept: dict[str, Any] = {}
        number = 0

        async def follow() -> None:
            nonlocal number
            page = await store.changes("notes", number)
            number = page.number
            for id in page.deleted:
                kept.pop(id, None)
            kept.update((row["id"], row["until"]) for row in page.upserted.to_pylist())

        await follow()
        assert sorted(kept) == LIVE
        await store.update("notes", {"until": TIMES[0]}, ids=["r1"])
        await follow()
        assert sorted(kept) == LIVE[1:]
        await store.insert("notes", [row(0, None), row(1, None)])
        await store.optimize("notes")
        await follow()
        assert sorted(kept) == ["r0", *LIVE]

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
