"""The tables of what the backends do differently: complete, and true."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.contract.base import ABILITIES

import aiovec

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
