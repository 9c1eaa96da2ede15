"""Vector indexes: every kind is built, on request or automatically, and never hides a row."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.waiting import until

import aiovec
from aiovec import F, Field, InvalidArgumentError, Schema, Tuning, UnsupportedError, VectorStore
from aiovec.backend import Metric

from .indexed import DIM, FEW, QUESTIONS, ROWS, SCHEMA, VECTORS, filled, rows, true_recall
from .support import lance_calls, opened


async def kinds(store: VectorStore) -> list[str]:
    return [info.kind for info in await store.indexes("notes")]


async def indexed(store: VectorStore) -> bool:
    """Return whether the table has a vector index whose recall is known."""
    return (await store.stats("notes")).details.get("recall") is not None


async def matching(store: VectorStore, question: Any, **options: Any) -> list[str]:
    return [hit.id for hit in await store.search("notes", question, **options)]


@pytest.mark.parametrize(
    "kind",
    [
        "ivf_flat",
        pytest.param("ivf_rq", marks=pytest.mark.soak),
        pytest.param("ivf_pq", marks=pytest.mark.soak),
        pytest.param("hnsw_sq", marks=pytest.mark.slow),
    ],
)
async def test_an_index_of_each_kind(store: VectorStore, kind: str) -> None:
    await filled(store)
    # With this many partitions, one partition has too few of the nearest rows.
    options = {"num_partitions": 200} if kind == "ivf_flat" else {}
    await store.create_index("notes", kind, **options, **FEW)
    (info,) = await store.indexes("notes")
    assert (info.kind, info.column) == (kind, "embedding")
    assert (info.rows_indexed, info.rows_unindexed) == (ROWS, 0)
    assert info.recall is not None
    assert info.recall >= 0.95
    assert await true_recall(store) >= 0.9
    stats = await store.stats("notes")
    assert stats.details["recall_target"] == 0.95
    assert kind in stats.index

    with case("distances are true"):
        exact = {
            hit.id: hit.distance for hit in await store.search("notes", QUESTIONS[0], exact=True)
        }
        for hit in await store.search("notes", QUESTIONS[0]):
            assert exact.get(hit.id, hit.distance) == hit.distance
    with case("filters get all their hits"):
        for where, limit in (
            (F.number.in_([5, 700, 1900]), 3),
            (F.number < 30, 20),
            (F.kind == "k3", 300),
        ):
            hits = await store.search("notes", QUESTIONS[1], where=where, limit=limit)
            assert len(hits) == limit
            ids = [hit.id for hit in hits]
            assert await store.count("notes", where & F.id.in_(ids)) == limit
    with case("a limit above what the index gives"):
        for limit in (500, ROWS, ROWS + 5):
            ids = await matching(store, QUESTIONS[0], limit=limit, tuning=Tuning(nprobes=1, ef=1))
            assert len(set(ids)) == min(limit, ROWS)
    with case("rows that it does not cover yet"):
        await store.insert("notes", rows(ROWS, ROWS + 10))
        (info,) = await store.indexes("notes")
        assert info.rows_unindexed == (await store.stats("notes")).unindexed_rows == 10
        for number in range(ROWS, ROWS + 10):
            assert await matching(store, VECTORS[number], limit=1) == [f"r{number}"]
    with case("deleted and replaced rows do not come back"):
        _, second, third = await matching(store, VECTORS[7], limit=3, exact=True)
        await store.delete("notes", second)
        await store.upsert("notes", {**rows(7, 8), "embedding": -VECTORS[7:8]})
        await store.update("notes", {"kind": "updated"}, ids=third)
        for _ in range(2):
            for exact in (False, True):
                hits = await store.search("notes", VECTORS[7], limit=20, exact=exact)
                assert not {"r7", second}.intersection(hit.id for hit in hits)
            assert (hits[0].id, hits[0]["kind"]) == (third, "updated")
            assert await matching(store, -VECTORS[7], limit=1, exact=True) == ["r7"]
            await store.optimize("notes")
    with case("dropped by its name"):
        with pytest.raises(InvalidArgumentError, match=re.escape(info.name)):
            await store.drop_index("notes", "absent")
        await store.drop_index("notes", info.name)
        assert await store.indexes("notes") == []
        assert (await store.stats("notes")).index == "none"
        assert await true_recall(store) == 1.0


async def test_refused_index_options_are_answered_with_accepted_ones(store: VectorStore) -> None:
    await store.create_table("notes", Schema(DIM, fields={"number": int, "kind": str}))
    with pytest.raises(InvalidArgumentError, match="no rows"):
        await store.create_index("notes", "ivf_flat")
    await store.create_index("notes")  # "auto": an index is built once there are enough rows
    await store.insert("notes", rows(0, 300))
    unaccepted: list[tuple[Any, dict[str, Any], str]] = [
        ("ivf", {}, "ivf_pq"),
        (7, {}, "hnsw_sq"),
        ("ivf_flat", {"m": 8}, "num_partitions"),
        ("auto", {"num_partitions": 8}, "recall"),
        ("ivf_flat", {"num_partitions": 0}, "at least 1"),
        ("ivf_pq", {"num_sub_vectors": 7}, "divisor"),
        ("ivf_flat", {"recall": 1.5}, "below 1"),
        ("ivf_flat", {"recall": "high"}, "below 1"),
    ]
    for kind, options, message in unaccepted:
        with case((kind, options)), pytest.raises(InvalidArgumentError, match=message):
            await store.create_index("notes", kind, **options)
    for tuning in (Tuning(nprobes=0), Tuning(ef=-1), Tuning(refine=0)):
        with case(tuning), pytest.raises(InvalidArgumentError, match="tuning"):
            await store.search("notes", QUESTIONS[0], tuning=tuning)
    assert await store.indexes("notes") == []


@pytest.mark.soak
async def test_a_recall_asked_for_a_table_holds_in_other_stores(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", index="none") as store, opened(tmp_path / "s") as other:
        await filled(store)
        await store.create_index("notes", "ivf_flat", recall=0.6, num_partitions=40)
        assert await true_recall(store) >= 0.6
        for name in ("effort", "recall"):
            seen = (await other.stats("notes")).details[name]
            assert seen == (await store.stats("notes")).details[name]
        await other.insert("notes", rows(ROWS, ROWS + 1))
    async with opened(tmp_path / "s") as later:
        assert (await later.stats("notes")).details["recall_target"] == 0.6


@pytest.mark.slow
async def test_fewer_vectors_are_read_where_the_index_is_trusted(store: VectorStore) -> None:
    await filled(store)
    await store.create_index("notes", "ivf_rq")
    few = await true_recall(store, tuning=Tuning(oversample=1))
    assert few < await true_recall(store, tuning=Tuning(oversample=8))
    hits = await store.search("notes", QUESTIONS[0], tuning=Tuning(oversample=1))
    true = {hit.id: hit.distance for hit in await store.search("notes", QUESTIONS[0], limit=ROWS)}
    assert [hit.distance for hit in hits] == sorted(true[hit.id] for hit in hits)


@pytest.mark.parametrize(
    "metric", ["cosine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("l2", "dot"))]
)
async def test_unmeasured_hits_have_distances_near_the_true_ones(
    store: VectorStore, metric: Metric
) -> None:
    await store.create_table("notes", replace(SCHEMA, metric=metric))
    await store.insert("notes", rows(0, ROWS))
    await store.create_index("notes", "hnsw", **FEW)
    assert await kinds(store) == ["hnsw_sq"]
    hits = await store.search("notes", QUESTIONS[0], limit=20, tuning=Tuning(measure=False))
    true = {hit.id: hit.distance for hit in await store.search("notes", QUESTIONS[0], limit=ROWS)}
    measured = [hit.distance for hit in hits]
    assert measured == sorted(measured)
    assert measured != [true[hit.id] for hit in hits]
    assert measured == pytest.approx([true[hit.id] for hit in hits], rel=0.05)
    await store.insert("notes", rows(ROWS, ROWS + 100))  # rows without codes
    hits = await store.search("notes", VECTORS[ROWS], limit=5, tuning=Tuning(measure=False))
    (best, *others) = await store.search("notes", VECTORS[ROWS], limit=5, exact=True)
    assert hits[0].distance == pytest.approx(best.distance, abs=1e-4)
    assert hits[1].distance == pytest.approx(others[0].distance, rel=0.01)


@pytest.mark.slow
async def test_efforts_beyond_all_reason_take_no_memory(store: VectorStore) -> None:
    """Lance ends the process if it cannot allocate the memory for ``refine``."""
    await filled(store, 300)
    for kind in (None, "hnsw_sq"):
        if kind is not None:
            await store.create_index("notes", kind)
        for tuning in (
            Tuning(refine=10**11), Tuning(ef=2**40), Tuning(oversample=1e300),
            Tuning(nprobes=2**70, ef=2**70, refine=2**70),
        ):  # fmt: skip
            with case((kind, tuning)):
                ids = await matching(store, VECTORS[7], limit=3, tuning=tuning)
                assert (ids[0], len(ids)) == ("r7", 3)


@pytest.mark.soak
async def test_filters_whose_rows_lie_together(store: VectorStore) -> None:
    """The rows of a filter are far from the query, in few partitions of the index."""
    topics = np.random.default_rng(3).standard_normal((20, DIM))
    of = np.random.default_rng(4).integers(0, 20, 4000)
    chance = np.random.default_rng(5)
    vectors = (topics[of] + 0.6 * chance.standard_normal((4000, DIM))).astype(np.float32)
    fields = {"topic": int, "tagged": Field(int, index="bitmap")}
    await store.create_table("notes", Schema(DIM, fields=fields))
    ids = [f"r{n}" for n in range(4000)]
    await store.insert("notes", {"id": ids, "embedding": vectors, "topic": of, "tagged": of % 4})
    await store.create_index("notes", "ivf_pq")
    for where in (F.topic.in_([3, 4, 5]), F.tagged == 1, F.topic >= 10, F.topic == 7):
        with case(where):
            shares = []
            for query in vectors[:10]:
                wanted = await matching(store, query, where=where, exact=True)
                got = await matching(store, query, where=where)
                assert len(got) == 10
                shares.append(len(set(wanted) & set(got)) / 10)
            assert np.mean(shares) >= 0.9
            assert min(shares) > 0


@pytest.mark.parametrize("kind", ["ivf_rq", pytest.param("hnsw_sq", marks=pytest.mark.slow)])
async def test_a_filter_is_not_counted_before_it_is_searched(store: VectorStore, kind: str) -> None:
    """Only a filter that finds too few rows is counted, and then all its rows are found."""
    await filled(store)
    await store.create_index("notes", kind, **FEW)
    for where, rows_of_it, counts in (
        (F.number < 1200, 1200, 0),
        (F.number.between(300, 339), 40, 0),
        (F.number.in_([5, 700, 1900]), 3, 1),
        (F.number > 9000, 0, 1),
    ):
        with case(where):
            exact = await matching(store, QUESTIONS[3], where=where, exact=True)
            with lance_calls() as calls:
                got = await matching(store, QUESTIONS[3], where=where)
            assert (calls["to_batches"], calls["count_rows"]) == (1, counts)
            assert len(set(got)) == len(got) == min(10, rows_of_it)
            assert len(set(got) & set(exact)) >= 0.8 * len(exact)
            assert counts == 0 or got == exact


# Automatic indexes


@pytest.mark.slow
async def test_auto_takes_a_graph_where_it_is_built_soon(tmp_path: Path) -> None:
    """Its searches cost less at the same recall, even for dimensions that codes do not support."""
    async with opened(tmp_path / "s", index="none", index_from=500) as store:
        await filled(store, 500)
        await store.create_index("notes", "auto")
        assert await kinds(store) == ["hnsw_sq"]
        assert await true_recall(store) >= 0.9
        await store.create_table("odd", Schema(9))
        vectors = VECTORS[:500, :9]
        await store.insert("odd", {"id": [f"r{n}" for n in range(500)], "embedding": vectors})
        await store.create_index("odd", "auto")
        assert [info.kind for info in await store.indexes("odd")] == ["hnsw_sq"]


@pytest.mark.soak
async def test_auto_indexes_a_table_that_has_grown_large(tmp_path: Path) -> None:
    """The index covers new rows, and is not built again once it was dropped."""
    async with opened(tmp_path / "s", index_from=1500) as store:
        await filled(store, 1400)
        await store.create_index("notes", "auto")
        assert await store.indexes("notes") == []
        await store.insert("notes", rows(1400, 2200))
        await until(lambda: indexed(store))
        assert await true_recall(store) >= 0.9
        await store.insert("notes", rows(2200, 2800))
        await store.optimize("notes")
        (info,) = await store.indexes("notes")
        assert info.rows_unindexed == 0
        await store.drop_index("notes", info.name)
        await store.optimize("notes")
        assert await store.indexes("notes") == []
        await store.create_index("notes", "auto")
        assert len(await kinds(store)) == 1


@pytest.mark.soak
async def test_optimize_while_an_index_is_dropped(store: VectorStore) -> None:
    await filled(store)
    for turn in range(3):
        with case(turn):
            await store.create_index("notes", "ivf_flat")
            (index,) = await store.indexes("notes")
            await store.insert("notes", rows(ROWS + 20 * turn, ROWS + 20 * turn + 20))

            async def drop(name: str = index.name, turn: int = turn) -> None:
                await asyncio.sleep(0.01 * turn)
                await store.drop_index("notes", name)

            optimized, dropped = await asyncio.gather(
                store.optimize("notes"), drop(), return_exceptions=True
            )
            assert dropped is None
            assert optimized is None or "its table or index was dropped" in str(optimized)
            assert await store.indexes("notes") == []


# The recall that is reported

FAR = np.random.default_rng(3).standard_normal((400, DIM)).astype(np.float32)
"""Questions far from all rows, which are harder than those made of rows."""


async def reported_recall(store: VectorStore) -> tuple[float, str]:
    details = (await store.stats("notes")).details
    return details["recall"], details["recall_by"]


@pytest.mark.slow
async def test_the_recall_is_measured_with_the_apps_own_searches(tmp_path: Path) -> None:
    async with (
        opened(tmp_path / "s", index="none") as store,
        aiovec.connect(f"lancedb://{tmp_path / 's'}", read_only=True) as reader,
    ):
        await filled(store)
        await store.create_index("notes", "ivf_flat", num_partitions=40)
        _, by = await reported_recall(store)
        assert by == "256 made questions"
        with case("too few searches, however often"):
            for _ in range(4):
                await store.search_many("notes", FAR[:20])
            await store.optimize("notes")
            assert (await reported_recall(store))[1] == by
        with case("enough of them, without another call"):
            await store.search_many("notes", FAR[:120])

            async def measured() -> bool:
                return (await reported_recall(store))[1] == "120 of your searches"

            await until(measured)
            recall, _ = await reported_recall(store)
            assert recall >= 0.95
            effort = (await store.stats("notes")).details["effort"]
            assert (
                abs(await true_recall(reader, FAR[200:], tuning=Tuning(**effort)) - recall) < 0.05
            )
            (info,) = await store.indexes("notes")
            assert info.parameters["measured_by"] == "120 of your searches"
            assert "by 120 of your searches" in (await store.stats("notes")).index
        with case("those of the last measurement are kept by a process that knows none"):
            async with opened(tmp_path / "s", index="none") as other:
                await other.optimize("notes")
                assert (await reported_recall(other))[1] == "120 of your searches"
        with case("none of a table that had the name before"):
            async with opened(tmp_path / "s", index="none") as other:
                await other.drop_table("notes")
                await other.create_table("notes", Schema(8))
                ids = [f"r{number}" for number in range(300)]
                await other.insert("notes", {"id": ids, "embedding": VECTORS[:300, :8]})
            await store.create_index("notes", "ivf_flat")
            assert (await reported_recall(store))[1] == "256 made questions"


@pytest.mark.slow
async def test_the_recall_is_measured_with_given_questions(store: VectorStore) -> None:
    await filled(store)
    with case("of a build"):
        await store.create_index("notes", "ivf_flat", num_partitions=40, questions=FAR[:100])
        assert (await reported_recall(store))[1] == "100 given questions"
        effort = (await store.stats("notes")).details["effort"]
        assert await true_recall(store, FAR[200:], tuning=Tuning(**effort)) > 0.9
    with case("of an optimize"):
        await store.optimize("notes", questions=FAR.tolist())
        assert (await reported_recall(store))[1] == "200 given questions"
    with case("not accepted"):
        for questions in (FAR[:63], FAR[:0]):
            with pytest.raises(InvalidArgumentError, match="at least 64"):
                await store.optimize("notes", questions=questions)
        with pytest.raises(InvalidArgumentError, match="at least 64"):
            await store.create_index("notes", questions=FAR[:63])
        with pytest.raises(aiovec.DimensionMismatchError):
            await store.optimize("notes", questions=FAR[:100, 1:])
        assert (await reported_recall(store))[1] == "200 given questions"


@pytest.mark.slow
async def test_the_reported_recall_rows_among_near_copies(store: VectorStore) -> None:
    """Questions that move away from the rows would find more."""
    chance = np.random.default_rng(4)
    centres = chance.standard_normal((20, DIM))
    vectors = centres[np.arange(3000) % 20] + 0.03 * chance.standard_normal((3000, DIM))
    await store.create_table("notes", SCHEMA)
    await store.insert("notes", {**rows(0, 3000), "embedding": vectors.astype(np.float32)})
    await store.create_index("notes", "ivf_rq", num_partitions=20)
    recall, _ = await reported_recall(store)
    effort = (await store.stats("notes")).details["effort"]
    assert recall - await true_recall(store, vectors[::17], tuning=Tuning(**effort)) < 0.1


@pytest.mark.slow
async def test_rows_that_codes_confuse_need_candidates_not_partitions(store: VectorStore) -> None:
    chance = np.random.default_rng(5)
    centres = chance.standard_normal((75, DIM))
    vectors = centres[np.arange(3000) % 75] + 0.02 * chance.standard_normal((3000, DIM))
    questions = centres + 0.02 * chance.standard_normal((75, DIM))
    await store.create_table("notes", SCHEMA)
    await store.insert("notes", {**rows(0, 3000), "embedding": vectors.astype(np.float32)})
    await store.create_index(
        "notes", "ivf_rq", num_partitions=20, questions=questions.astype(np.float32)
    )
    details = (await store.stats("notes")).details
    assert details["recall"] >= 0.95
    assert details["effort"]["nprobes"] < 20


# While one is built


async def building(store: VectorStore) -> bool:
    return "building" in (await store.stats("notes")).index


@pytest.mark.slow
async def test_writers_go_on_while_an_index_is_built(store: VectorStore) -> None:
    await filled(store, 5_000)
    build = asyncio.ensure_future(store.create_index("notes", "hnsw_sq"))
    await until(lambda: building(store))
    wrote = 0
    while not build.done() and wrote < 15:
        await store.insert("notes", rows(5_000 + wrote, 5_001 + wrote))
        await store.delete("notes", f"r{wrote}")
        await store.upsert("notes", rows(3000 + wrote, 3001 + wrote))
        wrote += 1
    await build
    assert wrote > 0
    assert await store.count("notes") == 5_000
    (info,) = await store.indexes("notes")
    assert info.rows_indexed + info.rows_unindexed == 5_000
    for number in (5_000, 5_000 + wrote - 1, 3000):
        assert await matching(store, VECTORS[number], limit=1) == [f"r{number}"]
    assert "r0" not in await matching(store, VECTORS[0], limit=50)


@pytest.mark.slow
async def test_a_build_that_is_cancelled_closed_or_dropped(tmp_path: Path) -> None:
    """The table stays as it was, and can have an index later."""
    async with opened(tmp_path / "s", index="none") as store:
        await filled(store, 8_000)
        build = asyncio.ensure_future(store.create_index("notes", "hnsw_sq"))
        await until(lambda: building(store))
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await build
        assert await store.indexes("notes") == []
        build = asyncio.ensure_future(store.create_index("notes", "hnsw_sq"))
        await until(lambda: building(store))
    with pytest.raises(aiovec.StoreClosedError):
        await build
    async with opened(tmp_path / "s", index="none") as store:
        assert await store.count("notes") == 8_000
        build = asyncio.ensure_future(store.create_index("notes", "hnsw_sq"))
        await until(lambda: building(store))
        await store.drop_table("notes")
        with pytest.raises(aiovec.AiovecError):
            await build
        await filled(store, 300)
        assert await store.indexes("notes") == []
        await store.create_index("notes", "ivf_flat", wait=False)
        await until(lambda: indexed(store))
        assert await kinds(store) == ["ivf_flat"]


# Tables with many equal rows


async def _equal_rows(store: VectorStore, distinct: int, metric: Metric = "cosine") -> Any:
    """Fill ``notes`` so that ``distinct`` of 3,000 rows have a vector of their own."""
    vectors = np.repeat(VECTORS[:1], 3000, axis=0)
    vectors[:distinct] = VECTORS[1 : 1 + distinct]
    await store.create_table("notes", Schema(DIM, metric=metric))
    ids = [f"r{number:04}" for number in range(3000)]
    await store.insert("notes", {"id": ids, "embedding": vectors})


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("hnsw_sq", marks=pytest.mark.slow),
        pytest.param("ivf_rq", marks=pytest.mark.soak),
        pytest.param("ivf_pq", marks=pytest.mark.soak),
    ],
)
async def test_the_recall_holds_where_nine_in_ten_rows_share_a_vector(
    store: VectorStore, kind: str
) -> None:
    """The recall is reached, or the index is not used."""
    await _equal_rows(store, 300)
    await store.create_index("notes", kind)
    assert await true_recall(store) >= 0.8


@pytest.mark.parametrize("kind", ["auto", "hnsw_sq"])
async def test_upkeep_goes_on_where_all_rows_share_a_vector(tmp_path: Path, kind: str) -> None:
    """Upkeep goes on, whether an index can be built or not, and searches find the rows."""
    async with opened(tmp_path / "s", index=kind, index_from=1000) as store:
        await _equal_rows(store, 0)
        for turn in range(2):
            await store.optimize("notes")
            assert (await store.stats("notes")).details["fragments"] <= 2
            assert len({hit.id for hit in await store.search("notes", QUESTIONS[0])}) == 10
            for number in range(4):
                row = {"id": f"n{turn}.{number}", "embedding": VECTORS[0]}
                await store.insert("notes", [row])
        assert await store.count("notes") == 3008


async def test_a_search_of_all_vectors_is_bounded(tmp_path: Path) -> None:
    """One that cannot go by the index reads no more than scan_limit, unless it is asked to."""
    large = {"limit": 600_000}
    by_scan: dict[str, dict[str, Any]] = {
        "as many as 600,000 rows": large,
        "fewer than 500 rows": {"limit": 500, "tuning": Tuning(nprobes=1)},
    }
    async with (
        opened(tmp_path / "s", index="none") as free,
        opened(tmp_path / "s", index="none", scan_limit="100KB") as bound,
    ):
        await filled(free)
        question = QUESTIONS[0]
        with pytest.raises(UnsupportedError, match=r"no usable .* 256,000 bytes.*optimize\(\)"):
            await bound.search("notes", question)
        await free.create_index("notes", "ivf_flat", **FEW)
        nearest = [hit.id for hit in await bound.search("notes", question)]
        assert nearest == [hit.id for hit in await free.search("notes", question)]
        for reason, options in by_scan.items():
            with case(reason):
                assert len(await free.search("notes", question, **options)) >= 10
                with pytest.raises(UnsupportedError, match=rf"{reason}.* pass exact=True"):
                    await bound.search("notes", question, **options)
                # What a filter selects is all that is read.
                few = await bound.search("notes", question, where="number < 500", **options)
                assert len(few) == min(options.get("limit", 10), 500)
        assert len(await bound.search("notes", question, exact=True, **large)) == ROWS
