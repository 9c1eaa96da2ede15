"""The comparison of two stores: what differs is named, and written again if asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.values import EVERY_KIND, SMALL, rows_of_every_kind, small_rows

import aiovec
import aiovec_migrate
from aiovec import Field, Schema

from .support import assert_same, contents_at

PAIRS = [("a.db", "b.lance"), ("a.lance", "b.db")]
Tables = dict[str, tuple[Schema, list[dict[str, Any]]]]


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a TOML file the migrator keeps its journal in the current folder."""
    monkeypatch.chdir(tmp_path)


async def a_pair(folder: Path, names: tuple[str, str], mine: Tables, theirs: Tables) -> list[str]:
    ends = []
    for name, tables in zip(names, (mine, theirs), strict=True):
        place = f"lancedb://{folder / name}" if "lance" in name else str(folder / name)
        ends.append(place)
        async with aiovec.connect(place) as store:
            for table, (schema, rows) in tables.items():
                await store.create_table(table, schema)
                if rows:
                    await store.insert(table, rows)
    return ends


@pytest.mark.parametrize("names", [PAIRS[0], pytest.param(PAIRS[1], marks=pytest.mark.slow)])
async def test_every_kind_of_difference_is_named_and_repaired(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    mine = rows_of_every_kind(60)
    vector = np.array(mine[1]["embedding"])
    vector.view(np.uint32)[2] ^= 1  # the lowest bit
    different: dict[int, dict[str, Any]] = {
        1: {"embedding": vector},
        2: {"name": ""},
        4: {"year": (mine[4]["year"] or 0) + 1},
        5: {"score": np.nextafter(mine[5]["score"] or 0.0, 9.0).item()},
        6: {"seen": None},
        7: {"live": not mine[7]["live"]},
        8: {"tags": list(reversed(mine[8]["tags"] or ["p", "q"]))},
        9: {"nested": {**mine[9]["nested"], "number": 9.0}},
        10: {"late": None},
        # Two rows that are swapped have the same values in all.
        12: {**mine[13], "id": mine[12]["id"]},
        13: {**mine[12], "id": mine[13]["id"]},
    }
    # In another order, without three and with three of its own.
    theirs = [{**row, **different.get(n, {})} for n, row in enumerate(mine[:57])][::-1]
    theirs += [{**mine[0], "id": id} for id in ("new", "r", "zz")]
    missing = [row["id"] for row in mine[57:]]
    tables: list[Tables] = [
        {"notes": (EVERY_KIND, rows), "empty": (SMALL, [])} for rows in (mine, theirs)
    ]
    ends = await a_pair(tmp_path, names, *tables)
    report = await aiovec_migrate.verify(*ends)
    assert not report.equal
    empty, notes = report.tables
    assert empty.equal
    assert (notes.rows.source_rows, notes.rows.target_rows) == (60, 60)
    assert sorted(notes.rows.missing_ids) == missing
    assert sorted(notes.rows.extra_ids) == ["new", "r", "zz"]
    assert sorted(notes.rows.different_ids) == [f"r{n:04}" for n in different]
    assert report.to_text().endswith("verdict   NOT EQUAL: notes\n")
    told = json.loads(report.to_json())["tables"][1]["rows"]
    assert sorted(told["missing_ids"]) == missing

    report = await aiovec_migrate.verify(*ends, repair=True)
    assert report.equal
    repaired = report.tables[1].repaired
    assert (repaired.copied, repaired.deleted) == (14, 3)
    assert report.to_text().endswith("verdict   equal, 60 rows, after repair\n")
    assert_same(await contents_at(ends[0]), await contents_at(ends[1]))
    report = await aiovec_migrate.verify(*ends)
    assert report.equal
    assert report.tables[1].repaired is None


async def test_few_ids_are_named_and_all_counted(tmp_path: Path) -> None:
    notes: Tables = {"notes": (SMALL, small_rows(400))}
    ends = await a_pair(tmp_path, ("a.db", "b.db"), notes, {"notes": (SMALL, [])})
    report = await aiovec_migrate.verify(*ends)
    assert report.tables[0].rows.missing == 400
    assert 0 < len(report.tables[0].rows.missing_ids) < 400
    assert " more" in report.to_text()


async def test_tables_of_another_shape(tmp_path: Path) -> None:
    """A schema that differs is told though every row is equal; what cannot be compared, too."""
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
    found = {table.table: table for table in report.tables}
    assert "model is None, not 'm'" in found["model"].schema[0]
    assert "field 'name' is" in found["field"].schema[0]
    assert found["field"].rows.total == 0
    assert found["here"].problem == "the table does not exist in the target"
    assert found["there"].problem == "the table does not exist in the source"
    assert "another schema" in found["notes"].problem
    assert report.to_text().endswith("verdict   NOT EQUAL: field, here, model, notes, there\n")
    (only,) = (await aiovec_migrate.verify(*ends, tables=("absent",))).tables
    assert only.problem == "the table does not exist in the source"


async def test_rows_of_two_models_are_not_written_among_each_other(tmp_path: Path) -> None:
    """Their lengths are the same, so nothing else could tell."""
    rows = small_rows(10)
    other = Schema(4, model="m", fields=SMALL.fields)
    ends = await a_pair(
        tmp_path, ("a.db", "b.db"), {"notes": (SMALL, rows)}, {"notes": (other, rows[:5])}
    )
    before = await contents_at(ends[1])
    report = await aiovec_migrate.verify(*ends, repair=True)
    assert not report.equal
    assert "of the model" in report.to_text()
    with pytest.raises(aiovec.MigrationError, match="no rows are written"):
        await aiovec_migrate.sync(*ends)
    assert_same(before, await contents_at(ends[1]))
