"""Watched sources that are not SQLite tables."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from tests.harness.command import run
from tests.harness.packages import install
from tests.harness.waiting import until

import aiovec

pytestmark = pytest.mark.arrow

NEWS = """
from pathlib import Path
from aiovec_import.stores.sqlite import SqliteSource

class News(SqliteSource):
    def __init__(self, place, hints):
        if not Path("app.db").exists():
            raise OSError(f"nobody answers at news:{place}")
        super().__init__("app.db", hints)
"""


async def test_the_password_of_a_source_is_in_no_state_log_or_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    site = install(tmp_path / "site", "news", "[aiovec.sources]\nnews = news:News", news=NEWS)
    monkeypatch.syspath_prepend(site)
    with closing(sqlite3.connect("app.db")) as app, app:
        app.execute("CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT)")
        app.execute("INSERT INTO articles VALUES (1, 'on keys')")
    source = "news://app:its-secret@localhost/db#articles"
    async with (
        aiovec.connect("s.db", embedder="demo") as store,
        aiovec.watch(store, source, embed="body", every=0.05) as watching,
    ):
        await watching.caught_up()
        assert await store.count("articles") == 1
        await asyncio.to_thread(Path("app.db").rename, "moved.db")

        async def failed() -> bool:
            return "nobody answers" in (await watching.state()).error

        await until(failed)
        shown = f"{await watching.state()} {watching}"
        with pytest.raises(aiovec.AiovecError) as refused:
            async with aiovec.watch(store, source, embed="body", table="others"):
                pass
    assert "localhost" in shown
    assert "its-secret" not in f"{shown} {refused.value} {refused.value.__cause__} {caplog.text}"


async def test_two_tables_of_one_database_have_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site = install(tmp_path / "site", "news", "[aiovec.sources]\nnews = news:News", news=NEWS)
    monkeypatch.syspath_prepend(site)
    names = ["first-table", "Old news"]
    with closing(sqlite3.connect("app.db")) as app, app:
        for name in names:
            app.execute(f'CREATE TABLE "{name}" (id INTEGER PRIMARY KEY, body TEXT)')
    secrets = "news://app:its-secret@localhost/db?password=its-secret"
    for database in ("news:///db", "news://localhost/db", secrets):
        async with (
            aiovec.connect(tmp_path / f"{len(database)}.db", embedder="demo") as store,
            AsyncExitStack() as watches,
        ):
            for name in names:
                watch = aiovec.watch(store, f"{database}#{name}", embed="body")
                await watches.enter_async_context(watch)
            sources = [(await watching.state()).source for watching in store.watching]
        assert [source.partition("#")[2] for source in sources] == names
        assert "its-secret" not in f"{sources}"


def test_another_embedder_than_that_of_a_files_table_is_refused(tmp_path: Path) -> None:
    file, store = tmp_path / "rows.jsonl", tmp_path / "s.db"
    file.write_text(json.dumps({"id": "a", "body": "on keys"}) + "\n")
    embed = ("--embed", "body", "-s", store)
    assert run("import", file, *embed, "--embedder", "demo").code == 0
    other = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "dim": 8}
    watch = ("watch", str(file), *map(str, embed), "--embedder", json.dumps(other))
    command = [sys.executable, "-m", "aiovec", *watch]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "vectors of two models cannot be compared" in done.stderr
