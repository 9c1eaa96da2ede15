"""B21, B23: a path that belongs to another store, or to the store itself."""

from __future__ import annotations

import asyncio
import os
from asyncio import to_thread
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # a fixture
from tests.sqlite.support import check_file, names_in

import aiovec
import aiovec_migrate
from aiovec import AiovecError, ConfigError, Schema
from aiovec._transfer import save


async def filled(target: str | Path) -> None:
    async with aiovec.connect(target) as store:
        await store.create_table("t", Schema(2))
        await store.insert("t", [{"id": "a", "embedding": [1, 2]}])


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("inside", ["", "t.lance"])
async def test_a_folder_of_lancedb_is_no_sqlite_store(
    tmp_path: Path, kind: type, inside: str
) -> None:
    """B21: it made an empty store inside it. The error names the right target, which works."""
    pytest.importorskip("lancedb")
    folder = tmp_path / "notes.lance"
    await filled(f"lancedb://{folder}")
    before = await names_in(folder)
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="lancedb://") as caught:
            await aiovec.connect(kind(folder / inside), read_only=read_only)
    assert await names_in(folder) == before
    assert caught.value.accepted == f"lancedb://{folder}"
    async with aiovec.connect(caught.value.accepted) as store:
        assert await store.count("t") == 1


@pytest.mark.parametrize("name", ["new.lance", "new.lancedb"])
async def test_a_new_path_with_a_name_of_lancedb(tmp_path: Path, name: str) -> None:
    """It made a SQLite file of that name, and whoever meant LanceDB did not notice."""
    pytest.importorskip("lancedb")
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="would become a SQLite file; open it as") as caught:
            await aiovec.connect(tmp_path / name, read_only=read_only)
    assert not await names_in(tmp_path)
    async with aiovec.connect(caught.value.accepted or "") as store:
        assert store.backend_name == "lancedb"


async def test_a_file_that_was_made_under_such_a_name_opens(tmp_path: Path) -> None:
    await filled(tmp_path / "old.db")
    await to_thread((tmp_path / "old.db").rename, tmp_path / "old.lance")
    async with aiovec.connect(tmp_path / "old.lance") as store:
        assert await store.count("t") == 1


async def test_the_toml_cannot_mean_it_either(tmp_path: Path) -> None:
    """B21."""
    pytest.importorskip("lancedb")
    await filled(f"lancedb://{tmp_path}/notes")
    config = tmp_path / "aiovec.toml"
    await to_thread(config.write_text, '[retrieval]\nsqlite_path = "notes"\n')
    with pytest.raises(ConfigError, match="lancedb://"):
        await aiovec.connect(config=config)


async def test_a_folder_that_has_both(tmp_path: Path) -> None:
    """A store that was made before in such a folder is opened as before."""
    pytest.importorskip("lancedb")
    await filled(tmp_path / "both")
    await filled(f"lancedb://{tmp_path}/both")
    async with aiovec.connect(tmp_path / "both") as store:
        assert store.backend_name == "sqlite"
        assert await store.count("t") == 1


async def test_any_other_folder_is_as_before(tmp_path: Path) -> None:
    await to_thread((tmp_path / "data" / "x.lance").mkdir, parents=True)
    await filled(tmp_path / "data")
    assert "vectors.sqlite" in await names_in(tmp_path / "data")


@pytest.mark.parametrize("word", ["lance", "nosuch", "sqlite3"])
async def test_a_bare_word_is_no_new_store_to_a_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """B21: `--to lance` meant a folder of that name, and made a store."""
    monkeypatch.chdir(tmp_path)
    await filled(tmp_path / "notes.db")
    for call in (aiovec_migrate.plan, aiovec_migrate.run):
        with pytest.raises(ConfigError, match=f"{word!r} is neither a backend .*lancedb"):
            await call("notes.db", word)
    await to_thread(Path("nosuch").mkdir, exist_ok=True)
    if word == "nosuch":  # it exists, so it is meant
        assert not (await aiovec_migrate.plan("notes.db", word)).problems
    assert {"lance", "sqlite3"}.isdisjoint(await names_in(tmp_path))


async def test_a_source_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing `run --from nope.db` made the file."""
    monkeypatch.chdir(tmp_path)
    await filled(tmp_path / "notes.db")
    await filled(tmp_path / "other.db")
    journal = tmp_path / "journal.db"
    await aiovec_migrate.run("notes.db", "new.db", journal=journal)
    for call in (
        lambda: aiovec_migrate.run("nope.db", "other.db", journal=tmp_path / "j2.db"),
        lambda: aiovec_migrate.run("nope.db", "new.db", journal=journal),
        lambda: aiovec_migrate.verify("nope.db", "other.db"),
        lambda: aiovec_migrate.verify("notes.db", "nope.db"),
    ):
        with pytest.raises(AiovecError, match=r"nope\.db"):
            await call()
        assert "nope.db" not in await names_in(tmp_path)


OWN = ["notes.db", "notes.db-wal", "notes.db-shm", "notes.db-journal", "link.db", "hard.db"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("name", OWN)
async def test_an_export_never_replaces_the_store(tmp_path: Path, name: str) -> None:
    """B23: `export notes.db t notes.db --overwrite` did."""
    path = tmp_path / "notes.db"
    await filled(path)
    await to_thread(os.symlink, path, tmp_path / "link.db")
    async with aiovec.connect(path) as store:
        await to_thread(os.link, path, tmp_path / "hard.db")
        for form in ("parquet", "jsonl", "numpy"):
            with pytest.raises(ConfigError, match=r"store itself|is a database"):
                await save(store, "t", tmp_path / name, form=form, overwrite=True)
        await store.insert("t", [{"id": "b", "embedding": [1, 2]}])
    assert await to_thread(check_file, path) == {"t": 2}


async def test_nor_another_database(tmp_path: Path) -> None:
    """B23: nor a store or a database beside it."""
    await filled(tmp_path / "notes.db")
    await filled(tmp_path / "other.db")
    async with aiovec.connect(tmp_path / "notes.db") as store:
        with pytest.raises(ConfigError, match="is a database"):
            await save(store, "t", tmp_path / "other.db", form="parquet", overwrite=True)
        await save(store, "t", tmp_path / "t.parquet")
        await save(store, "t", tmp_path / "t.parquet", overwrite=True)
    assert await to_thread(check_file, tmp_path / "other.db") == {"t": 1}


async def test_nor_a_file_of_a_folder_of_lancedb(tmp_path: Path) -> None:
    """B23."""
    pytest.importorskip("lancedb")
    folder = tmp_path / "notes"
    await filled(f"lancedb://{folder}")
    async with aiovec.connect(f"lancedb://{folder}") as store:
        for path in (folder / "x.parquet", folder / "t.lance" / "x.parquet", folder):
            with pytest.raises(ConfigError, match="store itself"):
                await save(store, "t", path, form="parquet", overwrite=True)


def test_the_command(tmp_path: Path, run: Run) -> None:
    """B23."""
    path = tmp_path / "notes.db"
    asyncio.run(filled(path))
    done = run("export", path, "t", path, "--format", "parquet", "--overwrite")
    assert done.code == 1
    assert "store itself" in done.err
    assert check_file(path) == {"t": 1}
