"""The rows that the migration's benchmark moves, and how it tells that they are equal."""

from __future__ import annotations

import pyarrow as pa
import pytest
from bench.migrating.rows import Fingerprint, batches, schema
from bench.page import by_subject, heading, replaced, section


def fingerprint(*parts: pa.RecordBatch) -> str:
    told = Fingerprint()
    for part in parts:
        told.add(part)
    return str(told)


def test_the_rows_are_the_same_each_time_and_have_all_kinds_of_fields() -> None:
    one, other = pa.Table.from_batches(batches(7000, 8)), pa.Table.from_batches(batches(7000, 8))
    assert one == other
    assert one.schema.equals(schema(8).to_arrow(), check_metadata=True)
    for column in one.schema:
        if column.nullable:
            assert 0 < one.column(column.name).null_count < 7000 or column.name in (
                "body", "score", "tags",
            )  # fmt: skip


def test_the_order_of_rows_does_not_count() -> None:
    (batch,) = batches(100, 8)
    assert fingerprint(batch) == fingerprint(batch.slice(60), batch.slice(0, 60))


@pytest.mark.parametrize("name", schema(8).to_arrow().names)
def test_every_value_counts(name: str) -> None:
    """A value that another row has is another fingerprint."""
    (batch,) = batches(100, 8)
    column = batch.column(name)
    swapped = column.take([1, 0, *range(2, 100)])
    if swapped == column:
        swapped = column.take([99, *range(1, 99), 0])
    assert swapped != column
    position = batch.schema.get_field_index(name)
    changed = pa.RecordBatch.from_arrays(
        [swapped if i == position else batch.column(i) for i in range(batch.num_columns)],
        schema=batch.schema,
    )
    assert fingerprint(changed) != fingerprint(batch)


def test_results_become_a_section_of_the_page() -> None:
    check = {
        "what": "rows copied a second", "value": 70_123.4, "target": 60_000, "at_most": False,
        "unit": "", "holds": True,
    }  # fmt: skip
    result = {
        "subject": "migrate, there", "compared": "100 rows", "unit": "rows/s",
        "measured": {"aiovec migrate": 70_123.4}, "checks": [check],
        "notes": ["a note"],
    }  # fmt: skip
    made = section("migrate", [by_subject([result])["migrate"]])
    assert "| aiovec migrate | 70,123 |" in made
    assert "- rows copied a second: 70,123, target at least 60,000: holds" in made
    title = heading("migrate")
    page = f"# Page\n\nBefore.\n\n{title}\n\nOld.\n\n### `python -m bench other`\n\nBehind.\n"
    new = replaced(page, "migrate", made)
    assert "Old." not in new
    assert new.index("Before.") < new.index(title) < new.index("Behind.")
    assert replaced(new, "migrate", made) == new
    appended = replaced("# Page\n", "migrate", made)
    assert appended.endswith(made)
    assert replaced(appended, "migrate", made) == appended
