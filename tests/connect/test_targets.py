"""What a target's text means."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from aiovec import ConfigError
from aiovec.backend import is_url, local_path, locate, redacted
from aiovec_sqlite.plugin import make_folder_of, store_file


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("notes.db", "sqlite", "notes.db"),
        ("/data/notes", "sqlite", "/data/notes/vectors.sqlite"),
        (":memory:", "sqlite", ":memory:"),
        ("C:\\data\\notes.db", "sqlite", "C:\\data\\notes.db"),
        ("C://data/notes.db", "sqlite", "C://data/notes.db"),
        ("sqlite:///data/notes.db", "sqlite", "/data/notes.db"),
        ("sqlite://notes.db", "sqlite", "notes.db"),
        ("SQLite:///data/notes.db", "sqlite", "/data/notes.db"),
        ("sqlite:///my%20notes.db", "sqlite", "/my%20notes.db"),
        ("sqlite:///:memory:", "sqlite", ":memory:"),
        ("sqlite://:memory:", "sqlite", ":memory:"),
        ("lancedb:///data/notes", "lancedb", "/data/notes"),
        ("lancedb://notes", "lancedb", "notes"),
        ("s3://bucket/notes?region=x", "lancedb", "s3://bucket/notes?region=x"),
        ("gs://bucket/notes", "lancedb", "gs://bucket/notes"),
        ("az://box/notes", "lancedb", "az://box/notes"),
        ("db://notes", "lancedb", "db://notes"),
        ("http://127.0.0.1:4002", "remote", "http://127.0.0.1:4002"),
        ("https://host/x", "remote", "https://host/x"),
    ],
)
def test_the_backend_and_its_address(text: str, name: str, address: str) -> None:
    location = locate(text)
    plain = re.match("[a-z0-9]{2,}://", address) or address == ":memory:"
    assert location.backend == name
    assert location.address == (address if plain else os.path.abspath(address))


@pytest.mark.skipif(os.name != "nt", reason="drive letters are a thing of Windows")
def test_a_drive_letter_in_a_url() -> None:
    assert locate("sqlite:///C:/data/notes.db").address == os.path.abspath("C:/data/notes.db")


@pytest.mark.skipif(os.name == "nt", reason="on Windows C: is a drive")
def test_no_drive_letter_elsewhere() -> None:
    assert locate("sqlite:///C:/data/notes.db").address == "/C:/data/notes.db"


@pytest.mark.parametrize(
    "text", ["sqlite://", "lancedb://", "sqlite:///x.db?mode=ro", "sqlite:///x#y"]
)
def test_urls_without_a_path_or_with_options(text: str) -> None:
    with pytest.raises(ConfigError):
        locate(text)


def test_which_paths_are_directories(tmp_path: Path) -> None:
    file, folder = tmp_path / "nosuffix", tmp_path / "folder.v1"
    file.write_bytes(b"")
    folder.mkdir()
    assert store_file(str(tmp_path / "notes.db")) == str(tmp_path / "notes.db")
    assert store_file(str(tmp_path / "notes")) == str(tmp_path / "notes" / "vectors.sqlite")
    assert store_file(str(tmp_path / "notes.d") + os.sep) == str(
        tmp_path / "notes.d" / "vectors.sqlite"
    )
    assert store_file(str(folder)) == str(folder / "vectors.sqlite")
    assert store_file(str(file)) == str(file)
    assert store_file(str(tmp_path / ".hidden")) == str(tmp_path / ".hidden" / "vectors.sqlite")
    assert locate(":memory:").in_memory
    assert sorted(os.listdir(tmp_path)) == ["folder.v1", "nosuffix"], "nothing is made by asking"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    make_folder_of(tmp_path / "a" / "b" / "x.db")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot hold a store"):
        make_folder_of(tmp_path / "file" / "x.db")
    with pytest.raises(ConfigError, match="NUL"):
        store_file(str(tmp_path / "a\0b.db"))


def test_local_paths(tmp_path: Path) -> None:
    assert local_path("x.db", tmp_path) == str(tmp_path / "x.db")
    assert local_path("../x.db", tmp_path) == str(tmp_path.parent / "x.db")
    assert local_path("~/x.db", tmp_path) == os.path.join(os.path.expanduser("~"), "x.db")
    assert local_path("folder/", tmp_path) == str(tmp_path / "folder") + os.sep
    assert local_path("s3://bucket/../x", tmp_path) == "s3://bucket/../x"
    assert local_path(":memory:", tmp_path) == ":memory:"
    assert not is_url("C://x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("notes.db", "notes.db"),
        ("/a@b/notes?x.db", "/a@b/notes?x.db"),
        ("http://host:4002/x", "http://host:4002/x"),
        ("http://[::1]:4002", "http://[::1]:4002"),
        ("http://ann:secret@host:4002/x", "http://***@host:4002/x"),
        ("http://secret@host/x", "http://***@host/x"),
        ("http://ann:sec/ret@host/x", "http://***@host/x"),
        ("http://ann:se@c?ret@host/x", "http://***@host/x"),
        ("http://ann:123/secret@host/x", "http://***@host/x"),
        ("http://host/x?token=secret", "http://host/x?***"),
        ("http://host/x#secret", "http://host/x#***"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://key:secret@bucket/x?y=secret#secret", "s3://***@bucket/x?***"),
        ("toy://secret@here", "toy://***@here"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert "secret" not in redacted(text)
