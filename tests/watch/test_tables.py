"""A store follows a table of an app's SQLite database."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.contract.base import case
from tests.harness.command import run
from tests.harness.waiting import until

import aiovec
from aiovec import AiovecError, ConfigError, VectorStore

from .apps import SHAPES, App, contents, follower, imported, writer

WATCH: dict[str, Any] = {"embed": "body", "text": ["title"]}
pytestmark = pytest.mark.arrow


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with closing(App(tmp_path)) as made:
        yield made


def opened(folder: Path) -> Any:
    return aiovec.connect(folder / "s.db", embedder="demo")


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=() if s == "id" else pytest.mark.slow) for s in SHAPES]
)
async def test_a_watched_table_is_what_a_first_import_gives(shape: str, tmp_path: Path) -> None:
    with closing(App(tmp_path, shape, journal="wal" if shape != "two" else "delete")) as app:
        async with opened(tmp_path) as store:
            for part in range(3):  # rows are also written while no watch runs
                for _ in range(30):
                    app.write()
                async with aiovec.watch(store, app.source, **WATCH) as watching:
                    for _ in range(60):
                        await asyncio.to_thread(app.write)
                    await watching.caught_up()
                    assert await contents(store) == await imported(app, tmp_path / f"{part}")
        assert app.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


CHANGES = {
    "add a column": "ALTER TABLE articles ADD COLUMN day TEXT DEFAULT 'monday'",
    "rename a column": "ALTER TABLE articles RENAME COLUMN author TO writer",
    "rename the key": "ALTER TABLE articles RENAME COLUMN id TO number",
    "drop a column": "ALTER TABLE articles DROP COLUMN author",
    "vacuum": "DELETE FROM articles WHERE id < 20; VACUUM; UPDATE articles SET body = 'new'",
    "make it anew": (
        "BEGIN; CREATE TABLE made AS SELECT * FROM articles WHERE id > 9; DROP TABLE articles;"
        "CREATE TABLE articles (id INTEGER PRIMARY KEY, title TEXT, body TEXT);"
        "INSERT INTO articles SELECT id, title, body FROM made; DROP TABLE made; COMMIT;"
        "UPDATE articles SET title = 'x' WHERE id = 12"
    ),
    "change the tables": (
        "ALTER TABLE articles RENAME TO older;"
        "CREATE TABLE articles (id INTEGER PRIMARY KEY, title TEXT, body TEXT);"
        "INSERT INTO articles SELECT id + 5, title, body FROM older"
    ),
    "another database": (
        "ATTACH ':memory:' AS other; CREATE TABLE other.articles (id); "
        "INSERT INTO other.articles VALUES (1); DELETE FROM main.articles WHERE id = 1"
    ),
    "replace by the key": "INSERT OR REPLACE INTO articles (id, title, body) VALUES (3, 'a', 'b')",
}


@pytest.mark.parametrize(
    "followed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["followed", "meanwhile"]
)
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_the_schema_is_followed(
    change: str, followed: bool, app: App, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        async with aiovec.watch(store, app.source, **WATCH) as watching:
            await watching.caught_up()
            if followed:
                await asyncio.to_thread(app.db.executescript, CHANGES[change])
                await watching.caught_up()
        if not followed:
            app.db.executescript(CHANGES[change])
        async with aiovec.watch(store, app.source, **WATCH) as watching:
            await watching.caught_up()
            assert await contents(store) == await imported(app, tmp_path / "clean")


async def test_a_column_that_is_dropped_while_the_queue_is_made_is_gone(
    app: App, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Dropping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "creates a queue" in record.getMessage():
                log.removeHandler(self)
                with closing(sqlite3.connect(tmp_path / "app.db")) as db:
                    db.execute("ALTER TABLE articles DROP COLUMN author")

    log = logging.getLogger("aiovec.watch")
    log.addHandler(Dropping())
    caplog.set_level(logging.INFO, log.name)
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        async with asyncio.timeout(60):
            await watching.caught_up()
        assert await contents(store) == await imported(app, tmp_path / "fresh")


async def test_a_cascade_and_a_connection_that_attached_the_file_are_followed(
    app: App, tmp_path: Path
) -> None:
    app.db.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE owners (id INTEGER PRIMARY KEY);"
        "INSERT INTO owners VALUES (1);"
        "ALTER TABLE articles ADD COLUMN owner INT REFERENCES owners ON DELETE CASCADE;"
        "UPDATE articles SET owner = 1 WHERE id < 9"
    )
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        await watching.caught_up()
        app.db.execute("DELETE FROM owners")
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as other:
            other.execute("ATTACH ? AS shop", (str(app.path),))
            other.execute("UPDATE shop.articles SET body = 'attached' WHERE id = 20")
        await watching.caught_up()
        assert await store.count("articles") == 31
        assert await contents(store) == await imported(app, tmp_path / "clean")


async def test_a_key_that_is_no_utf8_is_set_aside_and_keeps_none_waiting(tmp_path: Path) -> None:
    with closing(App(tmp_path, "text")) as app:
        app.db.execute("INSERT INTO articles (id, body) VALUES (CAST(x'61ff' AS TEXT), 'torn')")
        async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
            async with asyncio.timeout(20):
                await watching.caught_up()
            (refused,) = (await watching.state()).refused
            assert refused.encode() == b"a?"
            app.db.execute("DELETE FROM articles WHERE body = 'torn'")
            async with asyncio.timeout(20):
                await watching.caught_up()
            assert (await watching.state()).refused == {}
            assert await contents(store) == await imported(app, tmp_path / "clean")


async def test_a_table_of_the_app_that_is_called_like_the_queue_stays(
    app: App, tmp_path: Path
) -> None:
    app.db.executescript(
        "CREATE TABLE aiovec_queue_articles (id INTEGER PRIMARY KEY, body TEXT);"
        "INSERT INTO aiovec_queue_articles VALUES (1, 'precious')"
    )
    async with opened(tmp_path) as store:
        with pytest.raises(ConfigError, match="aiovec_queue_articles"):
            async with aiovec.watch(store, app.source, **WATCH):
                pass
    assert await asyncio.to_thread(run_apart, ["watch", app.source, "--stop"]) == 1
    rows = app.db.execute("SELECT body FROM aiovec_queue_articles").fetchall()
    assert rows == [("precious",)]


async def test_a_table_that_is_gone_for_a_while_is_followed_again(app: App, tmp_path: Path) -> None:
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        await watching.caught_up()
        app.db.execute("DROP TABLE articles")
        await until(lambda: _failed(watching, "articles"))
        app.make()
        app.upsert(3)
        await watching.caught_up()
        assert await contents(store) == await imported(app, tmp_path / "clean")


async def test_a_file_that_was_replaced_is_followed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with closing(App(tmp_path, journal="delete")) as app:
            watch = aiovec.watch(store, app.source, **WATCH)
            watching = await watch.__aenter__()
            await watching.caught_up()
            with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
                app.db.backup(copy)
                copy.execute("UPDATE articles SET body = 'restored'")
                copy.commit()
        os.replace(tmp_path / "copy.db", app.path)
        await until(lambda: _has_text(store, "restored"))
        await watch.__aexit__(None, None, None)


async def _has_text(store: VectorStore, text: str) -> bool:
    return any(text in (row["body"] or "") for row in await store.find("articles"))


async def test_a_row_that_replace_removes_by_another_constraint_goes_with_the_next_comparison(
    app: App, tmp_path: Path
) -> None:
    app.db.execute("UPDATE articles SET tag = 'one' WHERE id = 1")
    async with opened(tmp_path) as store:
        async with aiovec.watch(store, app.source, **WATCH) as watching:
            await watching.caught_up()
            app.db.execute(
                "INSERT OR REPLACE INTO articles (id, body, tag) VALUES (90, 'b', 'one')"
            )
            await watching.caught_up()
            assert await store.exists("articles", ["1", "90"]) == {"1", "90"}
        arguments = ["import", app.source, "--embed", "body", "--delete", "-s", tmp_path / "s.db"]
        assert (await asyncio.to_thread(run_apart, arguments)) == 0
        assert await store.exists("articles", ["1", "90"]) == {"90"}


def run_apart(arguments: list[Any]) -> int:
    """Run a command in a separate process: another SQLite library must not open the app's file in
    this process."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "aiovec", *map(str, arguments)]
    return subprocess.run(command, check=False).returncode


