"""Approximate searches, with bits or with prefixes of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.support import opened

from aiovec import Field, Schema, Tuning

ROWS, DIM = 3_000, 128
# Filters, each with an upper bound of ``n`` in the rows that it selects.
WHERES = ((None, ROWS), ("n < 1500", 1_500), ("of = 'a' AND n < 2500", 2_500), ("of = 'a'", 2_800))


def vectors() -> Any:
    """Return vectors like embeddings: with topics, and with the largest variance at the start."""
    rng = np.random.default_rng(1)
    topics = rng.standard_normal((60, DIM))
    made = topics[rng.integers(0, 60, ROWS)] + 0.6 * rng.standard_normal((ROWS, DIM))
    return (made * np.linspace(1, 0.2, DIM)).astype(np.float32)


@pytest.mark.parametrize("way", ["bits", "prefix"])
async def test_most_of_the_nearest_are_found_and_truly_measured(tmp_path: Path, way: str) -> None:
    rows = vectors()
    units = rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1)[:, None]
    schema = Schema(DIM, fields={"n": int, "of": Field(str, partition=True)}, quantized="bit")
    tuning = None if way == "bits" else Tuning(dims=64)
    async with opened(tmp_path / "a.db", scan="bit" if way == "bits" else "auto") as store:
        await store.create_table("t", schema)
        numbers = list(range(ROWS))
        made = {"id": [f"{n}" for n in numbers], "embedding": rows, "n": numbers}
        await store.insert("t", made | {"of": ["a" if n < 2_800 else "b" for n in numbers]})
        result = wanted = 0
        for turn in range(2):  # from the file, and then from memory
            for number in range(turn, 200, 10):
                # Of few rows all are measured.
                where, below = WHERES[number // 10 % len(WHERES)]
                options: dict[str, Any] = {"limit": 10, "where": where}
                hits = await store.search("t", rows[number], tuning=tuning, **options)
                true = await store.search("t", rows[number], exact=True, **options)
                assert len(hits) == len(true) == 10
                assert all(hit["n"] < below for hit in hits)
                for hit in hits:
                    assert hit.distance == pytest.approx(
                        1 - units[hit["n"]] @ units[number], abs=1e-6
                    )
                result += len({hit.id for hit in hits} & {hit.id for hit in true})
                wanted += 10
        assert result >= 0.9 * wanted
        every = Tuning(oversample=1e308, dims=None if tuning is None else tuning.dims)
        hits = await store.search("t", rows[0], tuning=every, limit=100)
        assert hits == await store.search("t", rows[0], exact=True, limit=100)
        # A search finds rows that were just written, and no deleted ones.
        await store.upsert("t", [{"id": "new", "embedding": 2 * rows[7], "n": -1, "of": "b"}])
        await store.delete("t", "7")
        (hit,) = await store.search("t", rows[7], limit=1, tuning=tuning)
        assert hit.id == "new"


async def test_rows_without_a_prefix_are_found_behind_those_that_have_one(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).standard_normal((3_000, 16)).astype(np.float32)
    rows[30:, :8] = 0
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("t", Schema(16))
        await store.insert("t", {"id": [f"{n}" for n in range(3_000)], "embedding": rows})
        for number, expected in ((3, "3"), (40, None)):
            hits = await store.search("t", rows[number], limit=10, tuning=Tuning(dims=8))
            assert len(hits) == 10
            assert expected in (None, hits[0].id)
