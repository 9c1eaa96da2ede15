"""A table's map, as points and as a figure, and its vectors as a matrix."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import aiovec.sync
from aiovec import (
    Field,
    InvalidArgumentError,
    InvalidVectorError,
    Results,
    Schema,
    UnsupportedError,
    plot,
)

SCHEMA = Schema(
    dim=8, fields={"body": Field(str, text=True), "kind": str}, vector_nullable=True
)  # fmt: skip


async def filled(store: aiovec.VectorStore) -> None:
    """Two clusters of vectors, one of each kind, and a row without a vector."""
    rng = np.random.default_rng(3)
    centers = np.eye(8)[:2] * 5
    rows = [
        {"id": f"{n:03}", "embedding": centers[n % 2] + rng.normal(size=8) * 0.3,
         "body": f"row {n}", "kind": ("$even$", "_odd")[n % 2]}
        for n in range(200)
    ]  # fmt: skip
    await store.create_table("t", SCHEMA)
    await store.insert("t", [*rows, {"id": "none", "body": "no vector", "kind": "_odd"}])


async def test_similar_rows_lie_close_together_on_the_map() -> None:
    async with aiovec.connect(":memory:") as store:
        await filled(store)
        points = await plot.map_points(store, "t")
        assert (points.label, points.color) == ("body", "kind")
        assert (len(points.ids), points.without, points.total) == (200, 1, 201)
        assert [(group.name, group.rows) for group in points.groups] == [
            ("$even$", 100), ("_odd", 100),
        ]  # fmt: skip
        left = {number for number, x in zip(points.members, points.x, strict=True) if x < 0}
        assert len(left) == 1
        assert points.explained[0] > 0.5
        assert await plot.map_points(store, "t") == points
        none = dataclasses.replace(points, color=None, groups=[], members=[], values=[])
        assert await plot.map_points(store, "t", color=False) == none
        few = await plot.map_points(store, "t", rows=20)
        assert len(few.ids) + few.without == 20
        wrong: Any
        for wrong in (
            {"rows": 0},
            {"rows": "10"},
            {"rows": plot.MAX_ROWS + 1},
            {"color": "nothing"},
        ):
            with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
                await plot.map_points(store, "t", **wrong)


async def test_values_beyond_the_seventh_share_a_colour() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", Schema(dim=2, fields={"n": int}))
        await store.insert("t", [{"embedding": [1, n], "n": min(n, 8)} for n in range(12)])
        points = await plot.map_points(store, "t", color="n")
        assert points.groups[0] == plot.Group("8", 4)
        assert points.groups[-1] == plot.Group(None, 2, values=2)


async def test_a_key_of_the_payload_gives_the_colours() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", Schema(dim=2, fields={"n": int}))
        rows = [{"id": f"{n:02}", "embedding": [1, n], "n": n} for n in range(30)]
        await store.insert("t", rows)
        labels = pa.table({
            "id": [row["id"] for row in rows],
            "cluster": [row["n"] % 2 for row in rows],
            "more": [{"score": row["n"] / 2} for row in rows],
        })  # fmt: skip
        await store.update("t", labels)
        points = await plot.map_points(store, "t", color="payload.cluster")
        assert [(group.name, group.rows) for group in points.groups] == [("0", 15), ("1", 15)]
        scaled = await plot.map_points(store, "t", color="payload.more.score")
        assert scaled.values == [row["n"] / 2 for row in rows]
        none = await plot.map_points(store, "t", color="payload.none")
        assert [group.name for group in none.groups] == ["(null)"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with (
        aiovec.sync.connect(":memory:") as store,
        pytest.raises(UnsupportedError, match=r"^plot.map\(\) needs matplotlib: pip install"),
    ):
        plot.map(store, "t")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of matplotlib and what it imports
def test_a_map_is_drawn_by_both_faces() -> None:
    pytest.importorskip("matplotlib")

    async def awaited() -> Any:
        async with aiovec.connect(":memory:") as store:
            await filled(store)
            return await plot.map(store, "t")

    figure = asyncio.run(awaited())
    (axes,) = figure.axes
    assert "200 of 201" in axes.get_title(loc="left")
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == [r" \$even\$ (100)", " _odd (100)"]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 200
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    right = figure.bbox.x1  # of the picture: the legend is not cut
    assert legend.get_window_extent().x1 <= right
    with aiovec.sync.connect(":memory:") as store:
        store.create_table("t", SCHEMA)
        empty = plot.map(store, "t")
    assert "0 of 0" in empty.axes[0].get_title(loc="left")
    assert empty._repr_png_()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
async def test_many_numbers_or_times_are_drawn_along_a_scale(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fields = {"n": int, "x": float, "at": datetime, "few": int}
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", Schema(dim=2, fields=fields))
        begin = datetime(2026, 1, 31, tzinfo=UTC)
        await store.insert("t", [
            {"embedding": [1, n], "n": n * 1000, "x": n / 7, "at": begin + timedelta(days=n),
             "few": n % 12}
            for n in range(90)
        ] + [{"embedding": [2, 1]}])  # fmt: skip
        for name, first in (("n", 0), ("x", 0), ("at", begin)):
            points = await plot.map_points(store, "t", color=name)
            assert points.values.count(None) == 1
            assert first in points.values
            figure = await plot.map(store, "t", color=name)
            axes, bar = figure.axes
            assert (axes.get_legend(), figure.legends) == (None, [])
            assert bar.get_ylabel() == f"{name} (grey: 1 without)"
            assert sorted(len(dots.get_offsets()) for dots in axes.collections) == [1, 90]
            figure.savefig(tmp_path / f"{name}.png")
            ticks = {tick.get_text() for tick in bar.get_yticklabels()}
            assert name != "at" or ticks & {"Feb", "Mar", "2026-Feb", "2026-Mar"}
        assert (await plot.map_points(store, "t", color="few")).values == []


async def test_the_vectors_of_results_are_one_matrix() -> None:
    async with aiovec.connect(":memory:") as store:
        await filled(store)
        rows = await store.find("t", "id < 'n'", order_by="id", limit=3, include_vector=True)
        matrix = rows.to_numpy()
        assert (matrix.shape, matrix.dtype) == ((3, 8), np.float32)
        assert [line.tolist() for line in matrix] == [row.to_dict()["embedding"] for row in rows]
        assert (await store.search("t", matrix[0], include_vector=True)).to_numpy().shape == (10, 8)
        assert Results().to_numpy().shape == (0, 0)
        with pytest.raises(InvalidVectorError, match=r"'000'.*include_vector=True") as error:
            (await store.search("t", matrix[0], limit=1)).to_numpy()
        assert error.value.row == 0