async def test_threads_of_the_app_and_the_follower_share_the_file(app: App, tmp_path: Path) -> None:
    def write(seed: int) -> None:
        with closing(sqlite3.connect(app.path, timeout=60)) as db:
            for number in range(60):
                with db:
                    db.execute(
                        "UPDATE articles SET body = ? WHERE id = ?",
                        (f"{seed} {number}", number % 40),
                    )

    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        await asyncio.gather(*(asyncio.to_thread(write, seed) for seed in range(4)))
        await watching.caught_up()
        assert await contents(store) == await imported(app, tmp_path / "clean")
    assert app.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    "kills",
    [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.soak)],
)
async def test_killed_followers_and_apps_lose_nothing(kills: int, app: App, tmp_path: Path) -> None:
    for number in range(kills):
        processes = [follower(app, tmp_path / "s.db"), *(writer(app, number + n) for n in (0, 99))]
        try:
            assert await asyncio.to_thread(processes[0].stderr.readline)  # type: ignore[union-attr]
            await asyncio.sleep(app.chance.random())
        finally:
            app.chance.shuffle(processes)
            for process in processes:
                process.kill()
                await asyncio.to_thread(process.communicate)
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        await watching.caught_up()
        assert await contents(store) == await imported(app, tmp_path / "clean")
    assert app.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_transaction_of_the_app_keeps_no_earlier_commit_waiting(
    app: App, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        await watching.caught_up()
        app.upsert(3, "before")
        app.db.execute("BEGIN IMMEDIATE")
        app.upsert(4, "unseen")
        async with asyncio.timeout(60):
            await watching.caught_up()
        assert (await watching.state()).error == ""
        assert await _has_text(store, "before")
        assert not await _has_text(store, "unseen")
        app.db.execute("ROLLBACK")
        await watching.caught_up()
        assert await contents(store) == await imported(app, tmp_path / "clean")


async def test_the_state_is_told_while_the_app_holds_its_lock(tmp_path: Path) -> None:
    with closing(App(tmp_path, journal="delete")) as app:
        app.db.execute("BEGIN IMMEDIATE")
        async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:

            async def is_behind() -> bool:
                state = await watching.state()
                return state.seconds > 1 and state.waiting is None

            async with asyncio.timeout(3):  # the watch waits longer than this for the app's lock
                await until(is_behind)
            app.db.execute("COMMIT")
            await watching.caught_up()
            assert await store.count("articles") == 40
            app.db.execute("BEGIN EXCLUSIVE")  # this makes readers wait, too
            async with asyncio.timeout(3):
                assert (await watching.state()).waiting is None
            app.db.execute("COMMIT")


async def test_changes_with_nothing_new_are_written_twice_a_second_at_most(
    app: App, tmp_path: Path
) -> None:
    lance = pytest.importorskip("lancedb").connect(tmp_path / "lance")
    async with (
        aiovec.connect(f"lancedb://{tmp_path}/lance", embedder="demo") as store,
        aiovec.watch(store, app.source, **WATCH) as watching,
    ):
        await watching.caught_up()
        began, before = time.monotonic(), lance.open_table("articles").version
        for _ in range(30):
            app.db.execute("UPDATE articles SET id = id WHERE id = 1")
            await watching.caught_up()
        commits = lance.open_table("articles").version - before
        assert commits <= 2 * (time.monotonic() - began) + 2


async def test_another_process_takes_over_from_one_that_was_killed(
    app: App, tmp_path: Path
) -> None:
    first = follower(app, tmp_path / "s.db")
    try:
        await asyncio.to_thread(first.stderr.readline)  # type: ignore[union-attr]
        async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
            app.upsert(3, "standby")
            await watching.caught_up()  # by the other process
            assert not (await watching.state()).following
            assert await store.search_text("articles", "title")
            first.kill()
            app.upsert(4, "afterwards")
            await watching.caught_up()
            assert (await watching.state()).following
            assert "afterwards" in (await store.get("articles", ["4"]))[0]["body"]
    finally:
        first.kill()
        await asyncio.to_thread(first.communicate)


async def test_a_watch_that_is_left_as_it_begins_lets_the_next_one_follow(
    app: App, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store, asyncio.timeout(60):
        for pauses in range(4):
            async with aiovec.watch(store, app.source, **WATCH):
                for _ in range(pauses):
                    await asyncio.sleep(0)
            async with aiovec.watch(store, app.source, **WATCH) as watching:
                await watching.caught_up()


async def test_a_failing_embedder_is_tried_again_and_a_text_that_it_refuses_is_set_aside(
    app: App, tmp_path: Path
) -> None:
    down = False

    def embed(texts: list[str]) -> list[list[float]]:
        if down or any("poison" in text for text in texts):
            raise ValueError("no vector today")
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(embed, model="own", dim=2)
    async with aiovec.connect(tmp_path / "s.db", embedder=embedder) as store:
        app.upsert(7, "poison")
        async with aiovec.watch(store, app.source, **WATCH) as watching:
            await watching.caught_up()
            assert await store.count("articles") == 39
            state = await watching.state()
            assert list(state.refused) == ["7"]
            assert "no vector today" in state.refused["7"]
            down = True
            app.upsert(8, "late")
            await until(lambda: _failed(watching, "no vector today"))
            state = await watching.state()
            assert state.waiting == 1
            assert state.seconds > 0
            down = False
            app.upsert(7, "cured")
            await watching.caught_up()
            assert (await watching.state()).refused == {}
            bodies = {row.id: row["body"] for row in await store.get("articles", ["7", "8"])}
            assert [bodies[id].split()[0] for id in ("7", "8")] == ["cured", "late"]


async def _failed(watching: aiovec.Watching, text: str) -> bool:
    return text in (await watching.state()).error


async def test_a_watch_without_a_size_goes_on_with_that_of_an_earlier_one(
    app: App, tmp_path: Path
) -> None:
    pytest.importorskip("semantic_text_splitter")
    made = "SELECT name, sql, rootpage FROM sqlite_master ORDER BY name"
    app.upsert(1, "word. " * 50)
    async with opened(tmp_path) as store:
        async with aiovec.watch(store, app.source, embed="body", passages=True, chunk_size=80) as w:
            await w.caught_up()
        before, queue = await contents(store), app.db.execute(made).fetchall()
        assert len(before) > 42
        async with aiovec.watch(store, app.source) as watching:
            await watching.caught_up()
            # No row was queued again, and the next rows are cut in the same way.
            assert (await contents(store), app.db.execute(made).fetchall()) == (before, queue)
            app.upsert(2, "word. " * 50)
            await watching.caught_up()
            parts = await store.find("articles", "source = '2'", limit=None)
            assert len(parts) == len(before) - 39


async def test_a_dropped_table_of_the_store_is_copied_anew(app: App, tmp_path: Path) -> None:
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        await watching.caught_up()
        await store.drop_table("articles")
        app.upsert(1)
        await until(lambda: _has(store, 40))
    os.remove(tmp_path / "s.db")
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        await watching.caught_up()
        assert await store.count("articles") == 40


async def test_a_table_that_is_dropped_while_a_watch_stands_by_is_copied_anew(
    app: App, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store, opened(tmp_path) as other:
        async with aiovec.watch(store, app.source, **WATCH) as first:
            await first.caught_up()
            second = aiovec.watch(other, app.source, **WATCH)
            await second.__aenter__()
            await store.drop_table("articles")
        await until(lambda: _has(other, 40))
        await second.caught_up()
        await second.__aexit__(None, None, None)


async def _has(store: VectorStore, rows: int) -> bool:
    try:
        return await store.count("articles") == rows
    except AiovecError:
        return False


@pytest.mark.parametrize("way", ["view", "query", "read-only"])
async def test_what_can_have_no_trigger_is_compared(way: str, app: App, tmp_path: Path) -> None:
    app.db.execute("PRAGMA journal_mode=delete")  # in this mode, a reader makes writers wait
    app.db.execute("CREATE VIEW short AS SELECT id, title, body FROM articles WHERE author < 4")
    options: dict[str, Any] = {**WATCH, "every": 0.1, "table": "articles", "id_column": "id"}
    source = app.source
    if way == "view":
        source = f"{app.path}#short"
    elif way == "query":
        source, options["query"] = (
            str(app.path),
            "SELECT id, title, body FROM articles WHERE author < 4",
        )
    else:
        app.path.chmod(0o444)
        if os.access(app.path, os.W_OK):
            pytest.skip("this user writes to everything")
    async with opened(tmp_path) as store, aiovec.watch(store, source, **options) as watching:
        await watching.caught_up()
        before = await store.count("articles")
        app.path.chmod(0o644)
        app.db.execute("DELETE FROM articles WHERE author < 2")
        app.upsert(3, "seen")
        await until(
            lambda: _has(
                store,
                app.db.execute("SELECT count(*) FROM articles WHERE author < 4").fetchone()[0],
            )
        )
        await watching.caught_up()
        assert await store.count("articles") < before
    assert not app.db.execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger'").fetchall()


async def test_a_text_that_the_embedder_refuses_keeps_no_other_row_of_a_view_waiting(
    app: App, tmp_path: Path
) -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        if any("poison" in text for text in texts):
            raise ValueError("no vector today")
        return [[len(text), 1.0] for text in texts]

    app.db.execute("CREATE VIEW short AS SELECT id, title, body FROM articles")
    app.upsert(7, "poison")
    options: dict[str, Any] = {**WATCH, "every": 0.1, "id_column": "id"}
    embedder = aiovec.embedder(embed, model="own", dim=2)
    async with (
        aiovec.connect(tmp_path / "s.db", embedder=embedder) as store,
        aiovec.watch(store, f"{app.path}#short", **options) as watching,
    ):
        await watching.caught_up()
        assert await store.count("short") == 39

        async def is_set_aside() -> bool:  # each comparison reports it again
            return list((await watching.state()).refused) == ["7"]

        await until(is_set_aside)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("app.db#nothing", WATCH, "nothing"),
        ("app.db", WATCH, "app.db#TABLE"),
        ("none.db#articles", WATCH, "no file"),
        ("app.db#articles", {}, "embed"),
        ("app.db#plain", WATCH, "PRIMARY KEY"),
        ("s.db#articles", WATCH, "this store itself"),
        ("theirs", WATCH, "brings vectors of its own"),
        ("sqlite:app.db#articles", WATCH, "leave out sqlite:"),
    ],
)
async def test_a_source_that_cannot_be_watched_says_why(
    source: str, options: dict[str, Any], says: str, app: App, tmp_path: Path
) -> None:
    app.db.execute("CREATE TABLE plain (title TEXT, body TEXT)")
    if source == "theirs":  # a folder with a LanceDB store, which can be imported
        db = pytest.importorskip("lancedb").connect(tmp_path / source)
        db.create_table("docs", [{"id": "a", "body": "x", "vector": [1.0, 2.0]}])
    if "plain" in source:
        options = {**options, "id_column": "rowid"}
    async with opened(tmp_path) as store:
        place = source if source.startswith("sqlite:") else f"{tmp_path}/{source}"
        with pytest.raises(ConfigError, match=says):
            async with aiovec.watch(store, place, **options):
                pass
        assert store.watching == []


@pytest.mark.parametrize("options", [["--embed", "body"], ["--every", "3"], ["-s", "s.db"]])
def test_stop_takes_no_option_of_a_watch(options: list[str], app: App) -> None:
    before = app.path.read_bytes()
    done = run("watch", app.source, "--stop", *options)
    assert (done.code, "--stop takes no other option" in done.err) == (2, True)
    assert run("watch", app.source, "--embed", "body", "--dry-run").code == 2
    assert app.path.read_bytes() == before


def test_the_state_of_a_watch_is_printed_as_json_when_it_ends(app: App, tmp_path: Path) -> None:
    process = follower(app, tmp_path / "s.db", "--json")
    assert process.stderr is not None
    for line in process.stderr:
        if b"is up to date" in line:
            break
    process.terminate()
    out, _ = process.communicate(timeout=60)
    state = json.loads(out)
    assert process.returncode == 0
    assert (state["source"], state["table"]) == (app.source, "articles")
    assert (state["ready"], state["waiting"], state["error"]) == (True, 0, "")
    assert state["analyzer"] == "english"


@pytest.mark.parametrize("library", ["apsw", "pysqlite3"])
async def test_another_sqlite_library_in_the_process_is_refused(
    library: str, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each library would release the locks of the other; Peewee takes pysqlite3 by itself."""
    async with opened(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, ModuleType(library))
            with pytest.raises(ConfigError, match=rf"{library} is loaded.* aiovec watch"):
                async with aiovec.watch(store, app.source, **WATCH):
                    pass
        async with aiovec.watch(store, app.source, **WATCH) as watching:
            await watching.caught_up()
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, library, ModuleType(library))
                app.upsert(7, "late")

                async def tells() -> bool:
                    return library in (await watching.state()).error

                await until(tells, 30)
                assert "late" not in (await store.get("articles", ["7"]))[0]["body"]
            await watching.caught_up()
            assert "late" in (await store.get("articles", ["7"]))[0]["body"]


async def test_a_store_that_is_read_only_follows_nothing(app: App, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.tables()
    async with aiovec.connect(tmp_path / "s.db", read_only=True) as store:
        with pytest.raises(aiovec.UnsupportedError, match="read_only"):
            async with aiovec.watch(store, app.source, **WATCH):
                pass


async def test_a_table_that_is_older_than_the_queue_is_compared(app: App, tmp_path: Path) -> None:
    """The store's file is an older backup or new, and the app creates the table first."""
    made: aiovec.Schema | None = None
    for step in ("first", "restored", "removed"):
        if step == "restored":
            await aiovec.restore(tmp_path / "b.db", tmp_path / "s.db", overwrite=True)
        elif step == "removed":
            os.remove(tmp_path / "s.db")
        async with opened(tmp_path) as store:
            if made is not None:
                await store.create_table("articles", made, exist_ok=True)
            async with aiovec.watch(store, app.source, **WATCH) as watching:
                await watching.caught_up()
                if step == "first":
                    await store.backup(tmp_path / "b.db")
                    for row in (1, 2, 3):
                        app.upsert(row)
                    await watching.caught_up()
                    made = await store.schema("articles")
                assert await contents(store) == await imported(app, tmp_path / step)


async def test_stores_share_a_queue_until_stop_removes_it(app: App, tmp_path: Path) -> None:
    before = app.schema()
    async with opened(tmp_path) as store, aiovec.watch(store, app.source, **WATCH) as watching:
        async with (
            aiovec.connect(tmp_path / "other.db", embedder="demo") as other,
            aiovec.watch(other, app.source, **WATCH) as second,
            aiovec.watch(store, app.source, **WATCH, table="second") as third,
        ):
            app.upsert(7, "shared")
            for each in (watching, second, third):
                await each.caught_up()
            rows = await contents(store)
            assert rows == await contents(other) == await contents(store, "second")
        arguments = ["watch", app.source, "--stop"]
        assert await asyncio.to_thread(run_apart, arguments) == 1  # it is followed
    done = await asyncio.to_thread(run, "import", app.path, "--dry-run")
    assert "The tables are: articles" in done.err
    assert "aiovec_queue" not in done.err
    stop = ["watch", f"{app.path}#ARTICLES", "--stop"]  # SQLite's names ignore case
    done = await asyncio.to_thread(run, *stop, "--dry-run", "--json")
    assert len(done.json["removed"]) == 6
    done = await asyncio.to_thread(run, *stop)
    assert (done.code, "DROP TABLE" in done.out) == (0, True)
    assert "there is nothing to remove" in (await asyncio.to_thread(run, *stop)).out
    assert app.schema() == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".aiovec")]


