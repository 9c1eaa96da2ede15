"""Names of fields and of the vector: what is allowed works everywhere, the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.contract.base import ContractBase, case
from tests.harness.values import DIM, HOSTILE_NAMES, assert_same_rows, ids_of, vectors

from aiovec import F, Field, Schema, VectorStore
from aiovec._filters.operators import FieldRef
from aiovec._filters.tree import all_of, any_of
from aiovec.backend import Expr
from aiovec.errors import InvalidArgumentError, InvalidNameError

REFUSED = (
    "", "1a", "_a", "a b", "a.b", "a-b", "a\0", 'a"', "a'", "é", "a" * 64, "a;", "*", "id", "ID",
    "payload", "Payload", "embedding", "Embedding", None, 1,
    "_rowid", "_rowid_", "_rowaddr", "_distance", "_score", "_relevance_score", "_seq",
)  # fmt: skip

# For each kind of field three values, of which the rows have one or null, and conditions.
_BY_KIND: dict[str, tuple[Any, tuple[Any, ...], list[Callable[[FieldRef], Expr]]]] = {
    "text": (
        str,
        ("a", "ab%", ""),
        [
            lambda field: field == "a",
            lambda field: field != "a",
            lambda field: field < "ab",
            lambda field: field.in_(["a", ""]),
            lambda field: field.like("%b_"),
            lambda field: field.like("a%"),
            lambda field: field.startswith("ab"),
        ],
    ),
    "int": (
        int,
        (1, -2, 2**53 + 1),
        [
            lambda field: field == 2**53 + 1,
            lambda field: field >= 1,
            lambda field: field.in_([1, -2]),
            lambda field: field.between(-2, 0),
        ],
    ),
    "float": (
        float,
        (0.5, -1e300, 0.0),
        [lambda field: field == 0.5, lambda field: field <= 0, lambda field: field.in_([0.5, 0.0])],
    ),
    "bool": (bool, (True, False, True), [lambda field: field == True]),  # noqa: E712
    "datetime": (
        datetime,
        tuple(datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)),
        [lambda field: field > datetime(2024, 1, 1, tzinfo=UTC)],
    ),
    "list[text]": (
        list[str],
        (["a", "b"], [], ["b"]),
        [lambda field: field.contains("a"), lambda field: field.contains("b")],
    ),
    "list[int]": (
        list[int],
        ([1, 2], [], [2]),
        [lambda field: field.contains(1), lambda field: field == [2]],
    ),
    "list[float]": (
        list[float],
        ([0.5, 2.0], [], [2.0]),
        [lambda field: field.contains(0.5), lambda field: field == [2]],
    ),
}


# Keys of the payload, which may be anything.
_KEYS = ("rowid", "_rowid_", "_distance", "key", "value", "payload", "$.a", 'a"b', "a.b")


def _opposite(meant: Callable[[FieldRef], Expr]) -> Callable[[FieldRef], Expr]:
    return lambda field: ~meant(field)


class NamesContract(ContractBase):
    """SQL keywords and an engine's own words are names like others."""

    async def test_fields_named_like_words_of_sql(self, store: VectorStore) -> None:
        schema = Schema(DIM, fields=dict.fromkeys(HOSTILE_NAMES, int))
        rows = [
            {
                "id": f"r{n}",
                "embedding": vector,
                **{name: n * 100 + place for place, name in enumerate(HOSTILE_NAMES)},
            }
            for n, vector in enumerate(vectors(4))
        ]
        await self.table(store, schema, rows)
        ids = [row["id"] for row in rows]
        assert_same_rows(await store.get("notes", ids), rows, schema)
        for place, name in enumerate(HOSTILE_NAMES):
            assert ids_of(await store.find("notes", F[name] == 200 + place)) == ["r2"], name
            text = f'"{name}" = {200 + place}'
            hits = await store.search("notes", vectors(1)[0], where=text, select=[name])
            assert [(hit.id, hit[name]) for hit in hits] == [("r2", 200 + place)], name
            found = await store.find("notes", order_by=name, descending=True, select=[name])
            assert [record[name] for record in found] == [n * 100 + place for n in (3, 2, 1, 0)], (
                name
            )
        changed = dict.fromkeys(HOSTILE_NAMES, -1)
        where = all_of(F[name] >= 300 for name in HOSTILE_NAMES)
        assert await store.update("notes", changed, where=where) == 1
        rows[3] |= changed
        assert_same_rows(await store.get("notes", ids), rows, schema)
        async for batch in store.export("notes"):
            assert batch.schema.names == schema.to_arrow().names

    async def test_fields_named_like_constants_of_sql(self, store: VectorStore) -> None:
        """Where an engine took them for the constants, rows without values were not there."""
        names = ("true", "FALSE", "Null", "current_timestamp", "infinity")
        schema = Schema(DIM, fields={"live": bool, "year": int, **dict.fromkeys(names, int)})
        rows = [
            {"id": f"r{n}", "embedding": vector, "live": [True, False, None][n % 3], "year": n}
            for n, vector in enumerate(vectors(6))
        ]
        await self.table(store, schema, rows)
        for value in (None, 0, 1):
            if value is not None:
                values = dict.fromkeys(names, value)
                assert await store.update("notes", values, where="live IS TRUE") == 2
            with case(value):
                assert await store.count("notes") == len(await store.find("notes")) == 6
                assert len(await store.search("notes", vectors(1)[0])) == 6
                assert sum([batch.num_rows async for batch in store.export("notes")]) == 6
                for where, count in (
                    ("live IS TRUE", 2), ("NOT (live IS TRUE)", 4), ("(year > 2) IS TRUE", 3),
                    ("(live OR year = 2) IS NOT TRUE", 3), ("(year = 9) IS FALSE", 6),
                ):  # fmt: skip
                    assert await store.count("notes", where) == count, where
                    assert len(await store.search("notes", vectors(1)[0], where=where)) == count
        assert await store.delete_where("notes", "TRUE") == 6

    @pytest.mark.parametrize("kind", _BY_KIND)
    async def test_such_fields_in_every_condition(self, store: VectorStore, kind: str) -> None:
        """A5: a condition on each means the field, not what the engine calls by that name."""
        declared, values, conditions = _BY_KIND[kind]
        names = [*HOSTILE_NAMES, "plain"]
        schema = Schema(DIM, fields=dict.fromkeys(names, declared))
        rows = [
            {
                "id": f"r{n}",
                "embedding": vector,
                **dict.fromkeys(names, value),
                # Dates do not go into a payload.
                **({} if kind == "datetime" else {"deep": dict.fromkeys(_KEYS, value)}),
            }
            for n, (vector, value) in enumerate(zip(vectors(4), [*values, None], strict=True))
        ]
        await self.table(store, schema, rows)
        tried = [*conditions, FieldRef.is_null]
        for number, condition in enumerate([*tried, *map(_opposite, tried)]):
            with case(number):
                wanted = ids_of(await store.find("notes", condition(F.plain)))
                fields = [F[name] for name in HOSTILE_NAMES]
                if kind != "datetime":
                    fields += [F.payload["deep"][name] for name in _KEYS]
                for where in (
                    all_of(map(condition, fields)),
                    any_of(map(condition, fields)),
                ):
                    if ids_of(await store.find("notes", where)) == wanted:
                        continue
                    for field in fields:  # which of them it is
                        found = ids_of(await store.find("notes", condition(field)))
                        assert found == wanted, f"{condition(field)} selects other rows"
                    raise AssertionError(f"all at once select other rows than {wanted}")

    async def test_deleting_by_such_a_list(self, store: VectorStore) -> None:
        """A5: NOT CONTAINS deletes the rows without the item, and no other."""
        names = ("oid", "rowid", "json", "root", "id_", "value")
        schema = Schema(DIM, fields=dict.fromkeys(names, list[str]))
        for name in names:
            rows = [
                {"id": f"r{n}", "embedding": vector, name: tags}
                for n, (vector, tags) in enumerate(
                    zip(vectors(4), (["a"], ["b"], [], None), strict=True)
                )
            ]
            await store.create_table(f"notes_{name}", schema)
            await store.insert(f"notes_{name}", rows)
            query = vectors(1)[0]
            hits = await store.search(f"notes_{name}", query, where=F[name].contains("a"))
            assert ids_of(hits) == ["r0"], name
            assert await store.update(f"notes_{name}", {"n": 1}, where=F[name].contains("b")) == 1
            assert await store.delete_where(f"notes_{name}", f"NOT {name} CONTAINS 'a'") == 2
            assert ids_of(await store.find(f"notes_{name}")) == ["r0", "r3"], name

    @pytest.mark.parametrize("kind", ["index", "partition", "text", "added"])
    async def test_such_fields_with_options(self, store: VectorStore, kind: str) -> None:
        names = ("select", "rowid", "distance", "order", "k", "rank", "table", "Index")
        for start in range(0, len(names), 4):
            chosen = names[start : start + 4]
            table = f"notes{start}"
            field = {
                "index": Field(str, index="btree"),
                "partition": Field(str, partition=True),
                "text": Field(str, text=True),
                "added": Field(str),
            }[kind]
            if kind == "added":
                await store.create_table(table, Schema(DIM))
                for name in chosen:
                    await store.add_field(table, name, Field(str, index="bitmap"))
            else:
                await store.create_table(table, Schema(DIM, fields=dict.fromkeys(chosen, field)))
            rows = [
                {"id": f"r{n}", "embedding": vector, **{name: f"{name} {n}" for name in chosen}}
                for n, vector in enumerate(vectors(3))
            ]
            await store.insert(table, rows)
            for name in chosen:
                where = F[name] == f"{name} 1"
                assert ids_of(await store.search(table, vectors(1)[0], where=where)) == ["r1"]
                assert ids_of(await store.find(table, F[name].startswith(name))) == [
                    "r0", "r1", "r2",
                ]  # fmt: skip
                assert await store.update(table, {name: "new"}, where=where) == 1
            assert await store.delete_where(table, F[chosen[0]] == "new") == 1

    @pytest.mark.parametrize(
        "name", ["vector", "distance", "rowid", "k", "order", "rank", "select", "E", "vec_bit"]
    )
    async def test_a_vector_may_be_named_so(self, store: VectorStore, name: str) -> None:
        schema = Schema(DIM, vector=name, fields={"name": str})
        rows = [{"id": f"r{n}", name: v, "name": "x"} for n, v in enumerate(vectors(5))]
        await self.table(store, schema, rows)
        await store.upsert("notes", {"id": ["r4"], name: vectors(5)[4:], "name": ["x"]})
        assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, schema)
        (record,) = await store.find("notes", limit=1, select=[name])
        assert record.to_dict() == {"id": "r0", name: vectors(5)[0].tolist()}
        (hit,) = await store.search("notes", vectors(5)[3], limit=1, select=[name])
        assert hit.id == "r3"
        assert hit.vector is not None
        async for batch in store.export("notes", select=[name]):
            assert batch.schema.names == ["id", name]

    async def test_names_that_differ_in_case_only_where_they_may(self, store: VectorStore) -> None:
        with pytest.raises(InvalidNameError):
            Schema(DIM, fields={"year": int, "Year": int})
        schema = Schema(DIM, fields={"Year": int})
        await self.table(store, schema, [{"id": "x", "embedding": [1] * DIM, "Year": 1, "year": 2}])
        (record,) = await store.get("notes", "x")
        assert record.fields == {"Year": 1, "year": 2}  # the other case is a key of the payload
        assert await store.count("notes", "Year = 1 AND payload.year = 2") == 1

    def test_field_names_that_are_refused(self) -> None:
        wrong: Any
        for wrong in REFUSED:
            with pytest.raises(InvalidNameError) as caught:
                Schema(DIM, fields={wrong: str})
            assert caught.value.name == wrong
        for wrong in ("id", "payload", "1", "", "a b", None):
            with pytest.raises((InvalidNameError, InvalidArgumentError)):
                Schema(DIM, vector=wrong)
