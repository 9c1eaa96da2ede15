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
KNOWN = r"sqlite://.*lancedb://.*s3://.*http://"
WAYS = r"connect\('notes.db'\).*config=.*AIOVEC_CONFIG.*aiovec.toml"
IN_ETC, FILE, BACKEND = {"config": "etc/aiovec.toml"}, "AIOVEC_CONFIG", "AIOVEC_RETRIEVAL__BACKEND"


class Error(str):
    """Words of a ConfigError."""


def to(target: Any) -> dict[str, Any]:
    return {"target": target}


def in_etc(line: str) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """A file in another folder, which names the store."""
    return IN_ETC, {"etc/aiovec.toml": line}, {}


# The arguments of ``connect``, TOML files with a line of [retrieval], the environment, and the
# address of the store, or the error. {} is the current folder, in which some paths exist.
PLACES: list[tuple[dict[str, Any], dict[str, str], dict[str, str], str, str | Error]] = [
    *((to(target), {}, {}, "sqlite", place) for target, place in {
        "notes.db": "{}/notes.db", Path("path.db"): "{}/path.db", "a/b/notes.db": "{}/a/b/notes.db",
        "plain": "{}/plain/vectors.sqlite", "with.dots/": "{}/with.dots/vectors.sqlite",
        "folder.v1": "{}/folder.v1/vectors.sqlite", ".hidden": "{}/.hidden/vectors.sqlite",
        "nosuffix": "{}/nosuffix", "sqlite://url.db": "{}/url.db",
        "~/notes.db": "{}/home/notes.db", Path("~") / "notes": "{}/home/notes/vectors.sqlite",
        ":memory:": ":memory:", "sqlite://:memory:": ":memory:",
        "SQLite:///data/notes.db": "/data/notes.db",
        "sqlite:///data/my%20notes.db": "/data/my%20notes.db",
        "C://data/notes.db": "{}/C:/data/notes.db",
    }.items()),
    *((to(target), {}, {}, "lancedb", place) for target, place in {
        "lancedb://:memory:": "memory://", "lancedb:///data/notes": "/data/notes",
        "lancedb://notes": "{}/notes", "lancedb://~/notes": "{}/home/notes",
        **dict.fromkeys(["s3://bucket/notes?region=x"], "s3://bucket/notes?region=x"),
        "gs://bucket/notes": "gs://bucket/notes", "az://box/notes": "az://box/notes",
        "db://notes": "db://notes",
    }.items()),
    (to("https://host/x"), {}, {}, "remote", "https://host/x"),
    # The file, and its folder
    (*in_etc(""), "sqlite", "{}/etc/aiovec.db"),
    (*in_etc('sqlite_path = "x"'), "sqlite", "{}/etc/x/vectors.sqlite"),
    (*in_etc('sqlite_path = "sqlite://x.db"'), "sqlite", "{}/etc/x.db"),
    (*in_etc('sqlite_path = ":memory:"'), "sqlite", ":memory:"),
    *((*in_etc(f'backend = "lancedb"\nlancedb_url = "{url}"'), "lancedb", place)
      for url, place in {
          "data/x": "{}/etc/data/x", "../x": "{}/x", "~/x": "{}/home/x", "s3://b/x": "s3://b/x",
      }.items()),
    (to("notes.db") | IN_ETC, {"etc/aiovec.toml": 'backend = "lancedb"'}, {}, "sqlite",
     "{}/notes.db"),
    (to(":memory:"), {}, {BACKEND: "lancedb"}, "sqlite", ":memory:"),
    # No arguments
    ({}, {"aiovec.toml": ""}, {}, "sqlite", "{}/aiovec.db"),
    ({}, {"aiovec.toml": ""}, {FILE: ""}, "sqlite", "{}/aiovec.db"),
    ({}, {"aiovec.toml": "", "etc/other.toml": ""}, {FILE: "etc/other.toml"}, "sqlite",
     "{}/etc/aiovec.db"),
    ({}, {"aiovec.toml": ""}, {BACKEND: "lancedb"}, "lancedb", "{}/aiovec.lance"),
    ({}, {}, {}, "", Error(WAYS)),
    ({}, {"aiovec.toml": ""}, {FILE: "nosuch.toml"}, "", Error(f"{FILE} names this file")),
    (*in_etc('backend = "nosuch"'), "", Error("must be one of sqlite, .*lancedb, .*remote")),
    # No store
    *((to(target), {}, {}, "", Error(KNOWN)) for target in (
        "nosuch://x", "ftp://ann:secret@host/x?k=secret",
    )),
    (to("sqlite:///none.db"), {}, {}, "", Error("write 'none.db' .* as SQLAlchemy means it")),
    (to("sqlite+aiosqlite:///a.db"), {}, {}, "", Error("a target is the path alone")),
    *((to(target), {}, {}, "", Error(".")) for target in (
        "sqlite://", "lancedb://", "sqlite:///x.db?mode=ro", "sqlite:///x#y",
    )),
    *((to(target), {}, {}, "", Error("Unicode")) for target in (
        "x\ud800.db", "sqlite:///x\ud800", "lancedb:///x\ud800", "\ud800://x",
    )),
    *((to(wrong), {}, {}, "", Error("target")) for wrong in ("", b"", b"x.db", 3, ["x"], object())),
    *(({"config": wrong}, {}, {}, "", Error("config")) for wrong in ("", b"", 3, ["x"])),
    (to("a\0b.db"), {}, {}, "", Error("NUL")),
]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="paths of Windows look otherwise")
def test_target_file_and_environment_give_a_location_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "folder.v1", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "nosuffix").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for options, files, environment, backend, expected in PLACES:
        with case((options, files, environment)), monkeypatch.context() as patched:
            for name, text in files.items():
                (tmp_path / name).write_text(f"[retrieval]\n{text}\n")
            for name, text in environment.items():
                patched.setenv(name, text)
            if isinstance(expected, Error):
                with pytest.raises(ConfigError, match=expected) as caught:
                    find_place(**options)
                assert "secret" not in str(caught.value)
            else:
                place = find_place(**options)
                assert (place.backend, place.address) == (backend, expected.format(tmp_path))
        for name in files:
            (tmp_path / name).unlink()
    for text, shown in SHOWN.items():
        with case(text):
            assert redacted(text) == shown


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
        with case(way), pytest.raises(ConfigError, match="lancedb://"):
            await aiovec.connect(**way)
    assert sorted(os.listdir(folder)) == before
    async with aiovec.connect(f"lancedb://{folder}") as store:
        assert await store.count("t") == 1
    for name in ("new.lance", "new.lancedb"):  # which would become SQLite files
        with pytest.raises(ConfigError, match="SQLite file; open it as lancedb://"):
            await aiovec.connect(tmp_path / name)
        assert not (tmp_path / name).exists()


async def test_a_sqlite_file_with_the_name_of_a_lancedb_folder_opens(tmp_path: Path) -> None:
    """A file under such a name, and any other folder, are opened as ever."""
    await filled(tmp_path / "old.db")
    await to_thread((tmp_path / "old.db").rename, tmp_path / "old.lance")
    async with aiovec.connect(tmp_path / "old.lance") as store:
        assert await store.count("t") == 1
    await to_thread((tmp_path / "data" / "x.lance").mkdir, parents=True)
    await filled(tmp_path / "data")
    assert (tmp_path / "data" / "vectors.sqlite").is_file()
