"""The meaning of a target's text, and paths that belong to another kind of store."""

from __future__ import annotations

import os
from asyncio import to_thread
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import case

import aiovec
from aiovec import ConfigError, Schema
from aiovec.backend import redacted
from aiovec.backend.place import find_place

URLS = {
    ":memory:": ("sqlite", ":memory:"),
    "sqlite://:memory:": ("sqlite", ":memory:"),
    "sqlite:///my%20notes.db": ("sqlite", "/my%20notes.db"),
    "SQLite:///data/notes.db": ("sqlite", "/data/notes.db"),
    "C://data/notes.db": ("sqlite", os.path.abspath("C://data/notes.db")),
    "lancedb://:memory:": ("lancedb", "memory://"),
    "lancedb:///data/notes": ("lancedb", "/data/notes"),
    "lancedb://notes": ("lancedb", os.path.abspath("notes")),
    "lancedb://~/notes": ("lancedb", os.path.expanduser("~/notes")),
    "s3://bucket/notes?region=x": ("lancedb", "s3://bucket/notes?region=x"),
    "gs://bucket/notes": ("lancedb", "gs://bucket/notes"),
    "az://box/notes": ("lancedb", "az://box/notes"),
    "db://notes": ("lancedb", "db://notes"),
    "http://127.0.0.1:4002": ("remote", "http://127.0.0.1:4002"),
    "https://host/x": ("remote", "https://host/x"),
}
SHOWN = {
    "/a@b/notes?x.db": "/a@b/notes?x.db",
    "http://[::1]:4002": "http://[::1]:4002",
    "http://ann:secret@host:4002/x": "http://***@host:4002/x",
    "http://ann:sec/ret@host/x": "http://***@host/x",
    "http://ann:se@c?ret@host/x": "http://***@host/x",
    "http://host/x?token=secret": "http://host/x?***",
    "http://host/x#secret": "http://host/x#***",
    "s3://key:secret@bucket/x?y=secret#secret": "s3://***@bucket/x?***",
}


@pytest.mark.skipif(os.name == "nt", reason="paths of Windows look otherwise")
def test_urls() -> None:
    for text, expected in URLS.items():
        with case(text):
            place = find_place(text)
            assert (place.backend, place.address) == expected
    for text in ("sqlite://", "lancedb://", "sqlite:///x.db?mode=ro", "sqlite:///x#y"):
        with case(text), pytest.raises(ConfigError):
            find_place(text)
    for text, shown in SHOWN.items():
        with case(text):
            assert redacted(text) == shown


async def test_which_paths_are_files_and_which_are_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    await to_thread(home.mkdir)
    await to_thread((tmp_path / "folder.v1").mkdir)
    await to_thread((tmp_path / "nosuffix").write_bytes, b"")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path)
    cases: dict[Any, str] = {
        "notes.db": "notes.db",
        Path("path.db"): "path.db",
        "a/b/notes.db": "a/b/notes.db",
        "plain": "plain/vectors.sqlite",
        "with.dots/": "with.dots/vectors.sqlite",
        "folder.v1": "folder.v1/vectors.sqlite",
        ".hidden": ".hidden/vectors.sqlite",
        "nosuffix": "nosuffix",
        "sqlite://url.db": "url.db",
        f"sqlite://{tmp_path}/url": "url/vectors.sqlite",
        "~/notes.db": "home/notes.db",
        Path("~") / "notes": "home/notes/vectors.sqlite",
    }
    for target, place in cases.items():
        with case(target):
            async with aiovec.connect(target) as store:
                assert store.target == str(tmp_path / place)
            assert (tmp_path / place).is_file()
    with pytest.raises(ConfigError, match="NUL"):
        await aiovec.connect("a\0b.db")


async def filled(target: str | Path) -> None:
    async with aiovec.connect(target) as store:
        await store.create_table("t", Schema(2))
        await store.insert("t", [{"id": "a", "embedding": [1, 2]}])


async def test_a_folder_of_lancedb_is_no_sqlite_store(tmp_path: Path) -> None:
    """The error names the right target, which works, and nothing is made in the folder."""
    pytest.importorskip("lancedb")
    folder = tmp_path / "notes"
    config = tmp_path / "aiovec.toml"
    await filled(f"lancedb://{folder}")
    await to_thread(config.write_text, '[retrieval]\nsqlite_path = "notes"\n')
    before = sorted(os.listdir(folder))
    ways: tuple[dict[str, Any], ...] = (
        {"target": folder}, {"target": str(folder / "t.lance")},
        {"target": folder, "read_only": True}, {"config": config},
    )  # fmt: skip
    for way in ways:
        with case(way), pytest.raises(ConfigError, match="lancedb://") as caught:
            await aiovec.connect(**way)
    assert sorted(os.listdir(folder)) == before
    async with aiovec.connect(caught.value.accepted or "") as store:
        assert await store.count("t") == 1
    for name in ("new.lance", "new.lancedb"):  # which would become SQLite files
        with pytest.raises(ConfigError, match="would become a SQLite file; open it as") as caught:
            await aiovec.connect(tmp_path / name)
        assert not (tmp_path / name).exists()
        assert (caught.value.accepted or "").startswith("lancedb://")


async def test_a_sqlite_store_beside_folders_of_that_name(tmp_path: Path) -> None:
    """A file under such a name, and any other folder, are opened as ever."""
    await filled(tmp_path / "old.db")
    await to_thread((tmp_path / "old.db").rename, tmp_path / "old.lance")
    async with aiovec.connect(tmp_path / "old.lance") as store:
        assert await store.count("t") == 1
    await to_thread((tmp_path / "data" / "x.lance").mkdir, parents=True)
    await filled(tmp_path / "data")
    assert (tmp_path / "data" / "vectors.sqlite").is_file()
