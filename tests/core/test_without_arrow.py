"""A store on SQLite in a process that has no pyarrow."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness.cases import case
from tests.harness.processes import output_of

SCRIPT = """
import asyncio, dataclasses, datetime, sys

if sys.argv[2] == "without":
    sys.modules["pyarrow"] = None
import numpy as np
import pydantic
import aiovec
from aiovec import Embed, Field, Schema

AT = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
FIELDS = {
    "n": int, "words": Field(str, text=True), "x": float, "ok": bool, "at": datetime.datetime,
    "tags": list[str], "until": Field(datetime.datetime, expires=True),
}

@dataclasses.dataclass
class Row:
    id: str
    embedding: list[float]
    n: int

class Model(pydantic.BaseModel):
    id: str
    embedding: list[float]
    n: int

def rows(first, last, **values):
    return [
        {"id": f"r{n}", "embedding": [float(n), 1, 2, 3], "n": n, "words": f"row number {n}",
         "x": n / 3, "ok": n % 2 == 0, "at": AT, "tags": ["a", str(n)], "extra": [n, None]} | values
        for n in range(first, last)
    ]

async def embed(texts, purpose=None):
    return [[float(len(text)), 1.0] for text in texts]

async def show(name, call):
    try:
        answer = await call
        print(name, [row.to_dict() for row in answer] if isinstance(answer, list) else answer)
    except aiovec.AiovecError as exc:
        print(name, type(exc).__name__, exc)

async def main(path):
    embedder = aiovec.embedder(embed, model="m", dim=2)
    async with aiovec.connect(path, embedder=embedder) as store:
        show_of = lambda name, *args, **kw: show(name, getattr(store, name)(*args, **kw))
        await show_of("create_table", "t", Schema(dim=4, fields=FIELDS))
        await show_of("insert", "t", rows(0, 1))
        await show_of("insert", "t", rows(1, 50))
        await show_of("insert", "t", rows(50, 2_000))
        await show_of("insert", "t", rows(0, 2_010), on_conflict="skip")
        await show_of("upsert", "t", rows(0, 1_000, n=7))
        await show_of("insert", "t", [Row("d", [1, 2, 3, 4], 1)])
        await show_of("insert", "t", [Model(id="m", embedding=[1, 2, 3, 4], n=1)])
        many = {"id": np.arange(600), "embedding": np.ones((600, 4)), "n": np.arange(600)}
        none = np.full(600, "NaT", "M8[us]")
        await show_of("insert", "t", many | {"x": np.ones(600), "at": none})
        await show_of("upsert", "t", {"id": ["c"], "embedding": [[1, 2, 3, 4]], "n": [1]})
        await show_of("insert", "t", rows(20_000, 21_000)[:-1] + rows(9, 10, n="nine"))
        await show_of("insert", "t", many | {"at": np.full(600, "2020-01-01", "M8[ns]")})
        await show_of("insert", "t", many | {"n": np.full(600, "x")})
        await show_of("insert", "t", many | {"embedding": np.full((600, 4), np.nan)})
        await show_of("insert", "t", rows(1, 3))
        await show_of("update", "t", {"n": 1, "payload.extra": "new"}, ids=["r1"])
        await show_of("update", "t", {"x": 0.5}, where="n > 1800")
        await show_of("set_vectors", "t", ["r1", "r2"], np.full((2, 4), 2.0))
        await show_of("search", "t", [1, 2, 3, 4], where="n = 1", include_vector=True)
        await show_of("search_text", "t", '"number 60"')
        await show_of("search_hybrid", "t", "number 60", [60, 1, 2, 3], where="ok")
        await show_of("get", "t", ["r1", "r1900"])
        await show_of("find", "t", where="n > 1990", order_by="-n", include_vector=True)
        await show_of("count", "t", where="ok")
        await show_of("distinct", "t", "ok")
        await show_of("bounds", "t", "n")
        await show_of("delete", "t", ["r1"])
        await show_of("add_field", "t", "later", int)
        await show_of("optimize", "t")
        inferred = {"id": np.arange(600), "vector": np.ones((600, 4)), "n": np.arange(600)}
        inferred |= {"ok": np.ones(600, bool), "s": np.full(600, "s"), "f": np.ones(600)}
        await show_of("create_table_from", "inferred", inferred)
        await show_of("create_table", "e", Schema(fields={"body": str}, embed=Embed("body")))
        texts = [{"id": f"e{n}", "body": f"text {n}"} for n in range(1_500)]
        await show_of("insert", "e", texts[:1])
        await show_of("insert", "e", texts, on_conflict="skip")
        await show_of("insert", "e", [*texts[:3], {"id": "none", "body": ""}])
        await show_of("search", "e", "text 1234", limit=3)
        await show_of("backup", path + ".backup")
    print("restore", await aiovec.restore(path + ".backup", path, overwrite=True))
    print("imported", sys.modules.get("pyarrow") is not None)