async def _refuses(watching: aiovec.Watching, ids: list[str]) -> bool:
    return list((await watching.state()).refused) == ids


async def test_a_text_that_is_set_aside_is_named_and_tried_again_after_a_restart(
    app: App, tmp_path: Path
) -> None:
    refuses = True

    def embed(texts: list[str]) -> list[list[float]]:
        if refuses and any("poison" in text for text in texts):
            raise ValueError("no vector today")
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(embed, model="own", dim=2)
    app.upsert(7, "poison")
    for start in range(3):
        refuses = start < 2
        async with (
            aiovec.connect(tmp_path / "s.db", embedder=embedder) as store,
            aiovec.watch(store, app.source, **WATCH) as watching,
        ):
            await watching.caught_up()
            await until(lambda: _has(store, 39 if refuses else 40))  # noqa: B023
            # The row is stored shortly before the state stops naming it.
            await until(lambda: _refuses(watching, ["7"] if refuses else []))  # noqa: B023


async def test_keys_that_cannot_be_ids_are_named(tmp_path: Path) -> None:
    """SQLite allows NULL in a key, and values of several types in a column without one."""
    with closing(App(tmp_path)) as app:
        app.db.execute("CREATE TABLE loose (id PRIMARY KEY, body TEXT)")
        app.db.execute("INSERT INTO loose VALUES (1, 'a'), ('1', 'b'), (2, 'c'), (NULL, 'd')")
        async with (
            opened(tmp_path) as store,
            aiovec.watch(store, f"{app.path}#loose", embed="body") as watching,
        ):
            await watching.caught_up()
            assert {row.id for row in await store.find("loose")} == {"1", "2"}
            assert {*(await watching.state()).refused} == {"1", "NULL"}
            app.db.execute("UPDATE loose SET body = 'e' WHERE id IS NULL")
            await watching.caught_up()
            assert "NULL" in (await watching.state()).refused
            app.db.execute("DELETE FROM loose WHERE id IS NULL")
            await watching.caught_up()
            assert "NULL" not in (await watching.state()).refused
            for change, body, refused in (
                ("UPDATE loose SET body = 'f' WHERE id = '1'", "a", {"1"}),
                ("UPDATE loose SET body = 'g' WHERE id = 1", "g", {"1"}),
                ("DELETE FROM loose WHERE id = '1'", "g", set()),
                ("INSERT INTO loose VALUES ('1', 'h')", "g", {"1"}),
                ("DELETE FROM loose WHERE id = 1", "h", set()),
            ):
                with case(change):
                    app.db.execute(change)
                    await watching.caught_up()
                    (row,) = await store.get("loose", ["1"])
                    assert (row["body"], {*(await watching.state()).refused}) == (body, refused)


