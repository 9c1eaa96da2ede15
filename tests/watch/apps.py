"""An app with a SQLite table, and functions that read its copy in a store."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.harness.command import run
from tests.harness.processes import ROOT

import aiovec

SHAPES = {
    "id": "CREATE TABLE articles (id INTEGER PRIMARY KEY, {})",
    "text": "CREATE TABLE articles (id TEXT PRIMARY KEY, {})",
    "without rowid": "CREATE TABLE articles (id INTEGER PRIMARY KEY, {}) WITHOUT ROWID",
    "letters": "CREATE TABLE articles (id TEXT COLLATE NOCASE PRIMARY KEY, {})",
    "two": "CREATE TABLE articles (id TEXT, lang TEXT, {}, PRIMARY KEY (id, lang))",
}
EMBEDDED = ("--embed", "body", "--text", "title", "--embedder", "demo")
COLUMNS = "title TEXT, body TEXT, tag TEXT UNIQUE, author INT"


class App:
    """Writes to ``app.db#articles`` like an app."""

    def __init__(
        self, folder: Path, shape: str = "id", journal: str = "wal", seed: int = 0
    ) -> None:
        self.path = folder / "app.db"
        self.shape, self.journal, self.chance = shape, journal, random.Random(seed)
        exists = self.path.exists()
        self.open()
        if not exists:
            self.make()
            for number in range(40):
                self.upsert(number)

    def open(self) -> None:
        self.db = sqlite3.connect(
            self.path, timeout=60, isolation_level=None, check_same_thread=False
        )
        self.db.execute(f"PRAGMA journal_mode={self.journal}")

    @property
    def source(self) -> str:
        return f"{self.path}#articles"

    def make(self) -> None:
        self.db.execute(SHAPES[self.shape].format(COLUMNS))

    def schema(self) -> list[Any]:
        return self.db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    def key(self, number: int) -> tuple[Any, ...]:
        if self.shape in ("id", "without rowid"):
            return (number,)
        text = f"K/{number}%" if self.chance.random() < 0.5 else f"k/{number}%"
        return (text, "de") if self.shape == "two" else (text,)

    def by(self) -> str:
        return "id = ? AND lang = ?" if self.shape == "two" else "id = ?"

    def upsert(self, number: int, word: str | None = None) -> None:
        names = "id, lang" if self.shape == "two" else "id"
        marks = ", ".join("?" for _ in self.key(0))
        word = word or self.chance.choice("keys locks doors walls".split())
        body = f"{word} {number} {self.chance.random()}"
        self.db.execute(
            f"INSERT INTO articles ({names}, title, body, author) VALUES ({marks}, ?, ?, ?) "
            f"ON CONFLICT ({names}) DO UPDATE SET body = excluded.body, title = excluded.title",
            (*self.key(number), f"title {number}", body, number % 7),
        )

    def write(self) -> None:
        """Make a random change that an app could make."""
        number, kind = self.chance.randrange(60), self.chance.random()
        key = self.key(number)
        if kind < 0.4:
            self.upsert(number)
        elif kind < 0.55:
            self.db.execute(f"DELETE FROM articles WHERE {self.by()}", key)
        elif kind < 0.65:  # another key
            self.db.execute(
                f"UPDATE OR IGNORE articles SET id = ? WHERE {self.by()}",
                (self.key(self.chance.randrange(60))[0], *key),
            )
        elif kind < 0.75:  # never seen
            self.db.execute("BEGIN")
            self.upsert(number, "rollback")
            self.db.execute("DELETE FROM articles WHERE author = 3")
            self.db.execute("ROLLBACK")
        elif kind < 0.85:
            self.db.execute("BEGIN")
            for other in self.chance.sample(range(60), 20):
                self.upsert(other)
            self.db.execute("SAVEPOINT part")
            self.db.execute("DELETE FROM articles WHERE author < 5")
            self.db.execute("ROLLBACK TO part")
            self.db.execute("COMMIT")
        elif kind < 0.95:
            self.db.execute(
                "UPDATE articles SET author = author + 1 WHERE author = ?", (number % 7,)
            )
        else:
            self.db.execute("UPDATE articles SET body = NULL WHERE author = ?", (number % 7,))

    def close(self) -> None:
        self.db.close()


async def contents(store: aiovec.VectorStore, table: str = "articles") -> dict[str, Any]:
    """Return the rows by id, without nulls: a field that only an older table had is null."""
    return {
        row.id: {
            name: list(value) if name == "embedding" else value
            for name, value in row.to_dict().items()
            if value is not None
        }
        async for row in store.rows(table, include_vector=True)
    }


async def imported(app: App, folder: Path, *options: str) -> dict[str, Any]:
    """Return the rows that a first import of the current table stores."""
    folder.mkdir()  # noqa: ASYNC240
    with closing(sqlite3.connect(folder / "app.db")) as copy:
        app.db.backup(copy)
    done = await asyncio.to_thread(
        run,
        "import",
        f"{folder}/app.db#articles",
        *EMBEDDED,
        *options,
        "-s",
        folder / "s.db",
    )
    assert done.code == 0, done.err
    async with aiovec.connect(folder / "s.db") as store:
        return await contents(store)


def follower(app: App, store: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start ``aiovec watch``."""
    command = [
        sys.executable,
        "-m",
        "aiovec",
        "watch",
        app.source,
        "-s",
        str(store),
        *EMBEDDED,
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def writer(app: App, seed: int) -> subprocess.Popen[bytes]:
    """Start a process that writes until it is killed."""
    command = [sys.executable, "-m", __name__, str(app.path.parent), str(seed)]
    return subprocess.Popen(command, cwd=ROOT)


if __name__ == "__main__":
    endless = App(Path(sys.argv[1]), seed=int(sys.argv[2]))
    while True:
        endless.write()
        time.sleep(0.001)
