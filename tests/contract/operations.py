"""Calls drawn at random, on a store and on the oracle, which must answer alike.

The state machine draws richer schemas, rows and filters, and shows the shortest run that fails;
its draws take longer than the calls. Here a call costs little more than itself, so that there can
be a million. A seed is one course of calls.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from tests.harness.oracle import Oracle, OracleRow, assert_same_hit_fields, assert_same_hits

from aiovec import AiovecError, Field, Schema, VectorStore

IDS = [f"{letter}{n}" for letter in ("a", "B", "é", "'; --") for n in range(8)]
TEXTS = [None, "", "a", "A", "ab", "a%", "é", "'", "0"]
NUMBERS = [None, 0, 1, 2, -1, 2**53 + 1, -(2**63)]
SCHEMAS = {
    "plain": Schema(3, fields={"name": str, "year": int, "tags": list[str]}),
    "parted": Schema(
        2, metric="l2", fields={"name": Field(str, partition=True), "year": Field(int)}
    ),
    "indexed": Schema(
        4,
        metric="dot",
        fields={"name": Field(str, index="bitmap"), "year": Field(int, index="btree")},
    ),
}

Opening = Callable[[], Awaitable[VectorStore]]


class Course:
    """One store and its oracle. ``reopen`` says whether the store outlives its closing."""

    def __init__(self, opening: Opening, seed: int, *, reopen: bool) -> None:
        self.opening = opening
        self.random = random.Random(seed)
        self.reopen = reopen
        self.oracle = Oracle()
        self.store: Any = None
        self.done = 0
        self.refused = 0

    async def run(self, operations: int) -> None:
        self.store = await self.opening()
        calls = [self.write] * 6 + [self.update, self.delete, self.delete_where] * 2
        calls += [self.search, self.get, self.find, self.count] * 3
        try:
            while self.done < operations:
                self.done += 1
                chance = self.random.random()
                if chance < 0.004 or not self.oracle.tables():
                    await self.tables()
                elif chance < 0.005 and self.reopen:
                    await self.store.close()
                    self.store = await self.opening()
                elif chance < 0.007:
                    await self.store.optimize(self.table())
                elif chance < 0.012:
                    await self.compare(self.table())
                else:
                    await self.random.choice(calls)()
            for table in self.oracle.tables():
                await self.compare(table)
        finally:
            await self.store.close()

    # What is drawn

    def table(self) -> str:
        return self.random.choice(self.oracle.tables())

    def ids(self) -> list[str]:
        return self.random.sample(IDS, self.random.choice([1, 1, 2, 5]))

    def vector(self, schema: Schema) -> list[float]:
        drawn = [self.random.randint(-4, 4) / 2 for _ in range(schema.dim)]
        return drawn if any(drawn) or schema.metric != "cosine" else [1.0] * schema.dim

    def fields(self, schema: Schema) -> dict[str, Any]:
        values: dict[str, Any] = {
            "name": self.random.choice(TEXTS),
            "year": self.random.choice(NUMBERS),
            "kind": self.random.choice(["x", 1, None, [1, {"a": "b"}]]),
        }
        if "tags" in schema.fields:
            values["tags"] = self.random.choice([None, [], ["a"], ["a", "é"]])
        return {key: value for key, value in values.items() if self.random.random() < 0.8}

    def where(self, schema: Schema) -> str | None:
        match self.random.randrange(8):
            case 0 | 1:
                return None
            case 2:
                return f"year >= {self.random.choice([0, 1, 2, -1])}"
            case 3:
                listed = ", ".join("'{}'".format(id.replace("'", "''")) for id in self.ids())
                return f"id IN ({listed})"
            case 4:
                return f"name LIKE '{self.random.choice(['a%', '%', '_', 'é'])}'"
            case 5:
                return "name IS NULL OR payload.kind = 'x'"
            case 6:
                return "NOT (payload.kind = 1 AND year < 2)"
            case _:
                return "tags CONTAINS 'a'" if "tags" in schema.fields else "name >= 'a'"

    # Calls

    async def both(self, call: Awaitable[Any], model: Callable[[], Any]) -> tuple[Any, Any]:
        expected: Any
        try:
            expected = model()
        except AiovecError as error:
            expected = error
        try:
            given = await call
        except AiovecError as error:
            given = error
        if isinstance(expected, AiovecError):
            self.refused += 1
            assert type(given) is type(expected), (self.done, given, expected)
        elif isinstance(given, AiovecError):
            raise AssertionError(f"operation {self.done} failed") from given
        elif expected is None or isinstance(expected, int):
            assert given == expected, (self.done, given, expected)
        return given, expected

    async def tables(self) -> None:
        table = self.random.choice(list(SCHEMAS))
        if table in self.oracle.tables() and self.random.random() < 0.6:
            await self.both(self.store.drop_table(table), lambda: self.oracle.drop_table(table))
        elif table in self.oracle.tables() and self.random.random() < 0.5:
            name, field = self.random.choice([("late", Field(str)), ("when", Field(float))])
            await self.both(
                self.store.add_field(table, name, field),
                lambda: self.oracle.add_field(table, name, field),
            )
        else:
            await self.both(
                self.store.create_table(table, SCHEMAS[table]),
                lambda: self.oracle.create_table(table, SCHEMAS[table]),
            )
        assert await self.store.tables() == self.oracle.tables()

    async def write(self) -> None:
        table = self.table()
        schema = self.oracle.schema(table)
        rows = [
            {"id": id, "embedding": self.vector(schema), **self.fields(schema)} for id in self.ids()
        ]
        if self.random.random() < 0.02:  # a fault: nothing of the call is kept
            fault: dict[str, Any] = self.random.choice(
                [{"id": ""}, {"embedding": [1.0]}, {"year": "1"}, {"id": rows[0]["id"]}]
            )
            rows.append({**rows[-1], **fault})
        if self.random.random() < 0.5:
            call, model = self.store.upsert, self.oracle.upsert
        else:
            call, model = self.store.insert, self.oracle.insert
        await self.both(call(table, rows), lambda: model(table, rows))

    async def update(self) -> None:
        table = self.table()
        schema = self.oracle.schema(table)
        fields = self.fields(schema) or {"year": 1}
        ids = self.ids() if self.random.random() < 0.6 else None
        where = self.where(schema)
        await self.both(
            self.store.update(table, fields, ids=ids, where=where),
            lambda: self.oracle.update(table, fields, ids=ids, where=where),
        )

    async def delete(self) -> None:
        table, ids = self.table(), self.ids()
        await self.both(self.store.delete(table, ids), lambda: self.oracle.delete(table, ids))

    async def delete_where(self) -> None:
        table = self.table()
        where = self.where(self.oracle.schema(table))
        if where is not None and self.random.random() < 0.3:
            await self.both(
                self.store.delete_where(table, where),
                lambda: self.oracle.delete_where(table, where),
            )

    async def search(self) -> None:
        table = self.table()
        schema = self.oracle.schema(table)
        query, where = self.vector(schema), self.where(schema)
        limit = self.random.choice([1, 3, 10, 50])
        hits, expected = await self.both(
            self.store.search(table, query, limit=limit, where=where),
            lambda: self.oracle.search(table, query, limit=limit, where=where),
        )
        assert_same_hits(hits, expected)
        assert_same_hit_fields(hits, expected)

    async def get(self) -> None:
        table, ids = self.table(), self.ids()
        found, expected = await self.both(
            self.store.get(table, ids), lambda: self.oracle.get(table, ids)
        )
        self.same(found, expected)

    async def find(self) -> None:
        table = self.table()
        where = self.where(self.oracle.schema(table))
        options: dict[str, Any] = {
            "order_by": self.random.choice([None, "id", "year", "name", ["-year", "name"]]),
            "descending": self.random.random() < 0.5,
            "limit": self.random.choice([1, 5, 100]),
            "offset": self.random.choice([0, 0, 2]),
        }
        found, expected = await self.both(
            self.store.find(table, where, **options),
            lambda: self.oracle.find(table, where, **options),
        )
        self.same(found, expected, vectors=False)

    async def count(self) -> None:
        table = self.table()
        where = self.where(self.oracle.schema(table))
        await self.both(self.store.count(table, where), lambda: self.oracle.count(table, where))

    async def compare(self, table: str) -> None:
        """The whole table, by an export and by ids."""
        rows = self.oracle.rows(table)
        exported = [
            id
            async for batch in self.store.export(table, batch_size=self.random.choice([3, 1000]))
            for id in batch.column("id").to_pylist()
        ]
        assert sorted(exported) == sorted(rows), self.done
        self.same(await self.store.get(table, list(rows)), list(rows.values()))

    def same(self, found: list[Any], expected: list[OracleRow], *, vectors: bool = True) -> None:
        assert [one.id for one in found] == [row.id for row in expected], self.done
        for one, row in zip(found, expected, strict=True):
            given, wanted = dict(one.fields), row.flat()
            assert given == wanted, (self.done, row.id, given, wanted)
            assert not vectors or np.array_equal(one.vector, row.vector), (self.done, row.id)
