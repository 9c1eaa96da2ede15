"""The report on two stores: what differs, what was repaired, and what searches find."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.harness.values import EVERY_KIND, SMALL, rows_of_every_kind, small_rows
from tests.migrate.pairs import PAIRS, Pair, delete, pair_of, upsert

from aiovec import Field, MigrationError, Schema
from aiovec.backend import Found, StoredRows, VectorIndexes
from aiovec_migrate.host import RealHost
from aiovec_migrate.verifying.compare import Sides
from aiovec_migrate.verifying.hashes import LIMITS
from aiovec_migrate.verifying.report import VerifyOptions, VerifyReport, verify
from aiovec_migrate.verifying.searches import (
    Nearest,
    Sample,
    compared_searches,
    differing_answers,
    distances,
    hits_within,
    measured_recall,
    sampled,
    spread,
)

# As in test_comparing.py, two stores of the same kind run with the long tests.
_PARAMS = [
    pytest.param(pair, marks=[pytest.mark.soak] * (pair[0] == pair[1]), id="-".join(pair))
    for pair in PAIRS
]


@pytest.fixture(params=_PARAMS)
async def pair(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with pair_of(tmp_path, *request.param) as made:
        yield made


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair_of(tmp_path, "sqlite", "sqlite") as made:
        yield made


async def verified(
    pair: Pair, tables: Any = None, host: RealHost | None = None, **options: Any
) -> VerifyReport:
    return await verify(
        pair.source, pair.target, tables, host=host or RealHost(), options=VerifyOptions(**options)
    )


async def test_equal_stores(pair: Pair) -> None:
    await pair.fill(EVERY_KIND, rows_of_every_kind(150))
    await pair.fill(SMALL, [], table="empty")
    report = await verified(pair)
    assert report.equal
    assert [table.table for table in report.tables] == ["empty", "notes"]
    notes = report.tables[1]
    assert notes.rows.source_rows == notes.rows.target_rows == 150
    assert notes.searches is not None
    assert 3 <= notes.searches.asked <= 32
    assert (notes.searches.unlike, notes.searches.moving, notes.searches.recall) == (0, 0, None)
    assert report.to_text().endswith("verdict   equal, 150 rows\n")
    told = json.loads(report.to_json())
    assert told["equal"] is True
    assert told["format"] == 1
    assert told["source"] == f"{pair.source.target} ({pair.source.name})"
    assert told["tables"][1]["rows"]["source_rows"] == 150


async def test_what_differs_is_named_and_repaired(pair: Pair) -> None:
    rows = rows_of_every_kind(80)
    await pair.fill(EVERY_KIND, rows)
    await delete(pair.target, ["r0003", "r0004"])
    await upsert(pair.target, [{**rows[5], "tags": ["other"]}, {**rows[6], "id": "extra"}])
    report = await verified(pair)
    assert not report.equal
    (notes,) = report.tables
    assert (notes.rows.missing, notes.rows.extra, notes.rows.different) == (2, 1, 1)
    text = report.to_text()
    assert "missing in the target: 'r000" in text
    assert "only in the target: 'extra'" in text
    assert "different: 'r0005'" in text
    assert text.endswith("verdict   NOT EQUAL: notes\n")
    assert json.loads(report.to_json())["tables"][0]["rows"]["different_ids"] == ["r0005"]

    report = await verified(pair, repair=True)
    assert report.equal
    (notes,) = report.tables
    assert notes.rows.total == 0
    assert notes.repaired is not None
    assert sorted(notes.repaired.ids) == ["extra", "r0003", "r0004", "r0005"]
    assert (notes.repaired.copied, notes.repaired.deleted) == (3, 1)
    assert "repaired  3 rows written again, 1 deleted" in report.to_text()
    assert report.to_text().endswith("verdict   equal, 80 rows, after repair\n")
    assert (await verified(pair)).tables[0].repaired is None


async def test_few_ids_are_named_and_all_counted(files: Pair) -> None:
    await files.fill(SMALL, small_rows(40))
    await delete(files.target, [f"r{n:04}" for n in range(10)])
    report = await verified(files, named=3)
    assert report.tables[0].rows.missing == 10
    assert len(report.tables[0].rows.missing_ids) == 3
    assert " and 7 more" in report.to_text()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Schema(4, model="m", fields=SMALL.fields), "model is None, not 'm'"),
        (Schema(4, metric="l2", fields=SMALL.fields), "metric is 'cosine', not 'l2'"),
        (Schema(4, fields={"name": Field(str, text=True), "year": int}), "field 'name' is"),
        (Schema(4, fields={"year": int, "name": str}), "the fields stand in another order"),
    ],
    ids=["model", "metric", "field", "order"],
)
async def test_another_schema(files: Pair, other: Schema, words: str) -> None:
    for backend, schema in ((files.source, SMALL), (files.target, other)):
        await backend.create_table("notes", schema)
        await upsert(backend, small_rows(10))
    report = await verified(files, searches=0)
    assert not report.equal
    assert report.tables[0].rows.total == 0
    assert any(words in each for each in report.tables[0].schema), report.tables[0].schema
    assert words in report.to_text()


async def test_tables_that_cannot_be_compared(files: Pair) -> None:
    await files.source.create_table("notes", SMALL)
    await files.target.create_table("notes", Schema(4, fields={"name": str}))
    await files.source.create_table("here", SMALL)
    await files.target.create_table("there", SMALL)
    report = await verified(files)
    assert not report.equal
    problems = {table.table: table.problem for table in report.tables}
    assert problems["here"] == "the table does not exist in the target"
    assert problems["there"] == "the table does not exist in the source"
    assert "another schema" in problems["notes"]
    assert problems["notes"] in report.to_text()
    assert report.to_text().endswith("verdict   NOT EQUAL: here, notes, there\n")
    (only,) = (await verified(files, ["absent"])).tables
    assert only.problem == "the table does not exist in the source"


async def test_with_vectors_of_another_model(files: Pair) -> None:
    rows = small_rows(50)
    await files.source.create_table("notes", SMALL)
    await files.target.create_table("notes", Schema(8, model="m", fields=SMALL.fields))
    await upsert(files.source, rows)
    await upsert(files.target, [{**row, "embedding": np.ones(8)} for row in rows])
    assert not (await verified(files)).equal
    report = await verified(files, ignore_vector=True)
    assert report.equal
    assert "vectors   not compared" in report.to_text()
    await upsert(files.target, [{**rows[7], "embedding": np.ones(8), "name": "other"}])
    report = await verified(files, ignore_vector=True)
    assert report.tables[0].rows.different_ids == ("r0007",)
    with pytest.raises(MigrationError, match="cannot be repaired"):
        await verified(files, ignore_vector=True, repair=True)

    async def embedded(table: pa.Table) -> pa.Table:
        ones = pa.array(np.ones(8 * table.num_rows, dtype=np.float32))
        vectors = pa.FixedSizeListArray.from_arrays(ones, 8)
        schema = Schema(8, model="m", fields=SMALL.fields).to_arrow()
        columns = [vectors if n == "embedding" else table.column(n) for n in schema.names]
        return pa.Table.from_arrays(columns, schema=schema)

    report = await verify(
        files.source, files.target, host=RealHost(), transform=embedded,
        options=VerifyOptions(ignore_vector=True, repair=True),
    )  # fmt: skip
    assert report.equal
    assert report.tables[0].repaired is not None


# Searches


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
async def test_searches_are_alike_on_both_backends(tmp_path: Path, metric: Any) -> None:
    """Also where many rows are equally far, and among vectors of very different sizes."""
    schema = Schema(16, metric=metric, payload=False)
    drawn = np.random.default_rng(3)
    vectors = drawn.standard_normal((400, 16)).astype(np.float32)
    vectors[::2] = vectors[0]
    vectors[1::4] *= 1000
    rows = [{"id": f"r{n:03}", "embedding": vector} for n, vector in enumerate(vectors)]
    async with pair_of(tmp_path, "sqlite", "lancedb") as pair:
        await pair.fill(schema, rows)
        (notes,) = (await verified(pair, searches=60)).tables
        assert notes.searches is not None
        assert notes.searches.asked >= 3
        assert notes.searches.unlike == 0
        assert notes.searches.farthest < 1e-5
        assert notes.equal


async def test_searches_that_meet_rows_that_differ(files: Pair) -> None:
    """They are not held against the search: the rows are reported by themselves."""
    rows = small_rows(60)
    await files.fill(SMALL, rows)
    await upsert(
        files.target, [{**row, "embedding": [1, 2, 3, n + 1]} for n, row in enumerate(rows)]
    )
    (notes,) = (await verified(files)).tables
    assert notes.searches is not None
    assert notes.searches.unlike == 0
    assert notes.searches.moving > 0
    assert "met differing rows" in (await verified(files)).to_text()


async def test_recall_of_the_targets_index(tmp_path: Path) -> None:
    schema = Schema(16, payload=False)
    vectors = np.random.default_rng(3).standard_normal((1_500, 16)).astype(np.float32)
    rows = [{"id": f"r{n:04}", "embedding": vector} for n, vector in enumerate(vectors)]
    async with pair_of(tmp_path, "sqlite", "lancedb") as pair:
        await pair.fill(schema, rows)
        target = pair.target
        assert isinstance(target, VectorIndexes)
        handle = await target.open_table("notes")
        await target.create_index(handle, "ivf_flat", wait=True, options={})
        report = await verified(pair)
        searches = report.tables[0].searches
        assert searches is not None
        assert searches.recall is not None
        assert 0.3 < searches.recall <= 1
        assert f"recall    {searches.recall:.3f} of the 10 nearest" in report.to_text()
        assert report.equal


async def test_the_sample_is_spread_and_the_same_again(pair: Pair) -> None:
    await pair.fill(SMALL, small_rows(600))
    sides = await Sides.of(*await pair.tables(), host=RealHost(), vector=True)
    mine = await sampled(sides.source, 30, 600, 0)
    theirs = await sampled(sides.target, 30, 600, 0)
    assert list(mine.ids) == list(theirs.ids) == sorted(set(mine.ids))
    assert np.array_equal(mine.vectors, theirs.vectors)
    assert len(mine.ids) == 30
    assert min(mine.ids) < "r0150" < "r0450" < max(mine.ids)
    assert len((await sampled(sides.source, 900, 600, 0)).ids) == 600
    assert len((await sampled(sides.source, 0, 600, 0)).ids) == 0
    searches = await compared_searches(sides, mine, 7, seconds=1e9)
    assert (searches.asked, searches.unlike) == (30, 0)
    searches = await compared_searches(sides, mine, 7, seconds=-1, least=4)
    assert (searches.asked, searches.unlike) == (4, 0)
    nearest = Nearest(SMALL, mine, 7)
    await sides.compared(LIMITS, nearest.add)
    # Without an index an ordinary search finds all.
    assert await measured_recall(sides.target, mine, nearest, 7) == 1


@pytest.mark.parametrize("count", range(1, 60))
def test_the_first_queries_are_taken_from_all_over(count: int) -> None:
    places = spread(count)
    assert sorted(places) == list(range(count))
    if count > 6:
        assert max(places[:3]) - min(places[:3]) >= count // 3


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_the_nearest_of_what_passes_by(metric: Any) -> None:
    """As a plain sort of all distances says, among vectors of many sizes, some of them equal."""
    drawn = np.random.default_rng(4)
    vectors = drawn.standard_normal((500, 6)).astype(np.float32)
    vectors *= 10.0 ** drawn.integers(-3, 4, (500, 1))
    vectors[::3] = vectors[3]
    queries = vectors[[0, 1, 2, 50]] + np.float32(0.01)
    schema = Schema(6, metric=metric, payload=False)
    nearest = Nearest(schema, Sample(["a", "b", "c", "d"], queries), 5)
    assert nearest.edges() == [(0, 0.0)] * 4
    flat = pa.array(vectors.reshape(-1))
    batch = pa.record_batch({"embedding": pa.FixedSizeListArray.from_arrays(flat, 6)})
    for start, length in ((0, 2), (2, 1), (3, 397), (400, 100)):
        nearest.add(batch.slice(start, length))
    for query, (count, edge) in zip(queries.astype(np.float64), nearest.edges(), strict=True):
        expected = np.sort(distances(metric, query, vectors.astype(np.float64)))
        assert count == 5
        assert edge == pytest.approx(expected[4], rel=1e-6, abs=1e-9)


def found(*pairs: tuple[str, float]) -> Found:
    ids = [id for id, _ in pairs]
    vectors = np.ones((len(ids), 2), dtype=np.float32)
    return Found(StoredRows(ids, {}, vectors=vectors), [distance for _, distance in pairs])


QUERY = np.ones(2, dtype=np.float32)
NEAR = (("a", 0.1), ("b", 0.2), ("c", 0.2))


@pytest.mark.parametrize(
    ("theirs", "suspects"),
    [
        (NEAR, None),
        ((("c", 0.2), ("a", 0.1), ("b", 0.2)), None),
        ((("a", 0.100001), ("b", 0.2), ("c", 0.2)), None),
        ((("a", 0.1), ("b", 0.2), ("d", 0.200001)), None),  # as far as the last one
        ((("a", 0.1), ("d", 0.2), ("e", 0.2)), None),
        ((("a", 0.101), ("b", 0.2), ("c", 0.2)), ["a", "b", "c"]),
        ((("d", 0.1), ("b", 0.2), ("c", 0.2)), ["a", "d"]),  # a nearer one was left out
        ((("a", 0.1), ("b", 0.2), ("d", 0.3)), ["c", "d"]),
        ((("a", 0.1), ("b", 0.2)), ["c"]),
        ((), ["a", "b", "c"]),
    ],
)  # fmt: skip
def test_answers_that_are_alike(
    theirs: tuple[tuple[str, float], ...], suspects: list[str] | None
) -> None:
    for one, other in ((NEAR, theirs), (theirs, NEAR)):
        given, apart = differing_answers("cosine", QUERY, found(*one), found(*other))
        assert given == suspects
        assert apart >= 0
    assert differing_answers("cosine", QUERY, found(), found()) == (None, 0.0)


def test_an_answer_that_is_as_near_counts_for_the_recall() -> None:
    for given, hits in (
        (NEAR, 3),
        (NEAR[:2], 2),
        ((("a", 0.1), ("b", 0.2), ("z", 0.2)), 3),
        ((("a", 0.1), ("y", 0.5), ("z", 0.6)), 1),
        ((), 0),
    ):
        assert hits_within("cosine", QUERY, 0.2, found(*given)) == hits
