"""aiovec migrate, as a user types it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import aiovec
import aiovec_migrate
from aiovec import Field, Schema
from aiovec_migrate import Options

from .conftest import ROWS, SCHEMA, Run
from .test_command import aiovec_command, on_a_terminal, posix_only

COMMANDS = "plan run status verify rollback abort finish forget sync".split()

EMBEDDER = """
async def embed(texts):
    return [[float(len(text)), 1.0, 2.0, 3.0] for text in texts]
async def slow(texts):
    import asyncio
    await asyncio.sleep(3600)
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("AIOVEC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(folder: Path, store: Path) -> Path:
    """A TOML file whose sqlite store has a table, and whose lancedb store is not there yet."""
    path = folder / "my.toml"
    path.write_text(
        '# mine\n[retrieval]\nbackend = "sqlite"  # now\n'
        'sqlite_path = "notes.db"\nlancedb_url = "new.lance"\n',
        "utf-8",
    )
    return path


def rows_of(target: str, table: str = "notes") -> dict[str, dict[str, Any]]:
    async def read() -> dict[str, dict[str, Any]]:
        async with aiovec.connect(target) as store:
            ids = [row.id for row in await store.find(table)]
            return {row.id: row.to_dict() for row in await store.get(table, ids)}

    return asyncio.run(read())


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a text, one a line."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    finished = run("migrate", command, "--help")
    assert (finished.code, finished.err) == (0, "")
    assert f"Usage: aiovec migrate {command}" in finished.out


def test_the_help_names_every_command(run: Run) -> None:
    listed = re.findall(r"^[│|] (\w+)  ", run("migrate", "--help").out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


WRONG = [
    ["plan"],
    ["plan", "--to", "x.db", "--switch", "--table", "notes"],
    ["run", "--to", "x.db", "--switch", "--table", "notes"],
    ["run", "--to", "x.db", "--batch-size", "0"],
    ["run", "--to", "x.db", "--pause-limit", "0"],
    ["run", "--to", "x.db", "--pause-limit", "soon"],
    ["run", "--to", "x.db", "--no-verify", "--report", "r.txt"],
    ["run", "--to", "x.db", "--reembed", "m:e"],
    ["run", "--to", "x.db", "--reembed", "m:e", "--from-field", "body"],
    ["run", "--to", "x.db", "--reembed", "m:", "--from-field", "body", "--model", "new"],
    ["run", "--to", "x.db", "--model", "new"],
    ["sync", "--from", "notes.db"],
    ["sync", "--to", "notes.db"],
    ["unknown"],
    [],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage(run: Run, store: Path, arguments: list[str]) -> None:
    before = sorted(path.name for path in store.parent.iterdir())
    finished = run("migrate", *arguments)
    assert finished.code == 2
    assert sorted(path.name for path in store.parent.iterdir()) == before


# plan


def test_a_plan_in_words_and_as_json(run: Run, toml: Path) -> None:
    before = sorted(path.name for path in toml.parent.iterdir())
    finished = run("migrate", "plan", "--config", toml, "--to", "lancedb", "--switch")
    assert (finished.code, finished.err) == (0, "")
    assert "table   notes: 4 rows" in finished.out
    assert "embedding: fixed_size_list<item: float>[3] not null" in finished.out
    assert finished.out.endswith("plan: nothing stands in the way\n")
    found = json.loads(run("migrate", "plan", "--config", toml, "--to", "lancedb", "--json").out)
    assert found["ok"] is True
    assert found["target"] == {"backend": "lancedb", "target": str(toml.parent / "new.lance")}
    assert [table["name"] for table in found["tables"]] == ["notes"]
    assert sorted(path.name for path in toml.parent.iterdir()) == before


def test_a_plan_with_problems_fails(run: Run, store: Path) -> None:
    finished = run("migrate", "plan", "--from", store, "--to", store)
    assert finished.code == 1
    assert "problem the source and the target are the same store" in finished.out
    found = run("migrate", "plan", "--from", store, "--to", store, "--json")
    assert found.code == 1
    assert "same-place" in [problem["kind"] for problem in json.loads(found.out)["problems"]]


def test_a_plan_of_a_store_that_is_not_there_makes_none(run: Run, folder: Path) -> None:
    finished = run("migrate", "plan", "--from", "absent.db", "--to", "other.db")
    assert finished.code == 1
    assert "there is no store at" in finished.err
    assert finished.err.count("\n") == 1
    assert not list(folder.iterdir())


def test_a_plan_with_another_model(run: Run, store: Path, folder: Path) -> None:
    (folder / "my_embedder.py").write_text(EMBEDDER, "utf-8")
    arguments = ["--from", store, "--to", "t.db", "--from-field", "body", "--model", "new"]
    found = json.loads(
        run(
            "migrate", "plan", *arguments, "--reembed", "my_embedder:embed", "--dim", 4, "--json"
        ).out
    )
    assert found["ok"] is True
    assert (found["tables"][0]["schema"]["dim"], found["tables"][0]["schema"]["model"]) == (
        4,
        "new",
    )
    finished = run("migrate", "plan", *arguments, "--reembed", "my_embedder:absent")
    assert finished.code == 1
    assert finished.err == "error: the module 'my_embedder' has no 'absent'\n"


# run and what follows


def test_from_sqlite_to_lancedb_and_back_by_the_toml(run: Run, toml: Path, store: Path) -> None:
    original = rows_of(str(store))
    finished = run("migrate", "run", "--config", toml, "--to", "lancedb", "--switch")
    assert finished.code == 0, finished.err
    assert "migrate: done: 1 table, 4 rows copied from" in finished.out
    assert "; every row is equal" in finished.out
    assert f"switched: {toml} names the new backend" in finished.out
    assert f"next: aiovec migrate finish --config {toml} when everything works" in finished.out
    assert "copying" in finished.err
    assert "\x1b" not in finished.err
    assert tomllib.loads(toml.read_text("utf-8"))["retrieval"]["backend"] == "lancedb"
    assert toml.read_text("utf-8").startswith('# mine\n[retrieval]\nbackend = "lancedb"  # now\n')
    assert rows_of("lancedb://new.lance") == original
    # A store by its path is told where it has gone.
    moved = run("tables", store)
    assert moved.code == 1
    assert "has moved to" in moved.err

    state = json.loads(run("migrate", "status", "--config", toml, "--json").out)["run"]
    assert (state["phase"], state["over"], state["switched"]) == ("done", True, True)
    assert state["tables"]["notes"]["rows"] == 4
    assert "done, 4 of 4 rows" in run("migrate", "status", "--config", toml).out

    verified = run("migrate", "verify", "--config", toml, "--report", "r.json")
    assert verified.code == 0, verified.err
    assert json.loads(Path("r.json").read_text("utf-8"))["equal"] is True

    back = run("migrate", "rollback", "--config", toml)
    assert back.code == 0, back.err
    assert back.out == f"migrate: rolled back; apps use {store} (sqlite) again\n"
    assert tomllib.loads(toml.read_text("utf-8"))["retrieval"]["backend"] == "sqlite"
    assert rows_of(str(store)) == original


def test_rollback_carries_back_what_was_written_since(run: Run, toml: Path, store: Path) -> None:
    assert run("migrate", "run", "--config", toml, "--to", "lancedb", "--switch").code == 0

    async def write() -> None:
        async with aiovec.connect(config=toml) as opened:
            assert opened.backend_name == "lancedb"
            await opened.delete("notes", "a")
            await opened.upsert("notes", [{**ROWS[1], "year": 1999}, {**ROWS[1], "id": "new"}])

    asyncio.run(write())
    expected = rows_of("lancedb://new.lance")
    assert run("migrate", "rollback", "--config", toml).code == 0
    assert rows_of(str(store)) == expected
    assert sorted(expected) == ["b", "c", "d", "new"]


def test_the_command_that_status_names_goes_on_as_the_run_began(
    run: Run, toml: Path, store: Path
) -> None:
    """With its switch: without it, the run would end in a copy that can get none."""

    async def stop(step: str) -> None:
        if step == "copy:written":
            raise KeyError(step)

    options = Options(switch=True, verify=False, index=False)
    with pytest.raises(KeyError):
        asyncio.run(aiovec_migrate.run(None, "lancedb", config=toml, options=options, step=stop))
    status = run("migrate", "status", "--config", toml).out
    (told,) = [line for line in status.splitlines() if line.startswith("next")]
    command = told.removeprefix("next").split(", if it is")[0].split()
    assert command[:4] == ["aiovec", "migrate", "run", "--switch"]
    done = run(*command[1:])
    assert done.code == 0, done.err
    assert f"switched: {toml} names the new backend" in done.out
    assert tomllib.loads(toml.read_text("utf-8"))["retrieval"]["backend"] == "lancedb"


def test_finish_forgets_the_run(run: Run, toml: Path, store: Path) -> None:
    assert run("migrate", "run", "--config", toml, "--to", "lancedb", "--switch").code == 0
    finished = run("migrate", "finish", "--config", toml)
    assert finished.code == 0, finished.err
    assert finished.out.endswith("removed, and the old store says where it moved to\n")
    assert run("migrate", "status", "--config", toml).out == "no migration is open here\n"
    assert json.loads(run("migrate", "status", "--config", toml, "--json").out) == {"run": None}
    moved = run("tables", store)
    assert moved.code == 1
    assert "has moved to" in moved.err
    assert run("migrate", "forget", "nowhere.db").code == 1
    assert run("migrate", "forget", store).code == 0
    assert rows_of(str(store)).keys() == {"a", "b", "c", "d"}  # it is a store as any other
    assert run("migrate", "rollback", "--config", toml).code == 1


def test_a_run_without_a_switch_leaves_the_source_in_use(run: Run, store: Path) -> None:
    finished = run("migrate", "run", "--from", store, "--to", "t.db", "--json")
    assert finished.code == 0, finished.err
    assert finished.err == ""
    *events, result = objects(finished.out)
    assert {event["kind"] for event in events} >= {"phase", "progress"}
    assert result["kind"] == "result"
    assert result["run"]["phase"] == "done"
    assert result["report"]["equal"] is True
    assert rows_of("t.db") == rows_of(str(store))
    again = run("migrate", "run", "--from", store, "--to", "t.db")
    assert again.code == 0
    assert again.out.startswith("this run had already ended, so nothing was done")
    assert run("migrate", "finish").out == "migrate: finished; the journal is removed\n"


def test_one_table_of_several(run: Run, store: Path, folder: Path) -> None:
    async def more() -> None:
        async with aiovec.connect(store) as opened:
            await opened.create_table("other", SCHEMA)

    asyncio.run(more())
    assert run("migrate", "run", "--from", store, "--to", "t.db", "--table", "notes").code == 0
    assert run("tables", "t.db").lines[1][0] == "notes"
    assert len(run("tables", "t.db").lines) == 2


def test_problems_stop_a_run_before_it_writes(run: Run, store: Path) -> None:
    before = sorted(path.name for path in store.parent.iterdir())
    finished = run("migrate", "run", "--from", store, "--to", "t.db", "--table", "absent")
    assert finished.code == 1
    assert "table 'absent': the source has none; its tables are: notes" in finished.err
    assert finished.err.splitlines()[-1].startswith("error: ")
    assert not Path("t.db").exists()
    assert {path.name for path in store.parent.iterdir()} - set(before) <= {".aiovec"}


def test_verify_finds_repairs_and_reports(run: Run, store: Path) -> None:
    assert run("migrate", "run", "--from", store, "--to", "t.db").code == 0

    async def harm() -> None:
        async with aiovec.connect("t.db") as opened:
            await opened.delete("notes", "a")
            await opened.update("notes", {"year": 1}, ids="b")

    asyncio.run(harm())
    places = ["--from", store, "--to", "t.db"]
    found = run("migrate", "verify", *places, "--report", "report.txt")
    assert found.code == 1
    assert "NOT EQUAL" in found.out
    assert "'a'" in found.out
    assert Path("report.txt").read_text("utf-8").rstrip("\n") in found.out
    repaired = run("migrate", "verify", *places, "--repair", "--json")
    assert repaired.code == 0, repaired.err
    assert objects(repaired.out)[-1]["equal"] is True
    assert run("migrate", "verify", *places).code == 0
    assert rows_of("t.db") == rows_of(str(store))


def test_sync_copies_only_what_differs(run: Run, store: Path) -> None:
    assert run("migrate", "run", "--from", store, "--to", "t.db").code == 0

    async def change() -> None:
        async with aiovec.connect(store) as opened:
            await opened.delete("notes", "a")
            await opened.update("notes", {"year": 1}, ids="b")

    asyncio.run(change())
    done = run("migrate", "sync", "--from", store, "--to", "t.db")
    assert done.code == 0, done.err
    assert done.out == "migrate: synced notes: 1 rows copied, 1 deleted, of 3\n"
    assert rows_of("t.db") == rows_of(str(store))
    done = run("migrate", "sync", "--from", store, "--to", "t.db", "--json")
    assert objects(done.out)[-1]["tables"]["notes"]["copied"] == 0


def test_another_model_on_the_way(run: Run, store: Path, folder: Path) -> None:
    (folder / "my_embedder.py").write_text(EMBEDDER, "utf-8")
    arguments = ["--from", store, "--to", "t.db", "--from-field", "body", "--model", "new"]
    done = run(
        "migrate", "run", *arguments, "--dim", 4, "--reembed", "my_embedder:embed",
        "--embed-batch", 2,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = rows_of("t.db")
    for id, row in rows_of(str(store)).items():
        assert list(found[id].pop("embedding")) == [float(len(row["body"])), 1.0, 2.0, 3.0]
        row.pop("embedding")
        assert found[id] == row
    assert run("tables", "t.db").lines[1][2:] == ["4", "cosine", "new"]


# Processes


@pytest.fixture
def slow_run(store: Path, folder: Path) -> list[str]:
    """A run that stands still while it copies."""
    (folder / "my_embedder.py").write_text(EMBEDDER, "utf-8")
    return aiovec_command(
        "migrate", "run", "--from", str(store), "--to", "t.db", "--reembed", "my_embedder:slow",
        "--from-field", "body", "--model", "new", "--dim", "4",
    )  # fmt: skip


def _until_it_copies(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("copying"):
        assert line, "it ended before it copied"


@posix_only
def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    run: Run, slow_run: list[str], store: Path
) -> None:
    process = subprocess.Popen(slow_run, stderr=subprocess.PIPE, text=True)
    try:
        _until_it_copies(process)
        # From another terminal, while it holds the lock.
        status = run("migrate", "status")
        assert status.code == 0
        assert "migrate: copying" in status.out
        second = run("migrate", "run", "--from", store, "--to", "t.db")
        assert second.code == 1
        assert str(process.pid) in second.err
        # The source goes on to serve.
        assert run("tables", store).code == 0
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("error: interrupted; nothing is lost. Run the same")
    assert "Traceback" not in errors

    aborted = run("migrate", "abort")
    assert aborted.code == 0, aborted.err
    assert aborted.out == "migrate: aborted; the source is as it was\n"
    assert run("tables", "t.db").lines == []
    assert run("migrate", "run", "--from", store, "--to", "t.db").code == 0
    assert rows_of("t.db") == rows_of(str(store))


def test_an_embedding_that_gives_other_vectors_ends_in_one_line(
    run: Run, store: Path, folder: Path
) -> None:
    (folder / "short_embedder.py").write_text(
        "def embed(texts):\n    return [[1.0]] * len(texts)\n", "utf-8"
    )
    done = run(
        "migrate", "run", "--from", store, "--to", "t.db", "--reembed", "short_embedder:embed",
        "--from-field", "body", "--model", "new", "--dim", 4,
    )  # fmt: skip
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "a vector of 1 dimensions, not 4" in done.err


def test_the_report_of_a_run_is_kept(run: Run, store: Path) -> None:
    places = ["--from", store, "--to"]
    done = run("migrate", "run", *places, "t.db", "--report", "run.txt", "--journal", "j1.db")
    assert done.code == 0, done.err
    assert "verdict   " in Path("run.txt").read_text("utf-8")
    assert run(
        "migrate", "run", *places, "t2.db", "--report", "run.json", "--journal", "j2.db"
    ).code == 0  # fmt: skip
    assert json.loads(Path("run.json").read_text("utf-8"))["equal"] is True
    done = run("migrate", "run", *places, "t3.db", "--no-verify", "--journal", "j3.db")
    assert done.code == 0, done.err
    assert "; not verified" in done.out


@posix_only
def test_on_a_terminal_there_is_a_bar(folder: Path) -> None:
    async def fill() -> None:
        async with aiovec.connect("big.db") as opened:
            await opened.create_table("notes", Schema(8, fields={"lang": Field(str)}))
            rows = [{"id": f"id{n}", "embedding": [1.0 + n] * 8} for n in range(20_000)]
            await opened.insert("notes", rows)

    asyncio.run(fill())
    code, written = on_a_terminal("migrate", "run", "--from", "big.db", "--to", "t.db")
    assert code == 0, written
    assert "\x1b[" in written
    assert "migrate: done: 1 table, 20,000 rows copied" in written


def test_a_reader_that_leaves_early_does_not_stop_a_run(store: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        finished = subprocess.run(
            [*aiovec_command("migrate", "run", "--from", str(store), "--to", "t.db", "--json")],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert "Traceback" not in finished.stderr
    assert rows_of("t.db") == rows_of(str(store))
