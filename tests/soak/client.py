"""One client of a soak: it does all kinds of calls, and knows what its own rows must be."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from tests.harness.oracle import Oracle, assert_same_hit_fields, assert_same_hits
from tests.soak.questions import FILTERS, Selects, every_row, own_filters
from tests.soak.world import (
    TOLERANCE,
    State,
    World,
    Written,
    changed_fields,
    distances,
    row_of,
    scale_of,
    state_of,
    vector_of,
)

from aiovec import F, Hit, VectorStore
from aiovec.backend import Float32Array
from aiovec.errors import DuplicateIdError

_T = TypeVar("_T")

# Rows that come and go under the same ids, and rows of which each is written once.
_SLOTS = 40
_MOST_ONCE = 20
# The share of calls that are cancelled, and of own answers that are compared with the oracle.
_CANCELLED = 0.1
_COMPARED = 0.3


class Client:
    """Owns the rows ``<owner>/...`` of one table. Its calls follow one another."""

    def __init__(self, world: World, store: VectorStore, table: str, owner: str, seed: int) -> None:
        self.owner = owner
        self.table = table
        self.schema = world.schemas[table]
        # The last acknowledged write of each row that may come again.
        self.written: dict[str, Written] = {}
        self._world = world
        self._store = store
        self._random = random.Random(f"{seed} {owner}")
        self._oracle = Oracle()
        self._oracle.create_table(table, self.schema)
        self._act: str | None = None
        self._asked: object = None
        self._number = 0
        self._once: deque[int] = deque()
        self._next_once = 0
        # The rows written once below this number are gone since that moment.
        self._gone_below: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> dict[str, State]:
        """The client's rows by id."""
        rows = self._oracle.rows(self.table).values()
        return {row.id: State(row.fields["version"], row.fields["touched"]) for row in rows}

    @property
    def doing(self) -> str:
        """The call that runs, for the word of one that goes wrong; nothing between two."""
        return f"{self.owner} in {self.table}: {self._act} {self._asked}" if self._act else ""

    def gone_for_good(self, id: str, began: int) -> bool:
        """Return whether the row is one that never comes again and was gone before ``began``."""
        kind, number = id.rpartition("/")[2][0], id.rpartition("/")[2][1:]
        below, since = self._gone_below
        return kind == "x" and int(number) < below and since < began

    def use(self, store: VectorStore) -> None:
        """Go on with another store over the same tables."""
        self._store = store

    async def run(self) -> None:
        acts: list[tuple[Callable[[], Coroutine[Any, Any, None]], int]] = [
            (self._search_all, 25),
            (self._search_own, 25),
            (self._search_many, 4),
            (self._read_own, 8),
            (self._see_mark, 4),
            (self._export_own, 1),
            (self._upsert, 14),
            (self._insert_once, 5),
            (self._insert_again, 1),
            (self._update, 5),
            (self._delete, 4),
            (self._delete_once, 5),
            (self._delete_where, 1),
        ]
        works, weights = zip(*acts, strict=True)
        while not self._world.over:
            async with self._world.gate.inside():
                (act,) = self._random.choices(works, weights)
                self._asked, self._act = None, act.__name__
                try:
                    await act()
                except Exception as exc:
                    exc.add_note(self.doing)
                    raise
                self._act = None

    # Searching

    async def _search_all(self) -> None:
        query = self._query()
        limit = self._random.choice([1, 3, 10, 10, 30])
        where, selects = self._random.choice(FILTERS)
        self._asked = (where, limit)
        began = self._world.now()
        search = self._store.search(
            self.table, query, limit=limit, where=where, include_vector=True,
            exact=self._world.exact,
        )  # fmt: skip
        if (hits := await self._perhaps_cancelled(search)) is not None:
            self._check_all(query, hits, limit, began, selects)

    async def _search_many(self) -> None:
        queries = np.stack([self._query() for _ in range(self._random.randint(2, 6))])
        began = self._world.now()
        search = self._store.search_many(
            self.table, queries, limit=5, include_vector=True, exact=self._world.exact
        )
        if (found := await self._perhaps_cancelled(search)) is not None:
            assert len(found) == len(queries)
            for query, hits in zip(queries, found, strict=True):
                self._check_all(query, hits, 5, began, every_row)

    def _check_all(
        self, query: Float32Array, hits: list[Hit], limit: int, began: int, selects: Selects
    ) -> None:
        """A search over everybody's rows: nobody else writes ours, and nobody the base's."""
        states = self._world.check_hits(self.table, query, hits, limit, began)
        rows, base = self.rows, self._world.base[self.table]
        for id, state in states.items():
            assert selects(id, state), f"the filter does not select {id} as {state}"
            if id.startswith(f"{self.owner}/"):
                assert rows.get(id) == state, f"{id} came as {state}, not {rows.get(id)}"
        point = query.astype(np.float64)
        theirs = [n for n, (id, state) in enumerate(base.states.items()) if selects(id, state)]
        mine = [id for id, state in rows.items() if selects(id, state)]
        ids = [*(base.ids[n] for n in theirs), *mine]
        assert len(hits) >= min(limit, len(ids)), f"only {len(hits)} hits of {len(ids)} at least"
        own = [vector_of(id, rows[id].version, self.schema.dim) for id in mine]
        vectors = np.concatenate([base.vectors[theirs], np.array(own).reshape(-1, self.schema.dim)])
        measured = distances(self.schema.metric, vectors, point)
        if len(hits) == limit:
            farthest = max(hit.distance or 0.0 for hit in hits)
            slack = 2 * TOLERANCE * scale_of(self.schema.metric, point)
            near = np.flatnonzero(measured < farthest - slack)
            missing = {ids[i] for i in near} - states.keys()
            assert not missing, f"{missing} are nearer than the last hit at {farthest}"
        self._count("searches", "searches over all")

    async def _search_own(self) -> None:
        query = self._query()
        limit = self._random.choice([1, 5, 20, 1000])
        mark = self._number - self._random.randint(0, 60)
        where = self._random.choice(own_filters(self.owner, mark, range(0, _SLOTS, 3)))
        self._asked = (where, limit)
        began = self._world.now()
        search = self._store.search(
            self.table, query, limit=limit, where=where, include_vector=True,
            exact=self._world.exact,
        )  # fmt: skip
        if (hits := await self._perhaps_cancelled(search)) is None:
            return
        self._count("searches", "searches over own rows")
        rows = self.rows
        for id, state in self._world.check_hits(self.table, query, hits, limit, began).items():
            assert rows.get(id) == state, f"{id} came as {state}, not {rows.get(id)}"
        if self._random.random() < _COMPARED:
            truth = self._oracle.search(self.table, query, limit=limit, where=where)
            assert_same_hits(hits, truth, TOLERANCE)
            assert_same_hit_fields(hits, truth)
            self._count("compared with the oracle")

    async def _see_mark(self) -> None:
        """Check that a search that starts now finds what another process has acknowledged."""
        if not self._world.marks:
            return
        table, number = self._world.marks[id := self._random.choice(list(self._world.marks))]
        hits = await self._store.search(
            table, np.ones(self._world.schemas[table].dim), limit=1, where=F.id == id
        )
        assert hits, f"{id} was not found"
        assert hits[0]["touched"] >= number, f"{id} is {hits[0]['touched']}, not {number}"
        self._count("searches", "marks of the other process seen")

    def _query(self) -> Float32Array:
        """Often a row's own vector, so that ties and zero distances come up."""
        rows = list(self.rows.items())
        if rows and self._random.random() < 0.5:
            id, state = self._random.choice(rows)
            return vector_of(id, state.version, self.schema.dim)
        kind = f"query/{self._random.randrange(10**9)}"
        return vector_of(kind, 1, self.schema.dim)

    # Reading

    async def _read_own(self) -> None:
        rows = self.rows
        kind = self._random.randrange(3)
        if kind == 0:
            count = await self._perhaps_cancelled(
                self._store.count(self.table, F.owner == self.owner)
            )
            assert count in (None, len(rows)), f"{count} rows of {self.owner}, not {len(rows)}"
        elif kind == 1:
            ids = [f"{self.owner}/s{n:02}" for n in self._random.sample(range(_SLOTS), 10)]
            assert await self._stored(ids) == {id: rows[id] for id in ids if id in rows}
        else:
            found = await self._perhaps_cancelled(
                self._store.find(
                    self.table,
                    F.owner == self.owner,
                    limit=1000,
                    select=["touched"],
                    order_by="touched",
                    descending=True,
                )
            )
            if found is not None:
                told = [record["touched"] for record in found]
                assert told == sorted((state.touched for state in rows.values()), reverse=True)
        self._count("other reads")

    async def _export_own(self) -> None:
        """A part of an export, left in the middle or read to its end."""
        rows, leave = self.rows, self._random.random() < 0.3
        ids: list[str] = []
        export = self._store.export(
            self.table, where=F.owner == self.owner, batch_size=10, select=["touched"]
        )
        async for batch in export:
            ids += batch.column("id").to_pylist()
            if leave:
                break
        if not leave:
            assert sorted(ids) == sorted(rows), "an export of own rows"
        await export.aclose()
        self._count("exports")

    async def _stored(self, ids: Sequence[str]) -> dict[str, State]:
        found = await self._store.get(self.table, ids)
        return {record.id: state_of(record, self.schema) for record in found}

    # Writing

    async def _upsert(self) -> None:
        slots = self._random.sample(range(_SLOTS), self._random.choice([1, 1, 2, 8]))
        number = self._next_number()
        after = {f"{self.owner}/s{n:02}": State(number, number) for n in slots}
        rows = [row_of(id, state, self.schema) for id, state in after.items()]
        await self._write(self._store.upsert(self.table, rows), after, len(rows))

    async def _insert_once(self) -> None:
        if len(self._once) >= _MOST_ONCE:
            return await self._delete_once()
        number = self._next_number()
        new = range(self._next_once, self._next_once + self._random.randint(1, 4))
        self._next_once = new.stop
        after = {f"{self.owner}/x{n:07}": State(number, number) for n in new}
        rows = [row_of(id, state, self.schema) for id, state in after.items()]
        if await self._write(self._store.insert(self.table, rows), after, len(rows)):
            self._once += new

    async def _insert_again(self) -> None:
        """An insert of a row that is there: refused, with all that came beside it."""
        rows = self.rows
        if not rows:
            return
        number = self._next_number()
        there = self._random.choice(list(rows))
        beside = f"{self.owner}/x{self._next_once:07}"
        self._next_once += 1
        state = State(number, number)
        try:
            await self._store.insert(
                self.table, [row_of(id, state, self.schema) for id in (beside, there)]
            )
        except DuplicateIdError as exc:
            assert list(exc.ids) == [there]  # noqa: PT017 - that it comes is the other branch
        else:
            raise AssertionError(f"{there} was inserted a second time")
        assert await self._stored([beside, there]) == {there: rows[there]}
        self._count("refused inserts")

    async def _update(self) -> None:
        """One row's fields at a time: each row's note tells its own id."""
        rows = self.rows
        if not rows:
            return
        id = self._random.choice(list(rows))
        state = State(rows[id].version, self._next_number())
        which: dict[str, Any] = (
            {"ids": id} if self._random.random() < 0.5 else {"where": F.id == id}
        )
        call = self._store.update(self.table, changed_fields(id, state), **which)
        await self._write(call, {id: state}, 1)

    async def _delete(self) -> None:
        ids = [f"{self.owner}/s{n:02}" for n in self._random.sample(range(_SLOTS), 3)]
        there = sum(id in self.rows for id in ids)
        await self._write(self._store.delete(self.table, ids), dict.fromkeys(ids), there)

    async def _delete_once(self) -> None:
        """The oldest of the rows that were written once: never seen again."""
        if not self._once:
            return
        gone = list(self._once)[: self._random.randint(1, 5)]
        ids = [f"{self.owner}/x{n:07}" for n in gone]
        # Of a delete_where before, some may be gone already.
        there = sum(id in self.rows for id in ids)
        if await self._write(self._store.delete(self.table, ids), dict.fromkeys(ids), there):
            for _ in gone:
                self._once.popleft()
            self._gone_below = (gone[-1] + 1, self._world.now())

    async def _delete_where(self) -> None:
        touched = sorted(state.touched for state in self.rows.values())
        bound = touched[len(touched) // 4] if touched else 0
        where = (F.owner == self.owner) & (F.touched < bound)
        gone = list(self._oracle.rows(self.table, where))
        call = self._store.delete_where(self.table, where)
        await self._write(call, dict.fromkeys(gone), len(gone))

    async def _write(
        self, call: Coroutine[Any, Any, int], after: Mapping[str, State | None], counted: int
    ) -> bool:
        """Run a write that leaves these rows as told, None for none; whether it is done.

        One that was cancelled is done or is not, and stays so.
        """
        returned = await self._perhaps_cancelled(call)
        done = returned is not None
        if done:
            assert returned == counted, f"{returned} rows were counted, not {counted}"
            self._count("writes")
        else:
            before = {id: state for id, state in self.rows.items() if id in after}
            wanted = {id: state for id, state in after.items() if state is not None}
            found = await self._stored(list(after))
            assert found in (before, wanted), f"half a write: {found} between {before} and {wanted}"
            done = found == wanted
            self._count("cancelled writes", f"cancelled writes {'done' if done else 'undone'}")
        if done:
            self._settle(after)
        return done

    def _settle(self, after: Mapping[str, State | None]) -> None:
        written = Written(self._next_number(), self._world.now())
        for id, state in after.items():
            if state is None:
                self._oracle.delete(self.table, id)
                self.written[id] = written
            else:
                self._oracle.upsert(self.table, [row_of(id, state, self.schema)])
                self.written[id] = Written(state.touched, written.at)
            if state is None and "/x" in id:
                del self.written[id]  # there is no end of them

    async def _perhaps_cancelled(self, call: Coroutine[Any, Any, _T]) -> _T | None:
        """Return the call's result; None if it was cancelled before."""
        if self._random.random() >= _CANCELLED:
            return await call
        task = asyncio.ensure_future(call)
        if self._random.random() < 0.5:
            for _ in range(self._random.randrange(40)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self._random.random() * 0.03)
        task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            self._count("cancelled calls")
            return None
        return task.result()

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _count(self, *names: str) -> None:
        self._world.counts.update(names)
