"""The tables of what the backends do differently: complete, and true."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.contract.base import ABILITIES
from tests.harness.packages import install

import aiovec
from aiovec import Schema

from .blocks import ROOT, blocks

BACKENDS = ("sqlite", "lancedb")


def rows() -> dict[str, list[str]]:
    """The rows of the table: what differs, then what each backend does."""
    return _rows_of("What they do differently", BACKENDS)


def remote_rows() -> dict[str, list[str]]:
    return _rows_of("Over HTTP", ["remote"])


def _rows_of(
    title: str, backends: Sequence[str], page: str = "reference/backends.md"
) -> dict[str, list[str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text.split(f"## {title}")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    head, _, *result = cells
    assert [cell.strip("` ") for cell in head[1:]] == [*backends]
    return {row[0].strip("| "): row[1:] for row in result}


async def test_backend_of_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (module,) = [
        body
        for body in blocks("docs/internals/writing-a-backend.md", "python")
        if body.startswith("# aiovec_dicts.py")
    ]
    entry = "[aiovec.backends]\ndicts = aiovec_dicts:DictsPlugin"
    monkeypatch.syspath_prepend(str(install(tmp_path, "dicts", entry, aiovec_dicts=module)))
    schema = Schema(3, fields={"year": int, "tags": list[str]})
    rows = [
        {"id": f"r{n}", "embedding": np.eye(3)[n], "year": 2000 + n, "tags": ["a"] * n, "x": n}
        for n in range(3)
    ]
    async with aiovec.connect("dicts://") as store:
        await store.create_table("notes", schema)
        assert await store.insert("notes", rows) == 3
        with pytest.raises(aiovec.DuplicateIdError):
            await store.insert("notes", rows[:1])
        assert await store.insert("notes", rows, on_conflict="skip") == 0
        hits = await store.search("notes", [0, 1, 0.5], where="NOT year = 2000 OR year IS NULL")
        assert [(hit.id, hit["x"]) for hit in hits] == [("r1", 1), ("r2", 2)]
        assert hits[0].distance == pytest.approx(1 - 1 / 1.25**0.5)
        assert await store.update("notes", {"year": None, "x": 9}, ids="r0") == 1
        assert [(row.id, row["x"]) for row in await store.find("notes", order_by="-year")] == [
            ("r2", 2), ("r1", 1), ("r0", 9),
        ]  # fmt: skip
        assert await store.set_vectors("notes", ["r2", "none"], [[3, 4, 0], [1, 0, 0]]) == 1
        own = [{"id": "r1", "payload.x": 7}, {"id": "r2", "tags": ["a"], "embedding": [0, 1, 0]}]
        assert await store.update("notes", [*own, {"id": "none", "year": 1}]) == 2
        assert [(row["x"], row["tags"]) for row in await store.get("notes", ["r1", "r2"])] == [
            (7, ["a"]), (2, ["a"]),
        ]  # fmt: skip
        await store.update("notes", [{"id": "r2", "tags": ["a", "a"], "embedding": [3, 4, 0]}])
        assert await store.bounds("notes", "year") == (2001, 2002)
        assert await store.distinct("notes", "tags") == {"a": 2}
        assert await store.upsert("notes", [{**rows[0], "year": 1}]) == 1
        assert await store.delete("notes", where="year > 2001") == 1
        assert (await store.stats("notes")).rows == 2
        await store.rename_field("notes", "year", "since")
        await store.add_field("notes", "lang", str)
        await store.drop_field("notes", "tags")
        await store.rename_table("notes", "texts")
        (row,) = await store.get("texts", ["r0"])
        assert (row.fields, [*row.vector]) == ({"since": 1, "lang": None, "x": 0}, [1, 0, 0])
        batches = [batch async for batch in store.export("texts", batch_size=1)]
        assert [batch["id"].to_pylist() for batch in batches] == [["r0"], ["r1"]]
        with pytest.raises(aiovec.UnsupportedError):
            await store.search_text("texts", "wool")
        await store.drop_table("texts")
        assert await store.tables() == []


async def test_the_table_tells_what_each_backend_can(tmp_path: Path) -> None:
    for message, target in zip(
        rows()["abilities"], (str(tmp_path / "a.db"), f"lancedb://{tmp_path}/b"), strict=False
    ):
        async with aiovec.connect(target) as store:
            able = {ability for ability in ABILITIES if store.supports(ability)}
        assert set(re.findall(r"`([\w-]+)`", message)) == able, target


async def test_keys_as_deep_as_the_table_says(tmp_path: Path) -> None:
    small = _rows_of("Small differences from SQLite", BACKENDS, "internals/lancedb.md")
    (depths,) = [cells for limit, cells in small.items() if limit.startswith("names in a payload")]
    targets = (str(tmp_path / "a.db"), f"lancedb://{tmp_path}/b")
    for target, cell in zip(targets, depths, strict=False):
        deepest = int(cell.split(";")[0])
        async with aiovec.connect(target) as store:
            await store.create_table("notes", aiovec.Schema(2))
            keys = ".".join(["k"] * deepest)
            assert await store.count("notes", f"payload.{keys} = 1") == 0
            if "FilterError" in cell:
                with pytest.raises(aiovec.FilterError):
                    await store.count("notes", f"payload.{keys}.k.k = 1")


def test_the_table_of_the_remote_backend_is_complete() -> None:
    able, missing = (set(re.findall(r"`([\w-]+)`", cell)) for cell in (
        remote_rows()["abilities"][0], remote_rows()["missing abilities"][0]
    ))  # fmt: skip
    assert able | missing == set(ABILITIES)
    assert not able & missing


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_lines_of_the_switch(backend: str, tmp_path: Path) -> None:
    lines = blocks("docs/reference/configuration.md", "toml")[0]
    assert lines.count('"sqlite"') == 1
    (tmp_path / "aiovec.toml").write_text(lines.replace('"sqlite"', f'"{backend}"'))
    async with aiovec.connect(config=tmp_path / "aiovec.toml") as store:
        assert store.backend_name == backend
        assert (tmp_path / "data") == Path(store.target).parent