async def test_a_table_with_a_long_name_is_followed(app: App, tmp_path: Path) -> None:
    name = "記事の一覧と検索のための全文" * 5
    app.db.execute(f'CREATE TABLE "{name}" (id INTEGER PRIMARY KEY, body TEXT)')
    app.db.execute(f"INSERT INTO \"{name}\" VALUES (1, 'long')")
    async with (
        opened(tmp_path) as store,
        aiovec.watch(store, f"{app.path}#{name}", embed="body", table="articles") as watching,
    ):
        await watching.caught_up()
        assert await store.count("articles") == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".aiovec")]


@pytest.mark.parametrize("every", [0, -1, "60", True, float("nan")])
async def test_every_is_a_number_above_0(every: Any, app: App, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(aiovec.InvalidArgumentError, match="every must be a number"):
            aiovec.watch(store, app.source, **WATCH, every=every)
        with pytest.raises(TypeError, match="did you mean 'exclude'"):
            aiovec.watch(store, app.source, excludes="*.md")  # type: ignore[call-arg]


async def test_a_file_that_is_being_written_loses_no_rows(tmp_path: Path) -> None:
    """While a nightly job writes the file, for example, most of its rows are missing."""
    file = tmp_path / "goods.csv"

    def write(rows: int) -> None:
        lines = [f"{number},thing {number}" for number in range(rows)]
        file.write_text("\n".join(["id,about", *lines]) + "\n")

    write(40)
    embedded = 0

    def embed(texts: list[str]) -> list[list[float]]:
        nonlocal embedded
        embedded += len(texts)
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(embed, model="own", dim=2)
    options: dict[str, Any] = {"embed": "about", "every": 0.3}
    async with (
        aiovec.connect(tmp_path / "s.db", embedder=embedder) as store,
        aiovec.watch(store, file, **options) as watching,
    ):
        await watching.caught_up()
        write(10)
        await until(lambda: _waits(watching))
        assert await store.count("goods") == 40
        write(40)
        await watching.caught_up()
        assert (await store.count("goods"), embedded) == (40, 40)
        write(10)  # and the file stays like this
        await watching.caught_up()
        assert await store.count("goods") == 10


async def _waits(watching: aiovec.Watching) -> bool:
    return (await watching.state()).waiting is None


async def test_stores_in_memory_follow_a_table_each(app: App) -> None:
    async with (
        aiovec.connect(":memory:", embedder="demo") as first,
        aiovec.connect(":memory:", embedder="demo") as second,
        aiovec.watch(first, app.source, **WATCH) as one,
        aiovec.watch(second, app.source, **WATCH) as other,
        asyncio.timeout(60),
    ):
        await one.caught_up()
        await other.caught_up()
        assert await contents(first) == await contents(second)
