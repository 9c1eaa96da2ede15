"""Changing parts of rows, inserts that meet rows of the same ids, and rows without vectors."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    ids_of,
    rows_of_every_kind,
    small_rows,
    vectors,
)

from aiovec import REMOVE, Embed, F, Field, Schema, VectorStore
from aiovec.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    EmbeddingError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    InvalidVectorError,
    TableNotFoundError,
)

SCHEMAS = {
    "plain": EVERY_KIND,
    "parted": Schema(DIM, fields={"name": Field(str, partition=True), "year": int}),
    "bits": Schema(8, fields={"name": str, "year": int}, quantized="bit"),
}
NULLABLE = {
    "cosine": Schema(DIM, vector_nullable=True, fields={"name": str, "year": int}),
    "parted": Schema(
        DIM, vector_nullable=True, fields={"name": Field(str, partition=True), "year": int}
    ),
    "bits": Schema(8, vector_nullable=True, fields={"name": str, "year": int}, quantized="bit"),
}


def _rows(schema: Schema, count: int) -> list[dict[str, Any]]:
    if schema is EVERY_KIND:
        return rows_of_every_kind(count)
    return [
        {"id": f"r{n:04}", "embedding": vector, "name": f"n{n % 3}", "year": n}
        for n, vector in enumerate(vectors(count, dim=schema.dim))
    ]


class Letters:
    """Embeds texts by their letters."""

    model, dim = "letters", DIM
    asked = 0

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        self.asked += 1
        if "refused" in texts:
            raise ValueError("this text is refused")
        return [[1.0 + text.count(letter) for letter in "abcd"] for text in texts]


class ChangingContract(ContractBase):
    """``set_vectors``, parts of payloads, ``insert(on_conflict=…)`` and ``vector_nullable``."""

    def _need_kind(self, store: VectorStore, schema: Schema) -> None:
        if schema.quantized is not None:
            self.need(store, "quantized")

    @pytest.mark.parametrize(
        "kind", [pytest.param("plain", marks=pytest.mark.core), "parted", "bits"]
    )
    async def test_set_vectors_keeps_fields(self, store: VectorStore, kind: str) -> None:
        schema = SCHEMAS[kind]
        self._need_kind(store, schema)
        rows = _rows(schema, 40)
        await filled(store, schema, rows)
        await store.search("notes", rows[0]["embedding"])  # whatever is kept in memory is there
        new = vectors(40, dim=schema.dim, seed=9)
        ids = [row["id"] for row in rows]
        assert await store.set_vectors("notes", ids[::2], new[::2]) == 20
        for row, vector in zip(rows[::2], new[::2], strict=True):
            row["embedding"] = vector
        assert_same_rows(await store.get("notes", ids), rows, schema)
        for row in rows[:10]:  # five of each
            (hit,) = await store.search("notes", row["embedding"], limit=1)
            assert hit.id == row["id"]
            assert hit.distance == pytest.approx(0, abs=1e-4)
            where = f"name = '{row['name']}'" if schema is not EVERY_KIND else None
            found = await store.search("notes", row["embedding"], limit=1, where=where)
            assert ids_of(found) == [row["id"]]
        assert await store.count("notes") == 40

    async def test_set_vectors_of_absent_and_repeated_ids(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(4))
        new = vectors(5, seed=3)
        ids = ["r0001", "absent", "r0002", "r0001", ""]
        assert await store.set_vectors("notes", ids, new) == 2
        one, two = await store.get("notes", ["r0001", "r0002"])
        assert np.array_equal(one.vector, new[3])  # type: ignore[arg-type]  # it has one
        assert np.array_equal(two.vector, new[2])  # type: ignore[arg-type]  # it has one
        assert await store.count("notes") == 4
        assert await store.set_vectors("notes", [], []) == 0
        assert await store.set_vectors("notes", ["absent"], new[:1]) == 0

    async def test_updates_beside_set_vectors(self, store: VectorStore) -> None:
        """Fields and vectors are changed by different callers; neither loses the other's."""
        await filled(store, SMALL, small_rows(10))
        ids = [f"r{n:04}" for n in range(10)]
        new = vectors(10, seed=5)
        for turn in range(2):
            calls = [store.set_vectors("notes", [id], [new[n]]) for n, id in enumerate(ids)]
            calls += [store.update("notes", {"name": f"u{turn}"}, ids=[id]) for id in ids]
            assert await asyncio.gather(*calls) == [1] * 20
            found = await store.get("notes", ids)
            assert {record["name"] for record in found} == {f"u{turn}"}
            assert all(
                np.array_equal(record.vector, vector)  # type: ignore[arg-type]  # it has one
                for record, vector in zip(found, new, strict=True)
            )

    @pytest.mark.core
    async def test_update_of_parts_of_the_payload(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        start = {"a": {"b": {"c": 1, "d": 2}, "e": None, "x.y": 1}, "flat": 5, "list": [1]}
        rows = [
            {"id": "1", "embedding": [1.0] * DIM, **start},
            {"id": "2", "embedding": [1.0] * DIM, "year": 1},
        ]
        await store.insert("notes", rows)

        async def payloads() -> list[dict[str, Any]]:
            found = await store.get("notes", ["1", "2"], include_vector=False)
            return [{k: r[k] for k in r.fields if k not in ("name", "year")} for r in found]

        steps: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
            (
                {"payload.a.b.c": 9, "name": "n"},
                {**start, "a": {"b": {"c": 9, "d": 2}, "e": None, "x.y": 1}},
                {"a": {"b": {"c": 9}}},
            ),
            (
                {"payload.a.b": REMOVE, "payload.flat": 6, 'payload.a."x.y"': {"z": [None]}},
                {**start, "a": {"e": None, "x.y": {"z": [None]}}, "flat": 6},
                {"a": {"x.y": {"z": [None]}}, "flat": 6},
            ),
            (
                {"payload.a.e.f": True, "list": REMOVE, "payload.absent.b": REMOVE},
                {"a": {"e": {"f": True}, "x.y": {"z": [None]}}, "flat": 6},
                {"a": {"e": {"f": True}, "x.y": {"z": [None]}}, "flat": 6},
            ),
            ({"payload.flat.b": REMOVE, "dotted.key": 1}, {"dotted.key": 1}, {"dotted.key": 1}),
            ({'payload."dotted.key"': REMOVE, "a": REMOVE, "flat": REMOVE}, {}, {}),
        ]
        for step, (change, one, two) in enumerate(steps):
            with case(change):
                assert await store.update("notes", change, ids=["1", "2"]) == 2
                if step == 3:
                    kept = {"a": {"e": {"f": True}, "x.y": {"z": [None]}}, "flat": 6}
                    one, two = {**kept, **one}, {**kept, **two}
                assert await payloads() == [one, two]
        assert await store.find("notes", "payload.a IS NOT NULL") == []
        (record,) = await store.get("notes", "1")
        assert record["name"] == "n"
        assert await store.count("notes", "year = 1") == 1

    async def test_a_path_through_a_value_changes_nothing(self, store: VectorStore) -> None:
        rows = [{**row, "a": {"b": n}} for n, row in enumerate(small_rows(50))]
        rows[40]["a"] = 5
        await filled(store, SMALL, rows)
        changes: list[dict[str, Any]] = [{"payload.a.c": 1}, {"name": "no", "payload.a.b": 7}]
        for change in changes:
            with pytest.raises(InvalidRowError) as caught:
                await store.update("notes", change, where="TRUE")
            assert caught.value.id == "r0040"
        ids = [row["id"] for row in rows]
        assert_same_rows(await store.get("notes", ids), rows, SMALL)

    async def test_parts_of_many_payloads_at_once(self, store: VectorStore) -> None:
        """Calls that set different keys of the same payloads lose none of them."""
        await filled(store, SMALL, small_rows(300))
        calls = [store.update("notes", {f"payload.a.k{n}": n}, where="TRUE") for n in range(5)]
        assert await asyncio.gather(*calls) == [300] * 5
        found = await store.find("notes", limit=2_000, select=["payload.a"])
        assert len(found) == 300
        assert all(record["a"] == {f"k{n}": n for n in range(5)} for record in found)

    async def test_exists_and_parts_of_rows(self, notes: VectorStore) -> None:
        ids = [f"r{n:04}" for n in range(12)]
        assert await notes.exists("notes", ids) == set(ids[:10])
        assert await notes.exists("notes", "r0003") == {"r0003"}
        assert await notes.exists("notes", iter(["r0003", "r0003", "no"])) == {"r0003"}
        assert await notes.exists("notes", []) == set()
        with pytest.raises(InvalidArgumentError):
            await notes.exists("notes", [None])  # type: ignore[list-item]  # no id
        with pytest.raises(TableNotFoundError):
            await notes.exists("absent", "a")
        (whole,) = await notes.get("notes", "r0003")
        assert whole.vector is not None
        (part,) = await notes.get("notes", "r0003", select=["year"])
        assert (dict(part), part.vector is None) == ({"id": "r0003", "year": whole["year"]}, False)
        (bare,) = await notes.get("notes", "r0003", select=[], include_vector=False)
        assert (dict(bare), bare.vector) == ({"id": "r0003"}, None)
        (named,) = await notes.get("notes", "r0003", select=["embedding"], include_vector=False)
        assert named.vector is not None
        with pytest.raises(InvalidNameError):
            await notes.get("notes", [], select=["absent"])
        found = await notes.find("notes", "year < 3", include_vector=True)
        assert all(record.vector is not None for record in found)
        assert [r.vector for r in await notes.find("notes", "year < 3")] == [None] * 3

    @pytest.mark.core
    async def test_insert_of_rows_that_exist(self, store: VectorStore) -> None:
        rows = rows_of_every_kind(20)
        await filled(store, EVERY_KIND, rows[:10])
        changed = [{**row, "name": "changed", "embedding": [1.0, 2, 3, 4]} for row in rows]
        with pytest.raises(DuplicateIdError):
            await store.insert("notes", changed, on_conflict="fail")
        assert await store.count("notes") == 10
        assert await store.insert("notes", changed, on_conflict="skip") == 10
        assert await store.insert("notes", changed, on_conflict="skip") == 0
        ids = [row["id"] for row in rows]
        assert_same_rows(await store.get("notes", ids), rows[:10] + changed[10:], EVERY_KIND)
        assert await store.insert("notes", changed, on_conflict="replace") == 20
        assert_same_rows(await store.get("notes", ids), changed, EVERY_KIND)
        assert await store.count("notes") == 20
        hits = await store.search("notes", [1.0, 2, 3, 4], limit=30)
        assert len(hits) == 20
        for bad in ("ignore", None, True, 1, ["skip"], np.zeros(2)):
            with case(bad), pytest.raises(InvalidArgumentError) as caught:
                await store.insert("notes", rows, on_conflict=bad)  # type: ignore[arg-type]  # bad
            assert caught.value.argument == "on_conflict"

    async def test_an_id_twice_in_a_call(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        twice = [
            {"id": id, "embedding": [1.0, n, 0, 0], "year": n}
            for n, id in enumerate(["a", "b", "a", "c", "b", "a"])
        ]
        with pytest.raises(DuplicateIdError) as caught:
            await store.insert("notes", twice)
        assert caught.value.within_call
        assert await store.insert("notes", twice, on_conflict="skip") == 3
        found = await store.find("notes")
        assert [(r.id, r["year"]) for r in found] == [("a", 0), ("b", 1), ("c", 3)]
        assert await store.insert("notes", twice, on_conflict="replace") == 3
        found = await store.find("notes")
        assert [(r.id, r["year"]) for r in found] == [("a", 5), ("b", 4), ("c", 3)]
        # A bad row is refused, also where its id exists.
        with pytest.raises(InvalidVectorError):
            await store.insert("notes", [{"id": "a", "embedding": None}], on_conflict="skip")

    @pytest.mark.core
    async def test_inserts_at_once_add_each_id_once(self, tmp_path: Path) -> None:
        """Of two stores, where the backend keeps what it has; their counts add up."""
        async with self.connect(tmp_path) as one:
            await one.create_table("notes", SMALL)
            two = await self.connect(tmp_path) if self.persistent else one
            try:
                chance = np.random.default_rng(3)
                calls = []
                for n in range(60):
                    ids = chance.choice(200, size=int(chance.integers(1, 30)), replace=True)
                    rows = [
                        {"id": f"x{id}", "embedding": [1.0, float(id), n, 0], "year": n}
                        for id in ids
                    ]
                    store = two if n % 2 else one
                    calls.append((rows, store.insert("notes", rows, on_conflict="skip")))
                counts = await asyncio.gather(*(call for _, call in calls))
                wanted = {str(row["id"]) for rows, _ in calls for row in rows}
                assert sum(counts) == len(wanted) == await one.count("notes")
                found = await one.find("notes", limit=1_000)
                assert {record.id for record in found} == wanted
                # Each call added as many rows as it says, and no part of a row is another's.
                added = Counter(record["year"] for record in found)
                assert [added[n] for n in range(60)] == counts
                for record in await one.get("notes", sorted(wanted)):
                    assert record.vector is not None
                    assert record.vector[2] == record["year"]
                assert len(await one.search("notes", [1.0, 1, 1, 1], limit=1_000)) == len(wanted)
            finally:
                if two is not one:
                    await two.close()

    @pytest.mark.parametrize(
        "kind", [pytest.param("cosine", marks=pytest.mark.core), "parted", "bits"]
    )
    @pytest.mark.arrow
    async def test_rows_without_a_vector(self, store: VectorStore, kind: str) -> None:
        schema = NULLABLE[kind]
        self._need_kind(store, schema)
        rows = _rows(schema, 60)
        for n, row in enumerate(rows):
            if n % 3 == 1:
                row["embedding"] = None
            elif n % 3 == 2 and n > 30:
                del row["embedding"]
        with_vector = [row for row in rows if row.get("embedding") is not None]
        without = [row["id"] for row in rows if row.get("embedding") is None]
        await filled(store, schema, rows)
        assert await store.count("notes") == 60
        assert len(await store.find("notes", limit=100)) == 60
        for record in await store.get("notes", [row["id"] for row in rows]):
            assert (record.vector is None) == (record.id in without)
            assert ("embedding" in record.to_dict()) == (record.id not in without)
        query = with_vector[0]["embedding"]
        for exact in (False, True):
            hits = await store.search("notes", query, limit=100, exact=exact)
            assert {hit.id for hit in hits} == {row["id"] for row in with_vector}
            assert all(hit.distance is not None and hit.distance == hit.distance for hit in hits)
            assert hits[0].id == with_vector[0]["id"] or kind == "dot"
            some = await store.search("notes", query, limit=3, exact=exact, include_vector=True)
            assert ids_of(some) == ids_of(hits[:3])
            found = await store.search("notes", query, limit=100, where="year < 10", exact=exact)
            assert {hit.id for hit in found} == {r["id"] for r in with_vector if r["year"] < 10}
            ids = [row["id"] for row in with_vector if row["name"] == "n0"]
            found = await store.search("notes", query, limit=100, where="name = 'n0'", exact=exact)
            assert {hit.id for hit in found} == set(ids)
        many = await store.search_many("notes", [query, query], limit=100)
        assert [len(hits) for hits in many] == [len(with_vector)] * 2
        assert await store.search("notes", query, where=F.id.in_(without)) == []
        exported = [row async for b in store.export("notes") for row in b.to_pylist()]
        assert {row["id"] for row in exported if row["embedding"] is None} == set(without)
        # The vector comes, goes and changes, and the fields stay or are replaced.
        new = vectors(60, dim=schema.dim, seed=77)
        assert await store.set_vectors("notes", without[:5], new[:5]) == 5
        for id, vector in zip(without[:5], new[:5], strict=True):
            found = await store.search("notes", vector, limit=1, where=F.id == id)
            assert ids_of(found) == [id]
            assert found[0]["year"] == int(id[1:])
        gone = [row["id"] for row in with_vector[:5]]
        names = {row.id: row["name"] for row in await store.get("notes", [*gone, without[6]])}
        await store.upsert("notes", [{"id": id, "name": names[id], "year": 1} for id in gone])
        came = {"id": without[6], "name": names[without[6]], "embedding": new[6].tolist()}
        await store.upsert("notes", [came])
        hits = await store.search("notes", query, limit=100)
        expected = {row["id"] for row in with_vector} - set(gone) | {*without[:5], without[6]}
        assert {hit.id for hit in hits} == expected
        assert await store.update("notes", {"name": "all"}, where="TRUE") == 60
        assert len(await store.search("notes", query, limit=100, where="name = 'all'")) == len(hits)
        await store.optimize("notes")
        assert {hit.id for hit in await store.search("notes", query, limit=100)} == expected
        assert await store.delete("notes", [*gone, *without]) == len({*gone, *without})
        left = await store.search("notes", query, limit=100)
        assert len(left) == await store.count("notes") == 60 - len({*gone, *without})

    async def test_a_table_of_no_vectors_at_all(self, store: VectorStore) -> None:
        for kind, schema in NULLABLE.items():
            if schema.quantized is not None and not store.supports("quantized"):
                continue
            name = f"t-{kind}"
            await store.create_table(name, schema)
            await store.insert(name, [{"id": str(n), "year": n} for n in range(10)])
            query = [1.0] * schema.dim
            for exact in (False, True):
                with case((kind, exact)):
                    assert await store.search(name, query, exact=exact) == []
                    assert await store.search(name, query, where="year > 3", exact=exact) == []
            await store.optimize(name)
            assert await store.count(name) == 10
            await store.set_vectors(name, ["3"], [query])
            assert ids_of(await store.search(name, query)) == ["3"]

    async def test_many_rows_of_which_few_have_vectors(self, store: VectorStore) -> None:
        given = vectors(1_000, seed=1)
        rows = [
            {"id": f"r{n:04}", "year": n, "embedding": given[n].tolist() if n % 10 == 0 else None}
            for n in range(1_000)
        ]
        await filled(store, NULLABLE["cosine"], rows)
        for where, count in ((None, 100), ("year >= 200", 80)):
            hits = await store.search("notes", given[400], limit=600, where=where)
            assert len(hits) == count
            assert hits[0].id == "r0400"
        if store.supports("indexes"):
            await store.create_index("notes")
            for exact in (False, True):
                hits = await store.search("notes", given[400], limit=600, exact=exact)
                assert len(hits) == 100
                assert hits[0].id == "r0400"
            await store.set_vectors("notes", ["r0001"], [given[990]])
            found = await store.search("notes", given[990], limit=2)
            assert set(ids_of(found)) == {"r0001", "r0990"}

    # Texts

    @pytest.mark.core
    async def test_a_text_and_its_vector_change_together(self, tmp_path: Path) -> None:
        schema = Schema(DIM, fields={"body": str, "year": int}, embed=Embed("body"))
        letters = Letters()
        async with self.connect(tmp_path, embedders={"default": letters}) as store:
            await store.create_table("notes", schema)
            rows = [{"id": f"r{n}", "body": f"a{'b' * n}", "year": n} for n in range(6)]
            assert await store.insert("notes", rows) == 6
            assert await store.update("notes", {"body": "dddd"}, where="year >= 4") == 2
            assert await store.update("notes", {"body": "cc", "year": 9}, ids=["r0", "x"]) == 1
            for text in ("refused", ""):
                with pytest.raises((EmbeddingError, InvalidRowError)):
                    await store.update("notes", {"body": text, "year": 77}, where="TRUE")
            assert await store.count("notes", "year = 77") == 0
            asked = letters.asked
            assert await store.update("notes", {"year": 8}, where="TRUE") == 6
            assert letters.asked == asked
            for record in await store.get("notes", [f"r{n}" for n in range(6)]):
                assert record.vector is not None
                assert [record.vector.tolist()] == await letters([record["body"]])
            (hit,) = await store.search("notes", "cc", limit=1)
            assert (hit.id, hit["body"]) == ("r0", "cc")
            asked = letters.asked
            axis = [1.0] + [0.0] * (DIM - 1)  # the app has made the vector, so no embedder does
            assert await store.update("notes", {"body": "own"}, ids="r1", vector=axis) == 1
            (record,) = await store.get("notes", "r1")
            assert record.vector is not None
            assert (record["body"], record.vector.tolist()) == ("own", axis)
            assert letters.asked == asked
            with pytest.raises(DimensionMismatchError):
                await store.update("notes", {"body": "short"}, ids="r1", vector=axis[1:])

    async def test_a_table_describes_its_embedder_to_other_programs(self, tmp_path: Path) -> None:
        self.need_persistence()
        bodies = {"zip": "reading zip files", "net": "opening a socket"}
        async with self.connect(tmp_path, embedder="demo") as store:
            await store.create_table("notes", Schema(fields={"body": str}, embed=Embed("body")))
            await store.insert("notes", [{"id": id, "body": body} for id, body in bodies.items()])
        async with self.connect(tmp_path) as store:
            embed = (await store.schema("notes")).embed
            assert embed is not None
            assert embed.recipe == {"kind": "demo"}
            await store.rename_field("notes", "body", "words")
            await store.insert("notes", [{"id": "walk", "words": "walking through a tree"}])
            for text, id in (("open sockets", "net"), ("tree walks", "walk")):
                assert (await store.search("notes", text, limit=1))[0].id == id
