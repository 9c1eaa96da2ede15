"""Exported rows, vectors and schemas are imported unchanged, to the bit."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.command import run
from tests.harness.strategies import good_rows, schemas
from tests.harness.values import EVERY_KIND, HOSTILE_IDS, rows_of_every_kind

from aiovec import Embed, Field, Schema, sync

from .support import Row, bring, made, rows_of, schema_of

SUFFIXES = (".parquet", ".arrow", ".arrows", ".jsonl", ".csv")
MOMENT = datetime(2024, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
_numbers = itertools.count()


def there_and_back(
    schema: Schema, rows: list[Row], folder: Path, target: str = "", suffixes: Any = SUFFIXES
) -> None:
    number = next(_numbers)
    store: Any = target or folder / f"{number}.db"
    made(store, schema, rows, "before")
    before = rows_of(store, "before")
    for suffix in suffixes:
        path, table = folder / f"{number}-{suffix[1:]}{suffix}", f"after-{suffix[1:]}"
        saved = run("export", "-s", store, "before", path, "--json").json
        assert saved["rows"] == len(before)
        done = bring(path, store, table=table)
        assert (done["rows"], done["rejected"]) == (len(before), 0)
        assert schema_of(store, table) == schema, suffix
        after = rows_of(store, table)
        assert before == after, suffix
        for id, row in before.items():
            other = after[id]
            if row.vector is None or other.vector is None:
                assert row.vector is other.vector
            else:
                assert row.vector.tobytes() == other.vector.tobytes()
            # Compare the repr, because 1 == 1.0 == True.
            assert repr(sorted(row.fields.items())) == repr(sorted(other.fields.items()))


def test_exported_rows_of_every_kind_are_imported_unchanged(folder: Path) -> None:
    there_and_back(EVERY_KIND, rows_of_every_kind(50), folder)
    there_and_back(EVERY_KIND, [], folder)
    nullable = Schema(4, vector_nullable=True, fields={"year": int})
    rows: list[Row] = [
        {"id": f"r{n}", "year": n, "embedding": None if n % 3 else [1.0, -0.0, n, 0.1]}
        for n in range(300)
    ]
    there_and_back(nullable, rows, folder, suffixes=(".parquet", ".jsonl", ".csv"))


def test_rows_of_every_kind_come_back_on_lancedb(folder: Path) -> None:
    target = f"lancedb://{folder / 'lance'}"
    there_and_back(EVERY_KIND, rows_of_every_kind(20), folder, target, (".arrow",))


def test_hostile_ids_and_hard_numbers_are_imported_to_the_bit(folder: Path) -> None:
    bits = np.random.default_rng(5).integers(0, 2**32, (len(HOSTILE_IDS), 4), dtype=np.uint32)
    vectors = bits.view(np.float32)
    # Keep only components that every store accepts.
    vectors[~(np.abs(vectors) < 1e15)] = -0.0
    vectors[:, 0] = 1 / 3
    vectors[0] = np.array([-0.0, 1e-45, 1e15, 0.1], dtype=np.float32)
    schema = Schema(4, metric="l2", vector="V", fields={"t": Field(str, text=True)})
    rows: list[Row] = [
        {"id": id, "V": vector, "t": id, "payload": {"payload": id}, "k": [1, 1.0, True, None]}
        for id, vector in zip(HOSTILE_IDS, vectors, strict=True)
    ]
    there_and_back(schema, rows, folder, suffixes=(".parquet", ".arrow", ".jsonl", ".csv"))


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_exported_rows_are_imported_unchanged(folder: Path, data: st.DataObject) -> None:
    schema = data.draw(schemas())
    rows = data.draw(st.lists(good_rows(schema), max_size=6))
    there_and_back(schema, rows, folder, suffixes=[data.draw(st.sampled_from(SUFFIXES))])


def test_an_exported_part_of_a_table_keeps_its_schema(folder: Path, store: Path) -> None:
    fields = {"year": int, "seen": datetime, "body": str}
    schema = Schema(2, model="m", fields=fields, embed=Embed("body"))
    rows = [
        {"id": str(n), "embedding": [1, n], "year": n, "seen": MOMENT, "body": "x", "k": n}
        for n in range(10)
    ]
    made(store, schema, rows)
    part = ("--where", "year >= 7", "--select", "embedding,year,seen", "--json")
    for suffix in SUFFIXES:
        table = f"part-{suffix[1:]}"
        path = folder / f"{table}{suffix}"
        assert run("export", "-s", store, "notes", path, *part).json["rows"] == 3
        bring(path, store, table=table)
        fields = {"year": int, "seen": datetime}
        assert schema_of(store, table) == Schema(2, model="m", fields=fields, payload=False)
        assert [dict(row.fields) for row in rows_of(store, table).values()] == [
            {"year": n, "seen": MOMENT} for n in (7, 8, 9)
        ]


def test_lines_and_cells_are_written_as_documented(folder: Path, store: Path) -> None:
    fields = {"n": int, "f": float, "b": bool, "s": str, "l": list[int], "seen": datetime}
    schema = Schema(2, fields=fields)
    full = {
        "id": "a", "embedding": [0.5, 0.25], "n": 1, "f": 0.5, "b": True, "s": 'q"', "l": [1],
        "seen": MOMENT, "k": {"x": None},
    }  # fmt: skip
    made(store, schema, [full, {"id": "b", "embedding": [0, 1], "s": ""}])
    seen = "2024-02-03T04:05:06.000007Z"
    assert run("export", "-s", store, "notes", "rows.jsonl").code == 0
    first, _ = (folder / "rows.jsonl").read_text("utf-8").splitlines()
    assert json.loads(first) == full | {"seen": seen}
    assert Schema.from_json((folder / "rows.jsonl.schema.json").read_text("utf-8")) == schema
    with sync.connect(store) as opened:  # insert accepts a line
        opened.create_table("again", schema)
        assert opened.insert("again", [json.loads(first)]) == 1
    assert (
        run("export", "-s", store, "notes", "o.csv", "--select", "n,f,b,s,l,seen,payload").code == 0
    )
    assert (folder / "o.csv").read_text("utf-8") == (
        '"id","n","f","b","s","l","seen","payload"\n'
        f'"a",1,0.5,true,"q""","[1]","{seen}","{{""k"":{{""x"":null}}}}"\n"b",,,,"",,,\n'
    )
