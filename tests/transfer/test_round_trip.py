"""What is exported is imported again as it was: rows, vectors to the bit, schema."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.strategies import good_rows, schemas
from tests.harness.values import EVERY_KIND, HOSTILE_IDS, rows_of_every_kind
from tests.toy_backend import ToyBackend, open_store

import aiovec
from aiovec import Field, Schema, UnsupportedError
from aiovec._transfer import save

from .support import bring

SUFFIXES = {
    "parquet": ".parquet",
    "arrow": ".arrow",
    "arrow-stream": ".arrows",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "numpy": ".npy",
}
_numbers = itertools.count()


async def there_and_back(
    schema: Schema, rows: list[dict[str, Any]], form: str, folder: Path
) -> None:
    number = next(_numbers)
    path = folder / f"t{number}{SUFFIXES[form]}"
    async with aiovec.connect(":memory:") as store:
        await store.create_table("before", schema)
        await store.upsert("before", rows)
        saved = await save(store, "before", path)
        assert saved.rows == await store.count("before")
        assert saved.format == form
        done = await bring(store, path, "after")
        assert (done.rows, done.rejected) == (saved.rows, 0)
        assert await store.schema("after") == schema
        ids = sorted({row["id"] for row in rows})
        before, after = await store.get("before", ids), await store.get("after", ids)
        assert before == after
        for one, other in zip(before, after, strict=True):
            if one.vector is None or other.vector is None:
                assert one.vector is other.vector
            else:
                assert one.vector.tobytes() == other.vector.tobytes()
            # Equality takes 1 for 1.0 and for True.
            assert repr(sorted(one.fields.items())) == repr(sorted(other.fields.items()))


@pytest.mark.slow
@pytest.mark.parametrize("form", SUFFIXES)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_rows_come_back_as_they_were(form: str, tmp_path: Path, data: st.DataObject) -> None:
    schema = data.draw(schemas())
    rows = data.draw(st.lists(good_rows(schema), max_size=6))
    asyncio.run(there_and_back(schema, rows, form, tmp_path))


@pytest.mark.parametrize("form", SUFFIXES)
async def test_rows_of_every_kind_come_back(form: str, tmp_path: Path) -> None:
    await there_and_back(EVERY_KIND, rows_of_every_kind(50), form, tmp_path)


@pytest.mark.parametrize("form", SUFFIXES)
async def test_hostile_ids_and_hard_numbers_come_back_to_the_bit(form: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    hard = np.array([-0.0, 1e-45, 3.4028235e38, 0.1], dtype=np.float32)
    bits = generator.integers(0, 2**32, size=(len(HOSTILE_IDS), 4), dtype=np.uint32)
    vectors = bits.view(np.float32)
    vectors[~np.isfinite(vectors)] = -0.0
    vectors[0] = hard
    schema = Schema(4, metric="l2", vector="V", fields={"t": Field(str, text=True)})
    rows = [
        {"id": id, "V": vector, "t": id, "payload": {"payload": id}, "k": [1, 1.0, True, None]}
        for id, vector in zip(HOSTILE_IDS, vectors, strict=True)
    ]
    await there_and_back(schema, rows, form, tmp_path)


@pytest.mark.parametrize("form", SUFFIXES)
async def test_a_part_of_a_table(form: str, tmp_path: Path) -> None:
    moment = datetime(2024, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    schema = Schema(2, model="m", fields={"year": int, "seen": datetime, "body": str})
    path = tmp_path / f"part{SUFFIXES[form]}"
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", schema)
        await store.insert(
            "notes",
            [
                {"id": str(n), "embedding": [1, n], "year": n, "seen": moment, "body": "x", "k": n}
                for n in range(10)
            ],
        )
        saved = await save(
            store, "notes", path, where="year >= 7", select=["embedding", "year", "seen"]
        )
        assert saved.rows == 3
        await bring(store, path, "part")
        assert await store.schema("part") == Schema(
            2, model="m", fields={"year": int, "seen": datetime}, payload=False
        )
        records = await store.find("part")
        assert [dict(r.fields) for r in records] == [{"year": n, "seen": moment} for n in (7, 8, 9)]


async def test_json_lines_are_what_insert_takes(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    moment = datetime(2024, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    row = {"id": "a", "embedding": [0.1, 0.25], "seen": moment, "tags": ["x"], "odd": {"k": 1}}
    schema = Schema(2, fields={"seen": datetime, "tags": list[str]})
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", schema)
        await store.insert("notes", [row])
        saved = await save(store, "notes", path)
        (line,) = path.read_text("utf-8").splitlines()
        assert json.loads(line) == row | {"seen": "2024-02-03T04:05:06.000007Z"}
        assert saved.files == (path, tmp_path / "notes.schema.json")
        assert Schema.from_json((tmp_path / "notes.schema.json").read_text("utf-8")) == schema
        await store.create_table("again", schema)
        assert await store.insert("again", [json.loads(line)]) == 1


async def test_a_table_without_rows_comes_back(tmp_path: Path) -> None:
    for form in ("parquet", "arrow", "arrow-stream", "jsonl", "csv", "numpy"):
        await there_and_back(EVERY_KIND, [], form, tmp_path)


async def test_a_file_from_a_quantized_table_goes_where_no_codes_are_stored(tmp_path: Path) -> None:
    schema = Schema(8, quantized="bit")
    path = tmp_path / "notes.parquet"
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", schema)
        await store.insert("notes", [{"id": "a", "embedding": [1.0] * 8}])
        await save(store, "notes", path)
    async with await open_store(ToyBackend()) as store:
        assert (await bring(store, path)).rows == 1
        assert await store.schema("notes") == Schema(8)
        with pytest.raises(UnsupportedError):
            await bring(store, path, "wanted", schema=schema)


@pytest.mark.parametrize("form", SUFFIXES)
async def test_rows_without_vectors_come_back(form: str, tmp_path: Path) -> None:
    schema = Schema(4, vector_nullable=True, fields={"year": int})
    rows = [
        {"id": f"r{n}", "year": n, "embedding": None if n % 3 else [1.0, -0.0, n, 0.1]}
        for n in range(2_500)
    ]
    await there_and_back(schema, rows, form, tmp_path)
    await there_and_back(schema, [{"id": "a"}, {"id": "b"}], form, tmp_path)
