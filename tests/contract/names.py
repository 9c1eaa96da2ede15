"""Contract tests for names of fields and vectors that the engines use for something else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.values import DIM, HOSTILE_NAMES, assert_same_rows, ids_of, vectors

from aiovec import F, Schema, VectorStore
from aiovec.backend import Expr

Condition = Callable[[Any], Expr]

# For each kind of field, three values for the rows (one row has null), and conditions.
_BY_KIND: dict[str, tuple[Any, tuple[Any, ...], list[Condition]]] = {
    "text": (
        str, ("a", "ab%", ""),
        [
            lambda f: f == "a", lambda f: f != "a", lambda f: f < "ab",
            lambda f: f.in_(["a", ""]), lambda f: f.like("%b_"), lambda f: f.startswith("ab"),
        ],
    ),
    "int": (
        int, (1, -2, 2**53 + 1),
        [lambda f: f == 2**53 + 1, lambda f: f >= 1, lambda f: f.in_([1, -2])],
    ),
    "bool": (bool, (True, False, True), [lambda f: f == True]),  # noqa: E712
    "list[text]": (list[str], (["a", "b"], [], ["b"]), [lambda f: f.contains("a")]),
    "list[int]": (list[int], ([1, 2], [], [2]), [lambda f: f.contains(1), lambda f: f == [2]]),
}  # fmt: skip


# Keys of the payload, which may be any text.
_KEYS = ("rowid", "_rowid_", "_distance", "key", "value", "payload", "$.a", 'a"b', "a.b")


class NamesContract(ContractBase):
    """SQL keywords and an engine's own words are ordinary names."""

    @pytest.mark.arrow
    async def test_fields_named_like_words_of_sql_are_stored_and_filtered(
        self, store: VectorStore
    ) -> None:
        schema = Schema(DIM, fields=dict.fromkeys(HOSTILE_NAMES, int))
        rows = [
            {
                "id": f"r{n}",
                "embedding": vector,
                **{name: n * 100 + place for place, name in enumerate(HOSTILE_NAMES)},
            }
            for n, vector in enumerate(vectors(4))
        ]
        await filled(store, schema, rows)
        ids = [row["id"] for row in rows]
        assert_same_rows(await store.get("notes", ids), rows, schema)
        for place, name in enumerate(HOSTILE_NAMES):
            with case(name):
                assert ids_of(await store.find("notes", F[name] == 200 + place)) == ["r2"]
                text = f'"{name}" = {200 + place}'
                hits = await store.search("notes", vectors(1)[0], where=text, select=[name])
                assert [(hit.id, hit[name]) for hit in hits] == [("r2", 200 + place)]
                matches = await store.find("notes", order_by=name, descending=True, select=[name])
                assert [record[name] for record in matches] == [
                    n * 100 + place for n in (3, 2, 1, 0)
                ]
        changed = dict.fromkeys(HOSTILE_NAMES, -1)
        where = reduce(operator.and_, (F[name] >= 300 for name in HOSTILE_NAMES))
        assert await store.update("notes", changed, where=where) == 1
        rows[3] |= changed
        assert_same_rows(await store.get("notes", ids), rows, schema)
        async for batch in store.export("notes"):
            assert batch.schema.names == schema.to_arrow().names

    async def test_each_condition_on_reserved_name_means_field(self, store: VectorStore) -> None:
        """A condition on each name uses the field, not the engine's own meaning of the name."""
        for number, (declared, values, conditions) in enumerate(_BY_KIND.values()):
            table = f"t{number}"
            names = [*HOSTILE_NAMES, "plain"]
            rows = [
                {
                    "id": f"r{n}", "embedding": vector, **dict.fromkeys(names, value),
                    "deep": dict.fromkeys(_KEYS, value),
                }
                for n, (vector, value) in enumerate(zip(vectors(4), [*values, None], strict=True))
            ]  # fmt: skip
            schema = Schema(DIM, fields=dict.fromkeys(names, declared))
            await filled(store, schema, rows, name=table)
            fields = [F[name] for name in HOSTILE_NAMES]
            fields += [F.payload["deep"][name] for name in _KEYS]
            for condition in [*conditions, lambda f: f.is_null()]:
                for meant in (condition, lambda f, condition=condition: ~condition(f)):
                    wanted = ids_of(await store.find(table, meant(F.plain)))
                    for join in (operator.and_, operator.or_):
                        where = reduce(join, map(meant, fields))
                        if ids_of(await store.find(table, where)) == wanted:
                            continue
                        for field in fields:  # find the wrong one
                            with case(meant(field)):
                                assert ids_of(await store.find(table, meant(field))) == wanted
                        raise AssertionError(f"all at once select other rows than {wanted}")

    @pytest.mark.arrow
    async def test_a_vector_may_have_a_name_of_the_engines(self, store: VectorStore) -> None:
        for number, name in enumerate(("vector", "distance", "rowid", "order", "E", "vec_bit")):
            table = f"t{number}"
            schema = Schema(DIM, vector=name, fields={"name": str})
            rows = [{"id": f"r{n}", name: v, "name": "x"} for n, v in enumerate(vectors(5))]
            await filled(store, schema, rows, name=table)
            assert_same_rows(await store.get(table, [r["id"] for r in rows]), rows, schema)
            (record,) = await store.find(table, limit=1, select=[name])
            assert record.to_dict() == {"id": "r0", name: vectors(5)[0].tolist()}
            (hit,) = await store.search(table, vectors(5)[3], limit=1, select=[name])
            assert hit.id == "r3"
            async for batch in store.export(table, select=[name]):
                assert batch.schema.names == ["id", name]

    async def test_a_new_boolean_is_no_field_called_true(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields={"true": bool, "FALSE": bool, "live": bool})
        rows = [{"id": "r0", "embedding": vectors(1)[0], "true": False, "FALSE": True}]
        await filled(store, schema, rows)
        for value in (True, False):
            await store.update("notes", {"live": value}, where="live IS NULL OR NOT live = FALSE")
            assert (await store.find("notes"))[0]["live"] is value

    async def test_lists_of_floats_may_be_called_vector(self, store: VectorStore) -> None:
        lists: list[Any] = [[1.0, 2.0], [], None, [3.0]]
        for nullable in (False, True):
            table = f"t{nullable}".lower()
            schema = Schema(DIM, fields={"vector": list[float]}, vector_nullable=nullable)
            rows = [
                {"id": f"r{n}", "embedding": v, "vector": held}
                for n, (v, held) in enumerate(zip(vectors(4), lists, strict=True))
            ]
            await filled(store, schema, rows, name=table)
            for _ in range(2):  # all rows exist
                assert await store.upsert(table, rows) == len(rows)
            changes = [{"id": f"r{n}", "vector": held} for n, held in enumerate(reversed(lists))]
            assert await store.update(table, changes) == len(rows)
            held = [record["vector"] for record in await store.find(table)]
            assert held == lists[::-1]
