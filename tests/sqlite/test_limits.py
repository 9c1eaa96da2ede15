"""Limits of SQLite's own that a table meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import InvalidArgumentError, Schema
from aiovec_sqlite import writes

from .support import opened


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


async def test_large_payloads_are_changed_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand at once, however large, were held twice: 2 GiB of payloads of a megabyte."""
    sizes: list[int] = []
    plain = writes._patched

    def patched(tx: Any, table: Any, payload: Any, rowids: Any) -> Any:
        sizes.append(len(rowids))
        return plain(tx, table, payload, rowids)

    monkeypatch.setattr(writes, "_patched", patched)
    monkeypatch.setattr(writes, "_BLOCK_PAYLOADS", 100_000)
    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("t", Schema(2))
        rows: list[dict[str, Any]] = [
            {"id": f"{n:03}", "embedding": [1, n], "text": "x" * (10_000 if n % 3 else 1)}
            for n in range(300)
        ]
        rows[7] |= {"text": "x" * 500_000}
        await store.insert("t", [*rows, {"id": "none", "embedding": [1, 1]}])
        assert await store.update("t", {"k": 1}, where="TRUE") == 301
        assert sum(sizes) == 301
        assert 1 <= min(sizes) <= max(sizes) <= 20
        sizes.clear()  # what is set counts too
        assert await store.update("t", {"large": "x" * 50_000}, where="TRUE") == 301
        assert sum(sizes) == 301
        assert max(sizes) <= 2
        found = {record.id: dict(record) for record in await store.find("t", limit=400)}
    for row in rows:
        assert (found[row["id"]]["text"], found[row["id"]]["k"]) == (row["text"], 1)
    assert found["none"]["k"] == 1
