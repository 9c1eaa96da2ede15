"""Names of fields and of the vector: what is allowed works everywhere, the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ..errors import InvalidArgumentError, InvalidNameError
from ..filters import F
from ..schema import Field, Schema
from ..store import VectorStore
from .base import ContractBase
from .values import DIM, HOSTILE_NAMES, assert_same_rows, ids_of, vectors

REFUSED = (
    "", "1a", "_a", "a b", "a.b", "a-b", "a\0", 'a"', "a'", "é", "a" * 64, "a;", "*", "id", "ID",
    "payload", "Payload", "embedding", "Embedding", None, 1,
)  # fmt: skip


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
            assert await store.update("notes", {name: -1}, where=F[name] >= 300) == 1
            rows[3][name] = -1
        assert_same_rows(await store.get("notes", ids), rows, schema)
        async for batch in store.export("notes"):
            assert batch.schema.names == schema.to_arrow().names

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
