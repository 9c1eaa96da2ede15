"""``prepare`` checks rows as ``insert`` does, without a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import AiovecError
from aiovec.backend.prepare import prepare

_ROW = small_rows(1)[0]


@pytest.mark.parametrize(
    "row",
    [
        {**_ROW, "year": "x"},
        {**_ROW, "id": ""},
        {**_ROW, "embedding": [1.0]},
        {**_ROW, "embedding": [float("nan")] * 4},
        {**_ROW, "embedding": [0.0] * 4},
        {**_ROW, "payload.x": {1}},
    ],
)
async def test_it_refuses_what_insert_refuses(row: dict[str, Any], tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "s.db") as store:
        await store.create_table("notes", SMALL)
        with pytest.raises(AiovecError) as by_insert:
            await store.insert("notes", [_ROW, row])
    with pytest.raises(AiovecError) as by_prepare:
        prepare([_ROW, row], SMALL)
    assert str(by_prepare.value) == str(by_insert.value)


def test_it_returns_the_layout_of_the_schema() -> None:
    rows = small_rows(5, extra=1)
    table = prepare(rows, SMALL)
    assert table.schema == SMALL.to_arrow()
    assert table.column("payload").to_pylist() == ['{"extra":1}'] * 5
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert prepare({**columns, "embedding": np.array(columns["embedding"])}, SMALL) == table
    assert prepare(pa.Table.from_pylist(rows), SMALL) == table


def test_a_row_without_an_id_is_refused() -> None:
    with pytest.raises(AiovecError, match="id"):
        prepare([{"embedding": [1.0] * 4}], SMALL)
