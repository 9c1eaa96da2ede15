"""The comparison of two stores names the rows that differ."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from tests.harness.values import EVERY_KIND, SMALL, rows_of_every_kind, small_rows

import aiovec
import aiovec_migrate
from aiovec import Field, MigrationError, Schema
from aiovec.backend.contract import Backend, TableHandle
from aiovec.backend.place import find_place

from .support import a_store

PAIRS = [("a.db", "b.lance"), ("a.lance", "b.db")]
Tables = dict[str, tuple[Schema, list[dict[str, Any]]]]


async def a_pair(folder: Path, names: tuple[str, str], source: Tables, target: Tables) -> list[str]:
    ends = []
    for name, tables in zip(names, (source, target), strict=True):
        place = f"lancedb://{folder / name}" if "lance" in name else str(folder / name)
        ends.append(place)
        async with aiovec.connect(place) as store:
            for table, (schema, rows) in tables.items():
                await store.create_table(table, schema)
                if rows:
                    await store.insert(table, rows)
    return ends


@pytest.mark.parametrize("names", [PAIRS[0], pytest.param(PAIRS[1], marks=pytest.mark.slow)])
async def test_every_kind_of_difference_is_named(tmp_path: Path, names: tuple[str, str]) -> None:
    source = rows_of_every_kind(60)
    vector = np.array(source[1]["embedding"])
    vector.view(np.uint32)[2] ^= 1  # the lowest bit
    different: dict[int, dict[str, Any]] = {
        1: {"embedding": vector},
        2: {"name": ""},
        4: {"year": (source[4]["year"] or 0) + 1},
        5: {"score": np.nextafter(source[5]["score"] or 0.0, 9.0).item()},
        6: {"seen": None},
        7: {"live": not source[7]["live"]},
        8: {"tags": list(reversed(source[8]["tags"] or ["p", "q"]))},
        9: {"nested": {**source[9]["nested"], "number": 9.0}},
        10: {"late": None},
        # Swap two rows, so that all values exist in both stores.
        12: {**source[13], "id": source[12]["id"]},
        13: {**source[12], "id": source[13]["id"]},
    }
    # The target has another order, lacks three rows, and has three others.
    target = [{**row, **different.get(n, {})} for n, row in enumerate(source[:57])][::-1]
    target += [{**source[0], "id": id} for id in ("new", "r", "zz")]
    missing = [row["id"] for row in source[57:]]
    tables: list[Tables] = [
        {"notes": (EVERY_KIND, rows), "empty": (SMALL, [])} for rows in (source, target)
    ]
    ends = await a_pair(tmp_path, names, *tables)
    report = await aiovec_migrate.verify(*ends)
    assert not report.equal
    empty, notes = report.tables
    assert empty.equal
    result = notes.difference
    assert (result.source_rows, result.target_rows) == (60, 60)
    assert sorted(result.missing_ids) == missing
    assert sorted(result.extra_ids) == ["new", "r", "zz"]
    assert sorted(result.different_ids) == [f"r{n:04}" for n in different]
    assert "3 missing, 3 only in the target, 11 different" in report.lines()[1]
    # Nothing shows that these rows come from the source.
    with pytest.raises(MigrationError, match="already has 60 rows"):
        await aiovec_migrate.verify(*ends, repair=True)


async def test_few_ids_are_named_and_all_counted(tmp_path: Path) -> None:
    notes: Tables = {"notes": (SMALL, small_rows(400))}
    ends = await a_pair(tmp_path, ("a.db", "b.db"), notes, {"notes": (SMALL, [])})
    [table] = (await aiovec_migrate.verify(*ends)).tables
    assert table.difference.missing == 400
    assert 0 < len(table.difference.missing_ids) < 400


async def test_tables_of_another_shape(tmp_path: Path) -> None:
    """Tables that cannot be compared are named; an index makes no difference."""
    model = Schema(4, model="m", fields=SMALL.fields)
    field = Schema(4, fields={"name": Field(str, index="btree"), "year": int})
    rows = small_rows(10)
    ends = await a_pair(
        tmp_path,
        ("a.db", "b.db"),
        {"model": (SMALL, rows), "field": (SMALL, rows), "notes": (SMALL, []), "here": (SMALL, [])},
        {
            "model": (model, rows),
            "field": (field, rows),
            "notes": (Schema(4, fields={"name": str}), []),
            "there": (SMALL, []),
        },
    )
    report = await aiovec_migrate.verify(*ends)
    tables = {table.table: table for table in report.tables}
    line = "table   model: the vectors are of two models and were not compared"
    assert line in report.lines()
    assert "two models" in tables["model"].problem
    assert tables["field"].equal
    assert tables["here"].problem == "the table does not exist in the target"
    assert tables["there"].problem == "the table does not exist in the source"
    assert "another schema" in tables["notes"].problem
    assert [name for name in tables if not tables[name].equal] == [
        "here",
        "model",
        "notes",
        "there",
    ]
    (only,) = (await aiovec_migrate.verify(*ends, tables=("absent",))).tables
    assert only.problem == "the table does not exist in the source"


async def test_verify_counts_a_doubled_row_as_different(tmp_path: Path) -> None:
    """Another program may leave such a row."""
    config = await a_store(tmp_path, "sqlite")
    await aiovec_migrate.run(None, "lancedb", config=config)
    db = await lancedb.connect_async(tmp_path / "notes.lance")
    table = await db.open_table("notes")
    await table.add((await table.to_arrow()).slice(7, 1))
    report = await aiovec_migrate.verify("sqlite", "lancedb", config=config)
    assert [table.difference.different for table in report.tables] == [1]


@pytest.mark.parametrize("names", PAIRS)
async def test_a_table_dropped_during_a_comparison_is_named(
    tmp_path: Path, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report lists it with the tables that were compared."""
    tables: Tables = {name: (SMALL, small_rows(20)) for name in ("a", "b", "c")}
    ends = await a_pair(tmp_path, names, tables, tables)

    place = await asyncio.to_thread(find_place, ends[0])
    unopened: Backend = await asyncio.to_thread(place.create)
    kind, dropped = type(unopened), asyncio.Event()
    open_table = kind.open_table

    async def open_behind_a_drop(backend: Backend, name: str) -> TableHandle:
        if name == "b" and not dropped.is_set():
            dropped.set()
            async with aiovec.connect(ends[0]) as store:
                await store.drop_table("b")
        return await open_table(backend, name)

    monkeypatch.setattr(kind, "open_table", open_behind_a_drop)
    report = await aiovec_migrate.verify(*ends)
    assert [(table.table, table.equal) for table in report.tables] == [
        ("a", True), ("b", False), ("c", True)
    ]  # fmt: skip
    assert "dropped" in report.tables[1].problem
