"""``aiovec import`` of rows whose vectors are computed from a text; later only of changed rows."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.base import case
from tests.embed.models import stand_in
from tests.harness.command import COMMAND, run
from tests.harness.waiting import until
from tests.transfer.support import assert_rejects, error_of, jsonl, rows_of, schema_of

from aiovec import Embed, Field, Schema, sync

BOTH = pytest.mark.parametrize("target", ["store.db", "lancedb://store.lance"])
# Tables as SQLAlchemy and Django create them.
SHOP = """
CREATE TABLE articles (
    id INTEGER NOT NULL, title VARCHAR(80) NOT NULL, body TEXT, author_id INTEGER,
    created DATETIME, live BOOLEAN, price NUMERIC(10, 2), meta JSON, photo BLOB, hash TEXT,
    PRIMARY KEY (id), UNIQUE (title)
);
CREATE INDEX ix_articles_author_id ON articles (author_id);
CREATE TABLE "blog_post" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT,
    "slug" varchar(50) NOT NULL UNIQUE, "body" text NOT NULL, "at" datetime NOT NULL,
    "rank" decimal NOT NULL, "uid" char(32) NOT NULL, "site_id" bigint NOT NULL);
CREATE INDEX "blog_post_at" ON "blog_post" ("at");
CREATE INDEX "blog_post_rank" ON "blog_post" ("rank", "site_id")
"""


@pytest.fixture
def db(folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield the connection of an app, which has articles."""
    with closing(sqlite3.connect(folder / "app.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SHOP)
        article(connection, 1, "on keys")
        article(connection, 2, "on locks")
        yield connection


def article(db: sqlite3.Connection, id: int, body: str | None) -> None:
    row = (id, f"t{id}", body, id % 7, "2026-01-31 12:00:00", 1, 1.5, '{"a": [1]}', b"x", "own")
    db.execute(f"INSERT INTO articles VALUES ({', '.join('?' * 10)})", row)


def imported(source: object, target: object, *options: object, code: int = 0) -> Any:
    """Import rows with their text in ``body``, and return the facts about the table."""
    embed = () if "--embed" in options else ("--embed", "body")
    done = run("import", source, "-s", target, "--embedder", "demo", "--json", *embed, *options)
    assert done.code == code, done.err
    return done.json["tables"][0]


def counts(facts: Any) -> dict[str, int]:
    names = ("new", "changed", "unchanged", "empty", "deleted", "rejected")
    return {name: facts[name] for name in names if facts[name]}


@BOTH
def test_a_table_comes_with_its_types_and_again_only_what_changed(
    db: sqlite3.Connection, target: str
) -> None:
    if target.startswith("lancedb"):
        pytest.importorskip("lancedb")
    facts = imported("app.db#articles", target, "--text", "title")
    assert (counts(facts), facts["created"]) == ({"new": 2}, True)
    assert facts["notes"] == ["not imported: the column photo (BLOB)"]
    assert schema_of(target, "articles").fields == {
        "title": Field(str, text=True, index="btree"), "body": Field(str),
        "author_id": Field(int, index="btree"),
    }  # fmt: skip
    first = rows_of(target, "articles")["1"]
    values = dict(first.fields)
    assert values.pop("hash") != "own"
    assert values == {
        "title": "t1", "body": "on keys", "author_id": 1, "created": "2026-01-31 12:00:00",
        "live": True, "price": 1.5, "meta": {"a": [1]}, "hash_": "own", "base": "app.db#articles",
    }  # fmt: skip
    assert counts(imported("app.db#articles", target)) == {"unchanged": 2}
    db.execute("UPDATE articles SET body = 'on doors' WHERE id = 1")
    db.execute("UPDATE articles SET body = '' WHERE id = 2")
    article(db, 3, "on windows")
    article(db, 4, None)
    wanted = {"new": 1, "changed": 1, "empty": 1, "deleted": 1}
    assert counts(imported("app.db#articles", target, "--dry-run")) == wanted
    assert rows_of(target, "articles")["1"]["body"] == "on keys"
    assert counts(imported("app.db#articles", target)) == wanted
    db.execute("DELETE FROM articles WHERE id = 3")
    assert counts(imported("app.db#articles", target)) == {"unchanged": 1, "empty": 2}
    facts = imported("app.db#articles", target, "--delete")
    assert counts(facts) == {"unchanged": 1, "empty": 2, "deleted": 1}
    clean = imported("app.db#articles", target, "--table", "clean", "--base", "app.db#articles")
    assert counts(clean) == {"new": 1, "empty": 2}
    one, two = rows_of(target, "articles"), rows_of(target, "clean")
    assert {id: (dict(row.fields), row.vector.tolist()) for id, row in one.items()} == {
        id: (dict(row.fields), row.vector.tolist()) for id, row in two.items()
    }


def test_a_row_whose_text_stays_keeps_its_vector(db: sqlite3.Connection) -> None:
    imported("app.db#articles", "store.db")
    with sync.connect("store.db") as store:  # a vector that no embedder makes
        store.set_vectors("articles", ["1"], [[1.0] * 256])
    db.execute("UPDATE articles SET live = 0, title = 'other'  WHERE id = 1")
    assert counts(imported("app.db#articles", "store.db")) == {"changed": 1, "unchanged": 1}
    row = rows_of("store.db", "articles")["1"]
    assert (row["title"], row["live"], row.vector.tolist()) == ("other", False, [1.0] * 256)


def test_keys_of_each_kind_become_ids_that_no_two_rows_share(db: sqlite3.Connection) -> None:
    db.executescript(
        """CREATE TABLE pairs (slug TEXT, lang TEXT, body TEXT, PRIMARY KEY (lang, slug))
            WITHOUT ROWID;
        INSERT INTO pairs VALUES ('a/b', 'de', 'x'), ('b', 'de/a', 'x'), ('c%2Fd', 'e', 'x'),
            ('c/d', 'e', 'x');
        CREATE TABLE words (word TEXT PRIMARY KEY, body TEXT);
        INSERT INTO words VALUES ('Straße/1 %', 'x'), (NULL, 'x');
        CREATE TABLE bytes (key BLOB PRIMARY KEY, body TEXT);
        INSERT INTO bytes VALUES (x'00ff', 'x');
        CREATE TABLE bare (name TEXT, body TEXT); INSERT INTO bare VALUES ('n', 'x');
        CREATE VIEW joined AS SELECT id, title || ': ' || body AS words, author_id FROM articles"""
    )
    facts = imported("app.db#pairs", "store.db")
    rows = rows_of("store.db", "pairs")
    assert set(rows) == {"de/a%2Fb", "de%2Fa/b", "e/c%252Fd", "e/c%2Fd"}
    assert (rows["de/a%2Fb"]["lang"], rows["de/a%2Fb"]["slug"]) == ("de", "a/b")
    assert counts(imported("app.db#words", "store.db", code=1)) == {"new": 1, "rejected": 1}
    assert set(rows_of("store.db", "words")) == {"Straße/1 %"}
    assert facts["layout"] == "table"
    imported("app.db#bytes", "store.db")
    assert set(rows_of("store.db", "bytes")) == {"00ff"}
    error = error_of("import", "app.db#bare", "-s", "store.db", "--embed", "body")
    assert "'bare' has no primary key by which the same import finds its rows again" in error
    imported("app.db#bare", "store.db", "--id-column", "rowid")
    assert rows_of("store.db", "bare")["1"]["name"] == "n"
    facts = imported("app.db#joined", "store.db", "--embed", "words", "--index", "author_id")
    assert schema_of("store.db", "joined").fields["author_id"] == Field(int, index="btree")
    assert facts["layout"] == "view"
    db.execute("INSERT INTO blog_post VALUES (7, 's', 'x', '2026-01-01', 1.25, 'u', 3)")
    imported("app.db#blog_post", "store.db")
    assert schema_of("store.db", "blog_post").fields == {
        "slug": Field(str, index="btree"), "body": Field(str), "at": Field(str, index="btree"),
        "rank": Field(float, index="btree"),
    }  # fmt: skip


def test_columns_that_are_called_like_marks_are_kept_beside_them(
    db: sqlite3.Connection, folder: Path
) -> None:
    db.executescript(
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, hash INT, hash_ INT, base TEXT);"
        "CREATE INDEX by_hash ON notes (hash);"
        "INSERT INTO notes VALUES (1, 'on keys', 1, 2, 'own')"
    )
    assert counts(imported("app.db#notes", "s.db")) == {"new": 1}
    row = rows_of("s.db", "notes")["1"]
    assert (row["hash_"], row["hash__"], row["base_"]) == (1, 2, "own")
    assert counts(imported("app.db#notes", "s.db")) == {"unchanged": 1}
    done = run(
        "import", "app.db#notes", "--embed", "body", "--index", "hash", "--embedder", "demo",
        "-s", "t.db",
    )  # fmt: skip
    assert done.code == 1
    assert "--index hash" in done.err


def test_a_query_is_one_select_that_cannot_write(db: sqlite3.Connection, folder: Path) -> None:
    query = "SELECT title AS slug, body, price * 2 AS double FROM articles WHERE live -- all;"
    options = ("--id-column", "slug", "--table", "q", "--index", "double", "--query")
    assert counts(imported("app.db", "store.db", *options, query)) == {"new": 2}
    assert counts(imported("app.db", "store.db", *options, query)) == {"unchanged": 2}
    assert rows_of("store.db", "q")["t1"]["double"] == 3.0
    before = (folder / "app.db").read_bytes()
    for wrong in (
        "DELETE FROM articles", "SELECT 1; DROP TABLE articles", "PRAGMA user_version = 7",
        "ATTACH 'new.db' AS n", "SELECT * FROM articles WHERE id = ?", "SELECT slug FROM nowhere",
    ):  # fmt: skip
        with case(wrong):
            error_of("import", "app.db", "-s", "store.db", "--embed", "body", *options, wrong)
    assert (folder / "app.db").read_bytes() == before
    jsonl(folder / "rows.jsonl", [{"id": "a", "body": "x"}])
    for source, *more in (
        ("rows.jsonl", "--embed", "body"), ("app.db",), ("app.db#articles", "--embed", "body"),
    ):  # fmt: skip
        assert "--query" in error_of("import", source, "-s", "store.db", *more, *options, query)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_is_a_source_like_any_other(folder: Path, suffix: str) -> None:
    path = folder / f"notes.{suffix}"

    def write(*rows: tuple[str, str, int]) -> None:
        items = [{"id": id, "body": body, "n": n} for id, body, n in rows]
        if suffix == "parquet":
            pa = pytest.importorskip("pyarrow")
            pa.parquet.write_table(pa.Table.from_pylist(items), path)
        elif suffix == "jsonl":
            jsonl(path, items)
        else:
            path.write_text("id,body,n\n" + "".join(f"{a},{b},{n}\n" for a, b, n in rows))

    write(("a", "red", 1), ("b", "green", 2), ("a", "twice", 3))
    assert counts(imported(path, "store.db", code=1)) == {"new": 2, "rejected": 1}
    assert_rejects(path, {_third(suffix): ("a", "an earlier row of the source has this id")})
    write(("a", "red", 1), ("c", "blue", 2))
    facts = imported(path, "store.db", "--delete")
    assert counts(facts) == {"unchanged": 1, "new": 1, "deleted": 1}
    assert set(rows_of("store.db")) == {"a", "c"}


def test_a_row_whose_text_is_a_number_is_rejected_by_its_line(folder: Path) -> None:
    path = jsonl(folder / "notes.jsonl", [{"id": "a", "body": "red"}, {"id": "b", "body": 7}])
    assert counts(imported(path, "store.db", code=1)) == {"new": 1, "rejected": 1}
    assert_rejects(path, {2: "field 'body'"})


def _third(suffix: str) -> int:
    """Return the place of the third row in a file."""
    return {"csv": 4, "jsonl": 3, "parquet": 2}[suffix]


def test_only_rows_of_this_source_are_replaced_and_deleted(
    db: sqlite3.Connection, folder: Path
) -> None:
    with sync.connect("store.db", embedder="demo") as store:
        store.create_table("articles", Schema(fields={"body": str}, embed=Embed("body")))
        store.insert("articles", [{"id": "1", "body": "an app's"}, {"id": "own", "body": "too"}])
    facts = imported("app.db#articles", "store.db", code=1)
    assert counts(facts) == {"new": 1, "rejected": 1}
    (reason,) = facts["reasons"]
    assert reason == "another import or an app stored the row with this id; --upsert replaces it"
    other = jsonl(folder / "more.jsonl", [{"id": "more", "body": "of a file"}])
    assert counts(imported(other, "store.db", "--table", "articles")) == {"new": 1}
    assert counts(imported("app.db#articles", "store.db", "--upsert")) == {
        "changed": 1, "unchanged": 1,
    }  # fmt: skip
    for id in range(3, 6):
        article(db, id, "more")
    imported("app.db#articles", "store.db")
    db.execute("DELETE FROM articles WHERE id > 2")
    error = error_of("import", "app.db#articles", "-s", "store.db", "--embed", "body", "--delete")
    assert "--delete would delete 3 of 5 rows" in error
    done = imported("app.db#articles", "store.db", "--dry-run", "--delete")
    assert done["deleted"] == 3
    assert imported("app.db#articles", "store.db", "--delete-all")["deleted"] == 3
    assert set(rows_of("store.db", "articles")) == {"1", "2", "own", "more"}
    # An unreadable row without a known id may be one of the rows that seem to be gone.
    path = jsonl(folder / "more.jsonl", ["{broken", {"id": "x", "body": "new"}])
    options = ("--table", "articles", "--embed", "body", "--embedder", "demo", "--delete")
    error = error_of("import", path, "-s", "store.db", *options)
    assert (
        "--delete deleted nothing: no id can be read in 1 of the rows, and those that seem" in error
    )
    assert {"more", "x"} < rows_of("store.db", "articles").keys()


def test_globs_of_one_table_leave_the_rows_of_each_other(folder: Path) -> None:
    for name in ("a1", "b1", "b2", "a2"):
        jsonl(folder / f"{name}.jsonl", [{"id": name, "body": f"text of {name}"}])
        if name != "b1":  # a glob may match one file now, and two later
            glob = str(folder / f"{name[0]}*.jsonl")
            done = imported(glob, "store.db", "--table", "t", "--delete")
            assert done["new"] + done["unchanged"] == int(name[1])
            assert done["rejected"] == done["deleted"] == 0
    (folder / "a2.jsonl").unlink()
    jsonl(folder / "a3.jsonl", [{"id": "a3", "body": "new"}])
    done = imported(str(folder / "a*.jsonl"), "store.db", "--table", "t", "--delete")
    assert counts(done) == {"new": 1, "unchanged": 1, "deleted": 1}
    assert set(rows_of("store.db", "t")) == {"a1", "a3", "b1", "b2"}


@BOTH
def test_long_texts_become_passages_of_their_row(db: sqlite3.Connection, target: str) -> None:
    if target.startswith("lancedb"):
        pytest.importorskip("lancedb")
    pytest.importorskip("semantic_text_splitter")
    long = "\n\n".join(f"Paragraph {n} tells of number {n} at length." for n in range(9))
    db.execute("UPDATE articles SET body = ? WHERE id = 1", (long,))
    options = ("--passages", "--chunk-size", 150)
    facts = imported("app.db#articles", target, *options)
    assert counts(facts) == {"new": 2}
    rows = rows_of(target, "articles")
    parts = [row for row in rows.values() if row["source"] == "1"]
    assert len(parts) > 2
    assert {row.id for row in parts} == {f"1#{n}" for n in range(1, len(parts) + 1)}
    assert {(row["title"], row["author_id"], row["parts"]) for row in parts} == {
        ("t1", 1, len(parts))
    }
    with sync.connect(target) as store:
        hits = store.search("articles", "paragraph number", limit=5, group_by="source")
        assert {hit["source"] for hit in hits} == {"1", "2"}
    assert counts(imported("app.db#articles", target, *options)) == {"unchanged": 2}
    db.execute("UPDATE articles SET body = ?, live = 0 WHERE id = 1", (long[:80],))
    assert counts(imported("app.db#articles", target, *options)) == {
        "changed": 1, "unchanged": 1,
    }  # fmt: skip
    assert set(rows_of(target, "articles")) == {"1#1", "2#1"}
    db.execute("DELETE FROM articles WHERE id = 2")
    assert imported("app.db#articles", target, *options, "--delete")["deleted"] == 1
    assert set(rows_of(target, "articles")) == {"1#1"}


@pytest.mark.parametrize("first", [(), ("--passages",)], ids=["whole texts", "passages"])
def test_a_table_has_whole_texts_or_passages_of_a_source(
    db: sqlite3.Connection, first: tuple[str, ...]
) -> None:
    pytest.importorskip("semantic_text_splitter")
    imported("app.db#articles", "store.db", *first)
    other = () if first else ("--passages",)
    options = ("-s", "store.db", "--embed", "body", "--embedder", "demo", *other)
    kept, how = ("passages", "with") if first else ("whole texts", "without")
    assert f"has {kept} of 'app.db#articles'; import it {how} --passages again" in error_of(
        "import", "app.db#articles", *options
    )
    assert counts(imported("app.db#articles", "store.db", *first)) == {"unchanged": 2}
    assert counts(imported("app.db#articles", "store.db", *other, "--base", "more", "--upsert"))


def test_headings_and_front_matter_are_no_values_of_columns(db: sqlite3.Connection) -> None:
    pytest.importorskip("semantic_text_splitter")
    db.execute("CREATE TABLE pages (id INTEGER PRIMARY KEY, title INT, tags INT, body TEXT)")
    text = "---\ntags: [a]\n---\n# Keys\n\nTurn them."
    db.execute("INSERT INTO pages VALUES (1, NULL, NULL, ?), (2, 7, NULL, 'plain')", (text,))
    options = ("--passages", "--index", "title", "--index", "tags")
    assert counts(imported("app.db#pages", "store.db", *options)) == {"new": 2}
    rows = rows_of("store.db", "pages")
    assert {id: (row["title"], row["tags"]) for id, row in rows.items()} == {
        "1#1": (None, None), "2#1": (7, None),
    }  # fmt: skip


def test_passages_of_a_row_whose_id_an_app_took_are_not_counted_as_written(
    db: sqlite3.Connection,
) -> None:
    pytest.importorskip("semantic_text_splitter")
    long = "\n\n".join(f"Paragraph {n} tells of number {n} at length." for n in range(9))
    db.execute("UPDATE articles SET body = ? WHERE id = 1", (long,))
    with sync.connect("store.db", embedder="demo") as store:
        store.create_table("articles", Schema(fields={"body": str}, embed=Embed("body")))
        store.insert("articles", [{"id": "1#1", "body": "an app's"}])
    options = ("--passages", "--chunk-size", 150, "--embedder", "demo", "--allow-rejects")
    done = run("import", "app.db#articles", "-s", "store.db", "--embed", "body", *options)
    assert done.code == 0, done.err
    assert "articles: 1 new; wrote 1 row\nrejected 1 row" in done.out
    assert "an app stored the row '1#1'" in done.err
    assert set(rows_of("store.db", "articles")) == {"1#1", "2#1"}


def test_texts_that_the_model_cuts_off_are_named(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.enable_truncation(3)  # as fastembed does
    fastembed = stand_in([], 384)
    fastembed.TextEmbedding.model = SimpleNamespace(tokenizer=words)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fastembed", fastembed)
    db.execute("UPDATE articles SET body = 'one two three four' WHERE id = 2")
    options = ("app.db#articles", "-s", "store.db", "--embed", "body", "--embedder", "fastembed")
    done = run("import", *options)
    assert "articles: the model cuts off 1 text longer than the 3 tokens that it reads" in done.err
    assert done.err.rstrip().endswith("--passages keeps all of them: 2")
    assert (
        run("import", *options, "--passages", "--table", "cut", "--json").json["tables"][0][
            "cut_off"
        ]
        == []
    )


@pytest.mark.parametrize("mode", ["wal", pytest.param("delete", marks=pytest.mark.slow)])
def test_an_app_writes_while_its_rows_are_embedded(
    db: sqlite3.Connection, folder: Path, mode: str
) -> None:
    """An import reads a snapshot, and holds no lock that would block a writer."""
    db.execute(f"PRAGMA journal_mode = {mode}")
    (folder / "slow.py").write_text(
        "import pathlib, time, aiovec\n"
        "def embed(texts):\n"
        "    pathlib.Path('called').touch()\n"
        "    while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "    return [[1.0, len(text)] for text in texts]\n"
        "made = aiovec.embedder(embed, model='slow', dim=2)\n"
    )
    command = [*COMMAND, "import", "app.db#articles", "-s", "store.db", "--embed", "body"]
    with subprocess.Popen([*command, "--embedder", "slow:made"]) as process:
        asyncio.run(until(lambda: Path("called").exists() or process.poll() is not None))
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("UPDATE articles SET body = 'later'")
        article(db, 3, "later")
        (folder / "go").touch()
    assert process.returncode == 0
    bodies = {id: row["body"] for id, row in rows_of("store.db", "articles").items()}
    assert bodies == {"1": "on keys", "2": "on locks"}


@pytest.mark.slow
def test_a_killed_import_goes_on_by_the_same_command(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    for id in range(10, 6010):
        article(db, id, f"text {id}")
    db.execute("COMMIT")
    command = [*COMMAND, "import", "app.db#articles", "-s", "store.db", "--embed", "body"]
    with sync.connect("store.db") as store:

        def count() -> int:
            return store.count("articles") if "articles" in store.tables() else 0

        for least in (1, 2001):
            with subprocess.Popen(
                [*command, "--embedder", "demo"], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:  # fmt: skip
                asyncio.run(until(lambda n=least: count() >= n or process.poll() is not None))
                process.kill()
        stored = count()
    facts = imported("app.db#articles", "store.db")
    assert 0 < stored <= facts["unchanged"]
    assert facts["new"] + facts["unchanged"] == 6002 == len(rows_of("store.db", "articles"))
