"""Contract tests for changing parts of rows, conflicting inserts, and rows without vectors."""

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

import aiovec
from aiovec import DimensionMismatchError, Embed, F, Field, InvalidRowError, Schema, VectorStore

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
    """An embedder that computes vectors from the letters of a text."""

    model, dim = "letters", DIM
    calls = 0

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
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
        await store.search("notes", rows[0]["embedding"])  # load all caches
        new = vectors(40, dim=schema.dim, seed=9)
        ids = [row["id"] for row in rows]
        assert await store.set_vectors("notes", ids[::2], new[::2]) == 20
        for row, vector in zip(rows[::2], new[::2], strict=True):
            row["embedding"] = vector
        assert_same_rows(await store.get("notes", ids), rows, schema)
        for row in rows[:10]:  # five changed rows and five unchanged ones
            (hit,) = await store.search("notes", row["embedding"], limit=1)
            assert hit.id == row["id"]
            assert hit.distance == pytest.approx(0, abs=1e-4)
            where = f"name = '{row['name']}'" if schema is not EVERY_KIND else None
            matches = await store.search("notes", row["embedding"], limit=1, where=where)
            assert ids_of(matches) == [row["id"]]
        assert await store.count("notes") == 40

    async def test_update_and_set_vectors_at_once_lose_nothing(self, store: VectorStore) -> None:
        """If callers change fields and vectors at the same time, no change is lost."""
        await filled(store, SMALL, small_rows(10))
        ids = [f"r{n:04}" for n in range(10)]
        new = vectors(10, seed=5)
        for turn in range(2):
            calls = [store.set_vectors("notes", [id], [new[n]]) for n, id in enumerate(ids)]
            calls += [store.update("notes", {"name": f"u{turn}"}, ids=[id]) for id in ids]
            assert await asyncio.gather(*calls) == [1] * 20
            matches = await store.get("notes", ids)
            assert {record["name"] for record in matches} == {f"u{turn}"}
            assert all(
                np.array_equal(record.vector, vector)  # type: ignore[arg-type]  # it has one
                for record, vector in zip(matches, new, strict=True)
            )

    async def test_exists_and_get_take_ids_and_a_selection(self, notes: VectorStore) -> None:
        ids = [f"r{n:04}" for n in range(12)]
        assert await notes.exists("notes", ids) == set(ids[:10])
        assert await notes.exists("notes", "r0003") == {"r0003"}
        assert await notes.exists("notes", []) == set()
        with pytest.raises(aiovec.TableNotFoundError):
            await notes.exists("absent", "a")
        for options, fields, with_vector in (
            ({}, {"name", "year"}, True),
            ({"select": ["year"]}, {"year"}, True),
            ({"select": [], "include_vector": False}, set(), False),
            ({"select": ["embedding"], "include_vector": False}, set(), True),
        ):
            (record,) = await notes.get("notes", "r0003", **options)  # type: ignore[arg-type]
            assert (set(record.fields), record.vector is not None) == (fields, with_vector)
        with pytest.raises(aiovec.InvalidNameError):
            await notes.get("notes", [], select=["absent"])
        for included in (True, False):
            rows = await notes.find("notes", "year < 3", include_vector=included)
            assert [row.vector is not None for row in rows] == [included] * 3

    @pytest.mark.core
    async def test_inserts_at_once_add_each_id_once(self, tmp_path: Path) -> None:
        """Two stores insert, if the backend is persistent, and their counts add up."""
        async with self.connect(tmp_path) as first:
            await first.create_table("notes", SMALL)
            second = await self.connect(tmp_path) if self.persistent else first
            try:
                chance = np.random.default_rng(3)
                calls = []
                for n in range(60):
                    ids = chance.choice(200, size=int(chance.integers(1, 30)), replace=True)
                    rows = [
                        {"id": f"x{id}", "embedding": [1.0, float(id), n, 0], "year": n}
                        for id in ids
                    ]
                    store = second if n % 2 else first
                    calls.append((rows, store.insert("notes", rows, on_conflict="skip")))
                counts = await asyncio.gather(*(call for _, call in calls))
                wanted = {str(row["id"]) for rows, _ in calls for row in rows}
                assert sum(counts) == len(wanted) == await first.count("notes")
                matches = await first.find("notes", limit=1_000)
                assert {record.id for record in matches} == wanted
                # Each call added as many rows as it returned, and no row mixes parts of two.
                added = Counter(record["year"] for record in matches)
                assert [added[n] for n in range(60)] == counts
                for record in await first.get("notes", sorted(wanted)):
                    assert record.vector is not None
                    assert record.vector[2] == record["year"]
                assert len(await first.search("notes", [1.0, 1, 1, 1], limit=1_000)) == len(wanted)
            finally:
                if second is not first:
                    await second.close()

    @pytest.mark.parametrize(
        "kind", [pytest.param("cosine", marks=pytest.mark.core), "parted", "bits"]
    )
    @pytest.mark.arrow
    async def test_rows_without_a_vector_are_stored_and_never_hits(
        self, store: VectorStore, kind: str
    ) -> None:
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
            nearest = await store.search("notes", query, limit=3, exact=exact, include_vector=True)
            assert ids_of(nearest) == ids_of(hits[:3])
            matches = await store.search("notes", query, limit=100, where="year < 10", exact=exact)
            assert {hit.id for hit in matches} == {r["id"] for r in with_vector if r["year"] < 10}
            ids = [row["id"] for row in with_vector if row["name"] == "n0"]
            matches = await store.search(
                "notes", query, limit=100, where="name = 'n0'", exact=exact
            )
            assert {hit.id for hit in matches} == set(ids)
        many = await store.search_many("notes", [query, query], limit=100)
        assert [len(hits) for hits in many] == [len(with_vector)] * 2
        assert await store.search("notes", query, where=F.id.in_(without)) == []
        exported = [row async for b in store.export("notes") for row in b.to_pylist()]
        assert {row["id"] for row in exported if row["embedding"] is None} == set(without)
        # Add, remove and change vectors, while the fields stay or are replaced.
        new = vectors(60, dim=schema.dim, seed=77)
        assert await store.set_vectors("notes", without[:5], new[:5]) == 5
        for id, vector in zip(without[:5], new[:5], strict=True):
            matches = await store.search("notes", vector, limit=1, where=F.id == id)
            assert ids_of(matches) == [id]
            assert matches[0]["year"] == int(id[1:])
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

    async def test_a_table_without_any_vector_has_no_hits(self, store: VectorStore) -> None:
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

    async def test_few_vectors_among_many_rows_are_found(self, store: VectorStore) -> None:
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
            matches = await store.search("notes", given[990], limit=2)
            assert set(ids_of(matches)) == {"r0001", "r0990"}

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
                with pytest.raises((aiovec.EmbeddingError, InvalidRowError)):
                    await store.update("notes", {"body": text, "year": 77}, where="TRUE")
            assert await store.count("notes", "year = 77") == 0
            calls = letters.calls
            assert await store.update("notes", {"year": 8}, where="TRUE") == 6
            assert letters.calls == calls
            for record in await store.get("notes", [f"r{n}" for n in range(6)]):
                assert record.vector is not None
                assert [record.vector.tolist()] == await letters([record["body"]])
            (hit,) = await store.search("notes", "cc", limit=1)
            assert (hit.id, hit["body"]) == ("r0", "cc")
            calls = letters.calls
            axis = [1.0] + [0.0] * (DIM - 1)  # the app passes a vector, so no embedder is called
            assert await store.update("notes", {"body": "own"}, ids="r1", vector=axis) == 1
            (record,) = await store.get("notes", "r1")
            assert record.vector is not None
            assert (record["body"], record.vector.tolist()) == ("own", axis)
            assert letters.calls == calls
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
