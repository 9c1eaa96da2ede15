"""Stores of released versions can be opened, searched, changed and checked."""

from __future__ import annotations

import re
import shutil
from asyncio import to_thread
from pathlib import Path

import numpy as np
import pytest
from tests.files import released
from tests.harness.command import run

import aiovec

ROOT = Path(__file__).parents[2]
FILES = sorted(released.FOLDER.glob("*.zip"))


def test_every_released_version_has_a_file() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = set(re.findall(r"^## ([\d.]+) \(20", changelog, re.MULTILINE))
    assert {file.stem for file in FILES} >= dated | {aiovec.__version__}


@pytest.mark.parametrize("target", released.TARGETS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_a_store_of_a_released_version_is_read_and_changed(
    file: Path, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await to_thread(shutil.unpack_archive, file, tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = {row["id"]: row for row in released.notes() if row["id"] not in released.DELETED}
    async with aiovec.connect(target, read_only=True) as store:
        assert await store.schema("notes") == released.NOTES
        existing = await store.find("notes", limit=None, include_vector=True)
        assert {row.id for row in existing} == set(rows)
        for row in existing:
            wanted = dict(rows[row.id])
            np.testing.assert_array_equal(row.vector, wanted.pop("embedding"))
            assert {"id": row.id, **dict(row)} == wanted
        hits = await store.search("notes", [20, 20, 1], where="year > 2019", limit=2)
        assert [hit.id for hit in hits] == ["n20", "n21"]
        (hit,) = await store.search_text("notes", "17")
        assert hit.id == "n17"
        assert [hit.id for hit in await store.search("texts", "a red fox", limit=1)] == ["fox"]
        changes = await store.changes("notes", 0)
    async with aiovec.connect(target) as store:
        await store.upsert("notes", [{**rows["n00"], "id": "new", "title": "a new one"}])
        await store.update("notes", {"year": 1}, ids="n01")
        later = await store.changes("notes", changes.number)
        assert set(later.upserted["id"].to_pylist()) == {"new", "n01"}
        await store.optimize("notes")
        assert await store.count("notes", "year = 1 OR title LIKE 'a new%'") == 2
    checked = await to_thread(run, "doctor", "-s", target)
    assert checked.code == 0, checked.out
