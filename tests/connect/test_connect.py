"""Opening and closing: once, cancelled, without asyncio, and backends of other packages."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.connect import toy
from tests.connect.toy import Toy, install
from tests.contract.base import case
from tests.harness.waiting import until

import aiovec
from aiovec import AiovecError, BackendNotInstalledError, ConfigError, VectorStore, connect, restore


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Toy]:
    """The backends of the kind "toy" that were made."""
    install(
        monkeypatch, tmp_path / "site", toy="ToyPlugin", unusable="GivesNoBackend",
        misnamed="ToyPlugin", function="no_plugin", missing="NeedsAModule",
        absent="aiovec_package_that_nobody_has:Plugin", nameless="there_is_no_such_name",
    )  # fmt: skip
    return toy.created


@pytest.mark.slow  # the process waits ten seconds for the opening when it ends
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_an_opening_that_hangs_holds_up_neither_its_caller_nor_the_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aiovec.toml")  # a read of it waits as one on a dead network share does
    code = """
import asyncio, aiovec
async def main():
    try:
        await asyncio.wait_for(aiovec.connect(config="aiovec.toml"), 0.5)
    except TimeoutError:
        print("given up", flush=True)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


async def test_an_opening_is_awaited_or_entered_once(made: list[Toy], tmp_path: Path) -> None:
    opening = connect("toy://x")
    assert made == []
    store = await opening
    assert isinstance(store, VectorStore)
    assert (store.target, made[0].done) == ("toy://x", ["open"])
    with pytest.raises(RuntimeError, match="again"):
        await opening
    await store.close()
    async with connect("toy://x") as store:
        assert made[1].done == ["open"]
        await store.close()
    with pytest.raises(OSError, match="broken"):
        await connect("toy://broken")
    assert [backend.done for backend in made] == [["open", "close"]] * 3


async def test_a_backend_that_fails_to_close_is_closed_once(made: list[Toy]) -> None:
    store = await connect("toy://stuck")
    with pytest.raises(OSError, match="does not close"):
        await store.close()
    await store.close()
    with pytest.raises(AiovecError, match="closed"):
        await store.tables()
    assert made[-1].done == ["open", "close"]


async def test_a_cancelled_opening_closes(made: list[Toy]) -> None:
    async def opened() -> VectorStore:
        return await connect("toy://slow")

    opening = asyncio.ensure_future(opened())
    await until(lambda: made and made[0].done)
    opening.cancel()
    await asyncio.sleep(0)
    opening.cancel()  # once more, while it closes
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert made[0].done == ["open", "close"]


def test_without_asyncio_opening_says_so(tmp_path: Path) -> None:
    trio = pytest.importorskip("trio")

    async def enter() -> None:
        async with connect(tmp_path / "notes.db"):
            pass

    with pytest.raises(AiovecError, match="asyncio"):
        trio.run(enter)
    with pytest.raises(AiovecError, match="asyncio"):
        connect(tmp_path / "notes.db").__await__().send(None)
    assert not list(tmp_path.iterdir())


# Settings


async def test_a_target_takes_the_settings_of_the_file_and_the_environment(
    made: list[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text(
        '[retrieval]\nbackend = "toy"\ndim = 5\ntoy_url = "toy://y"\n[retrieval.toy]\nsize = 3'
    )
    async with connect(config=config) as store:
        assert (store.target, made[-1].settings.size) == ("toy://y", 3)
    for dim in (5, 6):
        async with connect(":memory:", config=config) as store:
            await store.create_table("notes")
            assert (await store.schema("notes")).dim == dim
        monkeypatch.setenv("AIOVEC_RETRIEVAL__DIM", "6")


# Errors


async def test_a_place_that_cannot_hold_a_store_or_a_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ConfigError, match="cannot hold a store"):
        await connect("file.txt/notes.db")
    wrong: Any
    for wrong in ("", b"", b"x.db", 3, ["x"], object()):
        with case(wrong), pytest.raises(ConfigError, match="backup"):
            await restore(wrong, ":memory:")
    async with connect(tmp_path / "n.db") as store:
        with pytest.raises(aiovec.InvalidArgumentError):
            await store.backup(f"{tmp_path}/\ud800")


async def test_a_backend_that_is_missing_or_unusable_is_named(
    made: list[Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("missing", "absent"):
        with pytest.raises(BackendNotInstalledError, match='pip install "toys"') as missing:
            await connect(f"{name}://x")
        assert isinstance(missing.value.__cause__, ModuleNotFoundError)
    for name in ("unusable", "nameless", "misnamed", "function"):
        with case(name), pytest.raises(ConfigError, match="unusable"):
            await connect(f"{name}://x")
    for name in [name for name in sys.modules if name.startswith("aiovec_remote.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(BackendNotInstalledError, match=r'pip install "aiovec\[remote\]"') as caught:
        await connect("http://127.0.0.1:4002")
    assert (caught.value.backend, caught.value.extra) == ("remote", "aiovec[remote]")


async def test_a_backend_installed_while_the_process_runs_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a notebook does it, into a folder that was searched before."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(ConfigError, match="toy"):
        await connect("toy://x")
    await asyncio.to_thread(install, monkeypatch, site, toy="ToyPlugin")
    async with connect("toy://x"):
        assert toy.created[0].done == ["open"]
