"""Limits of SQLite's own that a table meets."""

from __future__ import annotations

import pytest

import aiovec
from aiovec import InvalidArgumentError, Schema


@pytest.mark.parametrize(("most", "payload"), [(1996, True), (1997, False)])
async def test_a_table_has_at_most_1996_fields(most: int, payload: bool) -> None:
    """One more was an AiovecError with SQLite's own words."""
    fields = {f"f{n}": int for n in range(most)}
    row = {"id": "a", "embedding": [1, 2], **dict.fromkeys(fields, 3)}
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", Schema(2, fields=fields, payload=payload))
        await store.insert("notes", [row])
        (record,) = await store.get("notes", "a")
        assert set(record.fields.values()) == {3}
        with pytest.raises(InvalidArgumentError, match=f"at most {most} on SQLite, not {most + 1}"):
            await store.add_field("notes", "more", int)
        larger = Schema(2, fields={**fields, "more": int}, payload=payload)
        with pytest.raises(InvalidArgumentError, match=f"at most {most} on SQLite, not {most + 1}"):
            await store.create_table("larger", larger)
        assert await store.tables() == ["notes"]
