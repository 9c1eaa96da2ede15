"""A client of a soak: it makes all kinds of calls, and knows what its own rows must be.

    python -m tests.soak.client TARGET NAME CLIENTS SECONDS

is a process of such clients beside others on one store.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from aiovec import DuplicateIdError, Field, Hit, Record, Schema, VectorStore, connect

DIM = 24
FIELDS: dict[str, Any] = {
    "owner": Field(str, index="btree"),
    "version": int,
    "touched": Field(int, index="btree"),
}
TABLES = {metric: Schema(DIM, metric=metric, fields=FIELDS) for metric in ("cosine", "l2", "dot")}
TOLERANCE = 1e-4
_SLOTS = 40
_CANCELLED = 0.1

State = tuple[int, int]
"""The write of a row's vector, and the last write of its fields. The rest of the row follows."""


def vector_of(id: str, version: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(f"{id} {version}".encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32)


def row_of(id: str, state: State) -> dict[str, Any]:
    return {
        "id": id, "embedding": vector_of(id, state[0]), "owner": id.partition("/")[0],
        "version": state[0], "touched": state[1], "note": f"{id} {state[1]}",
    }  # fmt: skip


def state_of(found: Hit | Record) -> State:
    """The state that a row came in; fails where it is not one that was ever written."""
    state = (found["version"], found["touched"])
    wanted = row_of(found.id, state)
    vector = wanted.pop("embedding")
    assert {"id": found.id, **found.fields} == wanted
    assert found.vector is not None
    assert found.vector.tobytes() == vector.tobytes(), f"{found.id}: another vector than {state}'s"
    return state


def distances(metric: str, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """As the contract defines them, in float64."""
    products = rows.astype(np.float64) @ query
    if metric == "dot":
        return np.asarray(-products)
    if metric == "l2":
        return np.asarray(np.linalg.norm(rows - query, axis=1))
    return np.asarray(1 - products / np.linalg.norm(rows, axis=1) / np.linalg.norm(query))


class Client:
    """Owns the rows ``<owner>/...`` of one table. Its calls follow one another."""

    def __init__(self, store: VectorStore, table: str, owner: str) -> None:
        self.table, self.owner = table, owner
        self.rows: dict[str, State] = {}
        self.counts: Counter[str] = Counter()
        self._store = store
        self._random = random.Random(owner)
        self._number = 0

    async def run(self, calls: int) -> None:
        acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._search_own, 20), (self._search_all, 20), (self._read, 10), (self._upsert, 14),
            (self._update, 6), (self._delete, 6), (self._delete_where, 2), (self._insert_again, 2),
        ]  # fmt: skip
        works, weights = zip(*acts, strict=True)
        for _ in range(calls):
            (act,) = self._random.choices(works, weights)
            self.counts[act.__name__] += 1
            try:
                await act()
            except Exception as exc:
                exc.add_note(f"{self.owner} in {self.table}: {act.__name__}")
                raise

    async def _search_own(self) -> None:
        """Just the nearest of our rows, in their order, with true distances."""
        query, limit = self._query(), self._random.choice([1, 5, 20, 1000])
        bound = self._number - self._random.randrange(40)
        where = f"owner = '{self.owner}' AND touched >= {bound}"
        hits = await self._perhaps_cancelled(
            self._store.search(
                self.table, query, limit=limit, where=where, exact=True, include_vector=True
            )
        )
        if hits is None:
            return
        mine = [id for id, state in self.rows.items() if state[1] >= bound]
        assert len(hits) == min(limit, len(mine))
        self._check(query, hits, mine)

    async def _search_all(self) -> None:
        query, limit = self._query(), self._random.choice([1, 10, 30])
        search = self._store.search(self.table, query, limit=limit, exact=True, include_vector=True)
        hits = await self._perhaps_cancelled(search)
        if hits is not None:
            self._check(query, hits, list(self.rows) if len(hits) == limit else [])

    def _check(self, query: np.ndarray, hits: Sequence[Hit], mine: Sequence[str]) -> None:
        """Each hit is a row that was written, in its place, and none of ``mine`` is passed over."""
        states = {hit.id: state_of(hit) for hit in hits}
        assert len(states) == len(hits), "an id came twice"
        for id, state in states.items():
            assert not id.startswith(f"{self.owner}/") or self.rows[id] == state, id
        told = [hit.distance or 0.0 for hit in hits]
        assert told == sorted(told)
        if not hits:
            return
        vectors = np.array([hit.vector for hit in hits])
        true = distances(self.table, vectors, query)
        assert np.allclose(told, true, atol=TOLERANCE, rtol=TOLERANCE)
        if mine:
            own = np.array([vector_of(id, self.rows[id][0]) for id in mine])
            slack = TOLERANCE * (1 + abs(told[-1]))
            near = np.flatnonzero(distances(self.table, own, query) < told[-1] - slack)
            assert {mine[n] for n in near} <= states.keys()

    def _query(self) -> np.ndarray:
        """Often a row's own vector."""
        if self.rows and self._random.random() < 0.5:
            id = self._random.choice(list(self.rows))
            return vector_of(id, self.rows[id][0])
        return vector_of("query", self._random.randrange(10**9))

    async def _read(self) -> None:
        own = f"owner = '{self.owner}'"
        kind = self._random.randrange(4)
        if kind == 0:
            count = await self._perhaps_cancelled(self._store.count(self.table, own))
            assert count in (None, len(self.rows))
        elif kind == 1:
            found = await self._store.find(self.table, own, order_by="-touched", limit=1000)
            told = [record["touched"] for record in found]
            assert told == sorted((state[1] for state in self.rows.values()), reverse=True)
        elif kind == 2:
            await self.check_rows()
        else:
            export = self._store.export(self.table, where=own, batch_size=10)
            ids = [id async for batch in export for id in batch.column("id").to_pylist()]
            assert sorted(ids) == sorted(self.rows)

    async def check_rows(self) -> None:
        assert await self._stored() == self.rows

    async def _stored(self) -> dict[str, State]:
        ids = [f"{self.owner}/{n}" for n in range(_SLOTS)]
        return {one.id: state_of(one) for one in await self._store.get(self.table, ids)}

    def _some(self) -> list[str]:
        slots = self._random.sample(range(_SLOTS), self._random.choice([1, 1, 3, 10]))
        return [f"{self.owner}/{n}" for n in slots]

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _upsert(self) -> None:
        number = self._next()
        after = dict.fromkeys(self._some(), (number, number))
        rows = [row_of(id, state) for id, state in after.items()]
        await self._write(self._store.upsert(self.table, rows), self.rows | after, len(rows))

    async def _update(self) -> None:
        if not self.rows:
            return
        id = self._random.choice(list(self.rows))
        state = (self.rows[id][0], self._next())
        fields = {"touched": state[1], "note": f"{id} {state[1]}"}
        by: dict[str, Any] = {"ids": id} if state[1] % 2 else {"where": f"id = '{id}'"}
        call = self._store.update(self.table, fields, **by)
        await self._write(call, {**self.rows, id: state}, 1)

    async def _delete(self) -> None:
        gone = self._some()
        left = {id: state for id, state in self.rows.items() if id not in gone}
        await self._write(self._store.delete(self.table, gone), left, len(self.rows) - len(left))

    async def _delete_where(self) -> None:
        bound = self._number - 60
        left = {id: state for id, state in self.rows.items() if state[1] >= bound}
        call = self._store.delete(self.table, where=f"owner = '{self.owner}' AND touched < {bound}")
        await self._write(call, left, len(self.rows) - len(left))

    async def _insert_again(self) -> None:
        """Refused, with all that came beside it."""
        if not self.rows:
            return
        id = self._random.choice(list(self.rows))
        rows = [row_of(f"{self.owner}/never", (1, 1)), row_of(id, (1, 1))]
        try:
            await self._store.insert(self.table, rows)
        except DuplicateIdError as exc:
            assert list(exc.ids) == [id]  # noqa: PT017 - that it comes is the other branch
        else:
            raise AssertionError(f"{id} was inserted a second time")
        await self.check_rows()

    async def _write(
        self, call: Coroutine[Any, Any, int], after: dict[str, State], count: int
    ) -> None:
        """Have the rows that are told; a write that was cancelled is done or is not."""
        returned = await self._perhaps_cancelled(call)
        if returned is None and await self._stored() != after:
            await self.check_rows()
            return
        assert returned in (None, count)
        self.rows = after

    async def _perhaps_cancelled(self, call: Coroutine[Any, Any, Any]) -> Any:
        if self._random.random() >= _CANCELLED:
            return await call
        try:
            async with asyncio.timeout(self._random.random() * 0.02):
                return await call
        except TimeoutError:
            self.counts["cancelled"] += 1
            return None


def clients_of(store: VectorStore, name: str, count: int) -> list[Client]:
    """Clients that are spread over the tables."""
    tables = list(TABLES)
    return [Client(store, tables[n % len(tables)], f"{name}-{n}") for n in range(count)]


async def main(target: str, name: str, count: int, seconds: float) -> None:
    async with connect(target) as store:
        clients = clients_of(store, name, count)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.gather(*(client.run(20) for client in clients))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
