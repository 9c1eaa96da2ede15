"""Targets: folders with any name, memory, secrets that are not shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aiovec
from aiovec import ConfigError, Schema
from aiovec._settings.load import retrieval_model
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings
from aiovec_lancedb.target import StoreTarget

from .support import SMALL, ids_in, numbered, opened

SECRET = "hush-hush"


@pytest.mark.parametrize("name", ["a b", "ü%20&", "x'y", "50%", ".hidden", "deep/er/still"])
async def test_folders_with_odd_names(tmp_path: Path, name: str) -> None:
    target = f"lancedb://{tmp_path / name}"
    async with aiovec.connect(target) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(3))
        assert store.target == str(tmp_path / name)
    assert (tmp_path / name / "notes.lance").is_dir()
    async with aiovec.connect(target) as store:
        assert await store.count("notes") == 3


async def test_the_toml_names_the_place(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nbackend = "lancedb"\nlancedb_url = "data/notes"\ndim = 3\n')
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "lancedb"
        await store.create_table("notes")
        assert await store.schema("notes") == Schema.context_vectors(3)
    assert (tmp_path / "data" / "notes" / "notes.lance").is_dir()


async def test_a_store_in_memory_is_private_and_leaves_nothing() -> None:
    async with aiovec.connect("memory://") as one, aiovec.connect("memory://") as two:
        await one.create_table("notes", SMALL)
        await one.insert("notes", numbered(3))
        assert await two.tables() == []
        await two.create_table("notes", SMALL)
        assert await asyncio.gather(one.count("notes"), two.count("notes")) == [3, 0]
        assert one.target == "memory://"
    async with aiovec.connect("memory://") as again:
        assert await again.tables() == []


async def test_a_managed_place_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANCEDB_API_KEY", raising=False)
    with pytest.raises(ConfigError) as caught:
        async with aiovec.connect("db://notes"):
            pass
    assert caught.value.key == "LANCEDB_API_KEY"


def test_what_a_managed_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCEDB_API_KEY", SECRET)
    settings = LancedbSettings(region="eu-1", host="http://127.0.0.1:1")
    told = StoreTarget("db://notes").connection_options(settings)
    assert told.pop("client_config").timeout_config.read_timeout
    assert told == {
        "api_key": SECRET, "region": "eu-1", "host_override": "http://127.0.0.1:1",
    }  # fmt: skip
    assert "host_override" not in StoreTarget("db://notes").connection_options(LancedbSettings())


async def test_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCEDB_API_KEY", SECRET)
    options = {"aws_secret_access_key": SECRET, "aws_endpoint": "http://127.0.0.1:1",
               "allow_http": "true", "aws_region": "x", "aws_access_key_id": SECRET}  # fmt: skip
    own = LancedbSettings(storage_options=options)
    settings = await asyncio.to_thread(lambda: retrieval_model()(lancedb=own))
    backend = LancedbBackend(f"s3://{SECRET}@bucket/path?token={SECRET}", settings.lancedb)
    shown = [backend.target, repr(backend), str(settings), repr(settings), repr(settings.lancedb)]
    with pytest.raises(aiovec.AiovecError) as caught:
        async with asyncio.timeout(60):
            await backend.open()
    await backend.close()
    shown += [str(caught.value), repr(caught.value)]
    assert not [text for text in shown if SECRET in text]
    passed = StoreTarget("s3://bucket/path").connection_options(settings.lancedb)
    assert passed["storage_options"].items() >= options.items()


def test_a_wrong_option_does_not_show_its_value(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text(f'[retrieval.lancedb]\nstorage_options = {{ a = ["{SECRET}"], b = 1234567 }}')

    async def connect() -> None:
        async with aiovec.connect(config=config):
            pass

    with pytest.raises(ConfigError) as caught:
        asyncio.run(connect())
    assert SECRET not in str(caught.value)
    assert "1234567" not in str(caught.value)
    assert "storage_options" in str(caught.value)


async def test_two_names_of_one_folder(tmp_path: Path) -> None:
    """A link and the folder itself are one place, so their writers take turns."""
    (tmp_path / "real").mkdir()
    try:
        (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    async with opened(tmp_path / "real") as one, opened(tmp_path / "link") as two:
        await one.create_table("notes", SMALL)
        calls = [(one if n % 2 else two).upsert("notes", numbered(3)) for n in range(20)]
        await asyncio.gather(*calls)
        assert await ids_in(one) == ["r00000", "r00001", "r00002"]


async def test_closing_before_opening() -> None:
    backend = LancedbBackend("memory://", LancedbSettings())
    await backend.close()
    with pytest.raises(aiovec.StoreClosedError):
        await backend.tables()
