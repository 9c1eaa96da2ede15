"""Contract tests for concurrent tasks: no write is lost or partial, and no call harms another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.contract.base import ContractBase
from tests.harness.values import DIM, SMALL, small_rows, vectors

from aiovec import VectorStore
from aiovec.errors import DuplicateIdError, InvalidRowError


class ConcurrencyContract(ContractBase):
    """Calls that overlap, in one store and in several."""

    @pytest.mark.core
    async def test_of_inserts_of_an_id_one_wins(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        rows = [[{**row, "name": f"writer {n}"} for row in small_rows(4)] for n in range(20)]
        outcomes = await asyncio.gather(
            *(store.insert("notes", given) for given in rows), return_exceptions=True
        )
        won = [n for n, outcome in enumerate(outcomes) if outcome == 4]
        assert len(won) == 1
        assert sum(isinstance(outcome, DuplicateIdError) for outcome in outcomes) == 19
        names = {record["name"] for record in await store.find("notes")}
        assert names == {f"writer {won[0]}"}

    async def test_a_store_under_task_groups_and_scopes_of_anyio(self, store: VectorStore) -> None:
        """A group that is cancelled cancels its calls at each await; the store stays usable."""
        await store.create_table("notes", SMALL)
        acknowledged: set[str] = set()
        begun = anyio.Event()

        async def write(n: int) -> None:
            for part in range(50):
                rows = [{**row, "id": f"{n}-{part}-{row['id']}"} for row in small_rows(2)]
                await store.insert("notes", rows)
                acknowledged.update(row["id"] for row in rows)
                begun.set()
                await store.search("notes", vectors(1)[0])

        async with anyio.create_task_group() as group:
            for n in range(8):
                group.start_soon(write, n)
            await begun.wait()
            group.cancel_scope.cancel()
        with anyio.move_on_after(0) as late:
            await store.insert("notes", small_rows(3))
        assert late.cancel_called
        stored = {record.id for record in await store.find("notes", limit=None)}
        assert acknowledged <= stored
        for id in stored - {row["id"] for row in small_rows(3)}:  # both rows of a call
            assert id.rpartition("-")[0] in {other.rpartition("-")[0] for other in stored - {id}}
        await store.insert("notes", [{**small_rows(1)[0], "id": "after"}])

    async def test_upserts_of_the_same_rows_leave_whole_ones(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)

        async def write(n: int) -> None:
            rows = [
                {"id": id, "embedding": [n + 1.0] * DIM, "name": str(n), "year": n, "extra": n}
                for id in "abc"
            ]
            assert await store.upsert("notes", rows) == 3

        await asyncio.gather(*map(write, range(40)))
        records = await store.get("notes", ["a", "b", "c"])
        assert len(records) == await store.count("notes") == 3
        for record in records:
            n = records[0]["year"]
            assert record.fields == {"name": str(n), "year": n, "extra": n}
            assert record.vector is not None
            assert record.vector.tolist() == [n + 1.0] * DIM

    @pytest.mark.core
    async def test_updates_are_not_lost(self, notes: VectorStore) -> None:
        """The updates change different keys of the same payloads, in one row and in all rows."""
        await asyncio.gather(
            *(notes.update("notes", {f"payload.a.k{n}": n}, where="TRUE") for n in range(5)),
            *(notes.update("notes", {f"key{n}": n}, ids="r0001") for n in range(20)),
        )
        for record in await notes.find("notes"):
            keys = {f"key{n}": n for n in range(20 if record.id == "r0001" else 0)}
            payload = {k: v for k, v in record.fields.items() if k not in SMALL.fields}
            assert payload == {"a": {f"k{n}": n for n in range(5)}, **keys}

    @pytest.mark.core
    async def test_bad_calls_among_good_ones(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(1, start=9_000))

        async def write(n: int) -> None:
            rows: list[dict[str, Any]] = small_rows(3, start=10 * n)
            if n % 3 == 1:
                with pytest.raises(DuplicateIdError):
                    await store.insert("notes", [*rows, *small_rows(1, start=9_000)])
            elif n % 3 == 2:
                rows[1]["year"] = "wrong"
                with pytest.raises(InvalidRowError):
                    await store.insert("notes", rows)
            else:
                assert await store.insert("notes", rows) == 3

        await asyncio.gather(*map(write, range(30)))
        expected = [10 * n + i for n in range(0, 30, 3) for i in range(3)]
        matches = await store.find("notes", "year < 9000", limit=1_000)
        assert [record["year"] for record in matches] == expected

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_readers_never_see_half_a_call(self, store: VectorStore) -> None:
        """Each call writes twenty rows of one year, so every count is a multiple of twenty."""
        await store.create_table("notes", SMALL)
        writing = True
        seen: set[int] = set()

        async def read() -> None:
            while writing:
                await asyncio.sleep(0)  # an in-memory backend may never wait
                seen.add(await store.count("notes"))
                hits = await store.search("notes", [1.0] * DIM, limit=5_000, select=["year"])
                seen.add(len(hits))
                exported = [b.num_rows async for b in store.export("notes", batch_size=64)]
                seen.add(sum(exported))
                seen.add(len(await store.find("notes", limit=5_000)))

        readers = [asyncio.ensure_future(read()) for _ in range(3)]
        try:
            for n in range(6):
                rows = [
                    {"id": f"{n}-{i}", "embedding": [1.0, n, i, 1], "year": n} for i in range(20)
                ]
                await store.insert("notes", rows)
                await asyncio.sleep(0)  # let the readers run, as above
                await store.update("notes", {"year": -n}, where=f"year = {n}")
                if n % 5 == 4:
                    assert await store.delete("notes", where=f"year = {-n}") == 20
        finally:
            writing = False
            await asyncio.gather(*readers)
        assert {count % 20 for count in seen} == {0}

    @pytest.mark.core
    async def test_two_stores_write_one_table(self, tmp_path: Path) -> None:
        self.need_persistence()
        async with self.connect(tmp_path) as first, self.connect(tmp_path) as second:
            await first.create_table("notes", SMALL)
            await asyncio.gather(
                *(
                    (first if n % 2 else second).insert("notes", small_rows(3, start=3 * n))
                    for n in range(40)
                )
            )
            await asyncio.gather(
                *(
                    (first if n % 2 else second).update("notes", {f"k{n}": n}, ids="r0000")
                    for n in range(20)
                )
            )
            for store in (first, second):
                assert await store.count("notes") == 120
                (record,) = await store.get("notes", "r0000")
                assert len(record.fields) == 2 + 20
                assert len(await store.search("notes", vectors(1)[0], limit=500)) == 120

    @pytest.mark.core
    async def test_a_lone_write_on_a_machine_that_stands_still(self, tmp_path: Path) -> None:
        """The write waits for no other call, so it never times out, however slow the machine is."""
        if not self.impatient:
            pytest.skip("this backend has no timeout of its own")
        async with self.connect(tmp_path, keys=self.impatient) as store:
            await store.create_table("notes", SMALL)
            for rounds in (1, 6):
                write = asyncio.ensure_future(store.insert("notes", small_rows(1, start=rounds)))
                for _ in range(rounds):
                    await asyncio.sleep(0)
                # This blocks the event loop. With a timeout of 0 s, calls wait for at most 0.25 s.
                time.sleep(0.4)  # noqa: ASYNC251
                await write
            assert await store.count("notes") == 2

    @pytest.mark.core
    async def test_reads_wait_for_the_reads_of_their_process(self, tmp_path: Path) -> None:
        """They wait for no other process, so they never time out, however many there are."""
        if not self.impatient:
            pytest.skip("this backend has no timeout of its own")
        async with self.connect(tmp_path, keys=self.impatient) as store:
            await store.create_table("notes", SMALL)
            await store.insert("notes", small_rows(3))
            calls: list[Any] = [
                *(store.get("notes", "r0001") for _ in range(400)),
                *(store.search("notes", vectors(1)[0], limit=1) for _ in range(400)),
            ]
            reads = [asyncio.ensure_future(call) for call in calls]
            for _ in range(20):
                await asyncio.sleep(0)
            time.sleep(0.4)  # noqa: ASYNC251  # more than calls wait with a timeout of 0
            assert [len(found) for found in await asyncio.gather(*reads)] == [1] * 800