asyncio.run(main(sys.argv[1]))
"""

NEEDS_ARROW = """
import asyncio, sys

sys.modules["pyarrow"] = None
import pandas, polars
import aiovec, aiovec_migrate

ROWS = {"id": ["1"], "embedding": [[1.0, 2.0]]}

async def main(path):
    async with aiovec.connect(path) as store:
        await store.create_table("t", aiovec.Schema(dim=2))
        await store.insert("t", ROWS)
        hits = await store.search("t", [1, 2])
        async def frame(): hits.to_pandas()
        async def arrow(): hits.to_arrow()
        async def polar(): hits.to_polars()
        async def export():
            async for _ in store.export("t"): pass
        async def migrate(): await aiovec_migrate.run(path, path + "2")
        for call in (
            frame(), arrow(), polar(), export(), migrate(), store.changes("t"),
            store.insert("t", pandas.DataFrame(ROWS)),
            store.insert("t", polars.DataFrame(ROWS)),
            store.create_table_from("u", polars.DataFrame(ROWS)),
            store.insert("t", {**ROWS, "id": pandas.Series(["2"])}),
            store.insert("t", {**ROWS, "id": polars.Series(["2"])}),
        ):
            try:
                await call
            except aiovec.AiovecError as exc:
                assert 'pip install "aiovec[arrow]"' in str(exc), exc
            else:
                raise AssertionError(call)
        for method in (store.export, store.changes):
            assert 'pip install "aiovec[arrow]"' in method.__doc__, method
        assert await store.count("t") == 1
        assert len([row async for row in store.rows("t")]) == 1
        assert await store.fields_info("t") == {}

asyncio.run(main(sys.argv[1]))
"""

FOLLOWED = """
import asyncio, sys
from pathlib import Path

sys.modules["pyarrow"] = None
import aiovec

async def main(folder):
    notes = Path(folder, "notes")
    async with aiovec.connect(folder + "/store.db", embedder="demo") as store:
        async with aiovec.watch(store, notes) as watching:
            (notes / "b.md").write_text("The second.")
            await watching.caught_up()
            print(sorted(await store.distinct("documents", "source")))
        try:
            async with aiovec.watch(store, folder + "/app.db#t", embed="body"):
                print("followed")
        except aiovec.AiovecError as exc:
            print(exc)

asyncio.run(main(sys.argv[1]))
"""

COMMANDS = """
import json, os, sys

sys.modules["pyarrow"] = None
from tests.harness.command import run

os.chdir(sys.argv[1])
for line in sys.argv[2:]:
    finished = run(*line.split())
    print(json.dumps([finished.code, finished.out, finished.err]))
"""


def test_without_pyarrow_every_other_call_answers_the_same(tmp_path: Path) -> None:
    answers = []
    for kind in ("with", "without"):
        folder = tmp_path / kind
        folder.mkdir()
        answers.append(output_of("-c", SCRIPT, folder / "store.db", kind).replace(str(folder), ""))
    assert answers[0] == answers[1]
    assert answers[0].endswith("imported False\n")


def test_a_call_that_needs_pyarrow_says_what_to_install(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    output_of("-c", NEEDS_ARROW, tmp_path / "store.db")


def test_a_command_that_needs_an_extra_says_what_to_install(tmp_path: Path) -> None:
    """An import names a path that is wrong first."""
    (tmp_path / "t.jsonl").write_text("")
    (tmp_path / "code.py").write_text("pass")
    (tmp_path / "bare").mkdir()
    arrow = 'pip install "aiovec[arrow]"'
    expected = {
        "export t t.jsonl": arrow,
        "import t.jsonl --table t": arrow,
        "migrate plan --from store.db --to other.db": arrow,
        "serve": 'pip install "aiovec[server]"',
        "import gone": "there is no file gone",
        "import code.py": "code.py is not a document (.docx, ",
        "import bare": "bare has no documents (.docx, ",
        "import gone.db#t": arrow,
    }
    for line, words in zip(
        expected, output_of("-c", COMMANDS, tmp_path, *expected).splitlines(), strict=True
    ):
        with case(line):
            code, _, err = json.loads(words)
            assert (code, err.count("\n")) == (1, 1)
            assert expected[line] in err


def test_a_folder_is_imported_and_followed_without_pyarrow(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    pytest.importorskip("semantic_text_splitter")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.md").write_text("The first.")
    line = "import notes --embedder demo -s imported.db"
    code, out, err = json.loads(output_of("-c", COMMANDS, tmp_path, line))
    assert (code, "1 new" in out) == (0, True), err
    with closing(sqlite3.connect(tmp_path / "app.db")) as database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
    followed, refused = output_of("-c", FOLLOWED, tmp_path).splitlines()
    assert followed == "['a.md', 'b.md']"
    assert 'pip install "aiovec[arrow]"' in refused  # rows need it
