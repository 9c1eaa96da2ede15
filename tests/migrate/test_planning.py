"""What a plan finds on both sides, and that looking leaves no trace."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import Field, Schema
from aiovec.backend import Destination
from aiovec.errors import AiovecError, ConfigError, MigrationError
from aiovec_lancedb import LancedbBackend
from aiovec_migrate.locate import free_room, locate
from aiovec_migrate.planning.look import make_plan
from aiovec_migrate.planning.report import Plan, duration
from aiovec_migrate.state import Options

from .support import as_nobody

SCHEMA = Schema(
    8,
    model="m1",
    fields={
        "body": Field(str, text=True),
        "seen": "datetime",
        "tags": list[str],
        "year": Field(int, nullable=False),
    },
)
KINDS = ["sqlite", "lancedb"]


def rows(count: int, *, dim: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "id": f"id{n}",
            "embedding": [1.0 + n, *[0.5] * (dim - 1)],
            "body": f"text {n}",
            "year": n,
        }
        for n in range(count)
    ]


def place(kind: str, folder: Path, name: str) -> str:
    return f"{folder}/{name}.db" if kind == "sqlite" else f"lancedb://{folder}/{name}"


Fill = Callable[..., str]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Makes a store with these tables; its target."""

    def make(kind: str, name: str = "source", **tables: tuple[Schema, int]) -> str:
        target = place(kind, tmp_path, name)

        async def write() -> None:
            async with aiovec.connect(target) as store:
                for table, (schema, count) in tables.items():
                    await store.create_table(table, schema)
                    if count:
                        await store.insert(table, rows(count, dim=schema.dim))

        asyncio.run(write())
        return target

    return make


def plan(source: str | None, target: str | None, **options: Any) -> Plan:
    return asyncio.run(make_plan(source, target, **options))


def look_at(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """All that lies below a folder, and what it holds.

    But for the folders in which LanceDB's readers, as every reader, say that they read.
    """
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        if path.is_file()
        else (0, None)
        for path in sorted(folder.rglob("*"))
        if "readers" not in path.parts
    }


def kinds(found: Plan) -> list[str]:
    return [problem.kind for problem in found.problems]


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_a_plan_tells_all_and_writes_nothing(
    fill: Fill, tmp_path: Path, source: str, target: str
) -> None:
    there = fill(source, notes=(SCHEMA, 300), other=(Schema(3), 0))
    goal = place(target, tmp_path, "deep/er/target")
    before = look_at(tmp_path)
    found = plan(there, goal)
    assert look_at(tmp_path) == before
    assert found.ok, found.to_text()
    assert not found.target_exists
    assert (found.source.backend, found.target.backend) == (source, target)
    assert found.target.target == goal.removeprefix("lancedb://")
    notes, other = found.tables
    assert (notes.name, notes.rows, notes.there) == ("notes", 300, None)
    assert notes.bytes >= 300 * 32
    assert notes.schema == SCHEMA.to_dict()
    assert notes.arrow[:2] == (
        "id: string not null",
        "embedding: fixed_size_list<item: float>[8] not null",
    )
    assert "seen: timestamp[us, tz=UTC]" in notes.arrow
    assert other.rows == 0
    assert found.rows == 300
    assert found.seconds is not None
    assert found.seconds > 0
    assert found.rates is not None
    assert found.rates.write is not None
    assert found.free is not None
    assert found.needed > notes.bytes
    text = found.to_text()
    for words in ("which will be created", "300 rows", "embedding: fixed_size_list", "needed at",
                  "plan: nothing stands in the way"):  # fmt: skip
        assert words in text
    assert json.loads(found.to_json())["tables"][0]["name"] == "notes"


@pytest.mark.parametrize("target", KINDS)
def test_a_plan_for_a_store_that_is_there_writes_nothing(
    fill: Fill, tmp_path: Path, target: str
) -> None:
    source = fill("sqlite", notes=(SCHEMA, 20))
    goal = fill(target, "target", notes=(SCHEMA, 0), stays=(SCHEMA, 1))
    before = look_at(tmp_path)
    found = plan(source, goal)
    assert look_at(tmp_path) == before
    assert found.ok, found.to_text()
    assert found.target_exists
    assert found.tables[0].there == 0
    assert found.other_tables == ("stays",)
    assert "is in the target already: 0 rows, the same schema" in found.to_text()
    assert "stays   in the target: stays" in found.to_text()


COLLISIONS = [
    (Schema(9, model="m1", fields=SCHEMA.fields), 0, ["dim"]),
    (Schema(8, model="m2", fields=SCHEMA.fields), 0, ["model"]),
    (Schema(8, model="m1", metric="l2", fields=SCHEMA.fields), 0, ["schema"]),
    (Schema(8, model="m1", fields={**SCHEMA.fields, "extra": int}), 0, ["schema"]),
    (SCHEMA, 2, ["rows"]),
    (Schema(4, model=None, fields=SCHEMA.fields), 2, ["dim", "model", "rows"]),
]


@pytest.mark.parametrize(("schema", "count", "expected"), COLLISIONS)
def test_what_collides_in_the_target(
    fill: Fill, tmp_path: Path, schema: Schema, count: int, expected: list[str]
) -> None:
    source = fill("sqlite", notes=(SCHEMA, 3))
    found = plan(source, fill("sqlite", "target", notes=(schema, count)))
    assert kinds(found) == expected
    assert all(problem.table == "notes" for problem in found.problems)
    assert not found.ok
    assert found.seconds is None
    assert "plan: " in found.to_text()
    assert "in the way" not in found.to_text()
    with pytest.raises(MigrationError, match="table 'notes'"):
        found.check()


def test_the_same_place_by_two_names(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill("sqlite", notes=(SCHEMA, 3))
    monkeypatch.chdir(tmp_path)
    assert kinds(plan(source, "source.db")) == ["same-place"]
    assert kinds(plan(source, "sqlite:///" + source)) == ["same-place"]
    source = fill("lancedb", notes=(SCHEMA, 3))
    assert "same-place" in kinds(plan(source, source + "/"))


@pytest.mark.skipif(os.name == "nt", reason="Windows needs a right to make links")
def test_the_same_place_behind_a_link(fill: Fill, tmp_path: Path) -> None:
    source = fill("sqlite", notes=(SCHEMA, 3))
    (tmp_path / "link.db").symlink_to(source)
    assert kinds(plan(source, str(tmp_path / "link.db"))) == ["same-place"]


def test_a_table_that_the_source_does_not_have(fill: Fill, tmp_path: Path) -> None:
    source = fill("sqlite", notes=(SCHEMA, 3), other=(SCHEMA, 0))
    found = plan(source, place("sqlite", tmp_path, "t"), options=Options(tables=("notes", "gone")))
    assert [table.name for table in found.tables] == ["notes"]
    assert kinds(found) == ["missing-table"]
    assert "its tables are: notes, other" in str(found.problems[0])


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(ConfigError, match="there is no store at"):
            plan(place(kind, tmp_path, "absent"), place("sqlite", tmp_path, "t"))
    assert not list(tmp_path.iterdir())


def test_a_target_that_nobody_named(fill: Fill) -> None:
    with pytest.raises(MigrationError, match="name the target store"):
        plan(fill("sqlite", notes=(SCHEMA, 3)), None)


@pytest.mark.parametrize("memory", [":memory:", "memory://x"])
def test_a_target_in_memory(fill: Fill, memory: str) -> None:
    with pytest.raises(MigrationError, match="only its own process can read it"):
        plan(fill("sqlite", notes=(SCHEMA, 3)), memory)


def test_an_empty_file_and_an_empty_folder_stay_empty(fill: Fill, tmp_path: Path) -> None:
    source = fill("sqlite", notes=(SCHEMA, 3))
    (tmp_path / "empty.db").touch()
    (tmp_path / "empty").mkdir()
    for target in (f"{tmp_path}/empty.db", f"lancedb://{tmp_path}/empty", f"{tmp_path}/empty"):
        assert plan(source, target).ok
    assert (tmp_path / "empty.db").stat().st_size == 0
    assert not list((tmp_path / "empty").iterdir())


def test_a_target_that_is_no_store(fill: Fill, tmp_path: Path) -> None:
    source = fill("sqlite", notes=(SCHEMA, 3))
    (tmp_path / "other.db").write_bytes(b"something else" * 100)
    with pytest.raises(AiovecError, match=r"other\.db"):
        plan(source, f"{tmp_path}/other.db")
    assert kinds(plan(source, f"{tmp_path}/other.db/below.db")) == ["not-writable"]


def test_too_little_room(fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fill("sqlite", notes=(SCHEMA, 300))
    target = place("sqlite", tmp_path, "t")
    assert free_room(locate(target, None)) == pytest.approx(_free(tmp_path), rel=0.1)
    needed = plan(source, target).needed
    for free, expected in ((needed - 1, ["room"]), (needed, [])):
        with monkeypatch.context() as patched:
            patched.setattr("aiovec_migrate.planning.look.free_room", lambda _, free=free: free)
            found = plan(source, target)
        assert kinds(found) == expected
        assert found.free == free


def _free(folder: Path) -> int:
    import shutil

    return shutil.disk_usage(folder).free


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
def test_a_target_that_this_user_may_not_write(fill: Fill) -> None:
    from aiovec_migrate.locate import unwritable

    with tempfile.TemporaryDirectory() as name:  # others may enter it, unlike tmp_path
        folder = Path(name)
        folder.chmod(0o755)
        places = [locate(place(kind, folder, "a/b"), None) for kind in KINDS]
        with as_nobody():
            found = [unwritable(each) for each in places]
        assert found == [f"this user may not write in {folder}"] * 2
        assert [unwritable(each) for each in places] == [None, None]


# The index that the target gets


def test_the_index_of_the_target(fill: Fill, tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text("[retrieval.lancedb]\nindex_from = 256\n", "utf-8")
    source = fill("sqlite", few=(SCHEMA, 10), many=(SCHEMA, 400))
    few, many = plan(source, "lancedb", config=config).tables
    assert few.index == "none: a search scans every row of a table below 256 rows"
    assert many.index == "ivf_rq in 6 partitions with 4 bits per dimension"
    few, many = plan(source, place("sqlite", tmp_path, "t")).tables
    assert few.index == many.index == "none: every search is exact"
    without = plan(source, "lancedb", config=config, options=Options(index=False))
    assert {table.index for table in without.tables} == {"none, as requested"}


def test_what_lies_in_lancedb_is_opened_without_upkeep(
    fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no upkeep of it begins, which would write."""
    source, target = (fill("lancedb", name, notes=(SCHEMA, 0)) for name in ("source", "target"))
    opened: list[tuple[str, bool]] = []
    open_it = LancedbBackend.open

    async def noted(self: LancedbBackend) -> None:
        opened.append((f"lancedb://{self.target}", not self.upkeep))
        await open_it(self)

    monkeypatch.setattr(LancedbBackend, "open", noted)
    assert plan(source, target).ok
    assert opened == [(source, True), (target, True)]


# A run that is open


def test_a_source_with_an_open_run(fill: Fill, tmp_path: Path) -> None:
    source, target = fill("sqlite", notes=(SCHEMA, 3)), place("sqlite", tmp_path, "t")
    _mark(source, moved=False)
    found = plan(source, target)
    assert kinds(found) == ["run-open"]
    assert "run-1" in str(found.problems[0])
    assert plan(source, target, run="run-1").ok
    _mark(source, moved=True)
    found = plan(source, target)
    assert kinds(found) == ["moved"]
    assert "elsewhere" in str(found.problems[0])
    assert found.tables == ()


def _mark(source: str, *, moved: bool) -> None:
    from aiovec.backend import Moves

    async def mark() -> None:
        backend = await asyncio.to_thread(lambda: locate(source, None).backend())
        await backend.open()
        try:
            assert isinstance(backend, Moves)
            await backend.begin_move("run-1", Destination("elsewhere"))
            if moved:
                await backend.pause_writers("run-1", 5.0)
                assert await backend.set_moved("run-1", 1)
        finally:
            await backend.close()

    asyncio.run(mark())


# A switch


@pytest.fixture
def config(fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TOML file whose sqlite store has a table, without the keyword search that plans note."""
    for name in list(os.environ):
        if name.upper().startswith("AIOVEC_"):
            monkeypatch.delenv(name)
    fields = {**SCHEMA.fields, "body": str}
    fill("sqlite", notes=(Schema(8, model="m1", fields=fields), 3))
    path = tmp_path / "aiovec.toml"
    path.write_text("[retrieval]\nsqlite_path = 'source.db'\nlancedb_url = 'new'\n", "utf-8")
    return path


SWITCH = Options(switch=True)


def test_a_switch_by_the_toml(config: Path, tmp_path: Path) -> None:
    before = look_at(tmp_path)
    found = plan(None, "lancedb", config=config, options=SWITCH)
    assert look_at(tmp_path) == before
    assert found.ok, found.to_text()
    assert found.notes == ()
    assert found.config == str(config)
    assert f"switch  {config} will name the target's backend" in found.to_text()
    # A target that is the TOML's own is as good as its name.
    assert plan("sqlite", f"lancedb://{tmp_path}/new", config=config, options=SWITCH).ok


def test_a_switch_to_what_the_toml_does_not_name(config: Path, tmp_path: Path) -> None:
    target = f"lancedb://{tmp_path}/another"
    assert kinds(plan(None, target, config=config, options=SWITCH)) == ["not-configured"]
    assert plan(None, target, config=config).ok


def test_a_switch_away_from_another_store(fill: Fill, config: Path) -> None:
    other = fill("sqlite", "another", notes=(SCHEMA, 1))
    assert kinds(plan(other, "lancedb", config=config, options=SWITCH)) == ["not-present"]


def test_a_switch_without_a_toml(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    source = fill("sqlite", notes=(SCHEMA, 3))
    assert kinds(plan(source, "lancedb://new", options=SWITCH)) == ["no-config"]


def test_a_switch_that_a_variable_would_undo(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__BACKEND", "sqlite")
    found = plan(None, "lancedb", config=config, options=SWITCH)
    assert found.ok
    (note,) = found.notes
    assert "AIOVEC_RETRIEVAL__BACKEND keeps apps on 'sqlite'" in note
    assert plan(None, "lancedb", config=config).notes == ()


def test_a_switch_from_a_store_whose_writers_share_no_lock(fill: Fill, config: Path) -> None:
    """It is refused in plain words, and the move while nobody writes is offered."""
    fill("lancedb", "new", notes=(SCHEMA, 3))
    config.write_text(
        "[retrieval]\nbackend='lancedb'\nsqlite_path='t.db'\nlancedb_url='new'\n", "utf-8"
    )
    assert plan(None, "sqlite", config=config, options=SWITCH).ok
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LancedbBackend, "supports", lambda self, ability: ability != "moves")
        found = plan(None, "sqlite", config=config, options=SWITCH)
        assert kinds(found) == ["no-lock"]
        assert "stop its writers, and leave out --switch" in str(found.problems[0])
        found = plan(None, "sqlite", config=config)
        assert found.ok, found.to_text()
        assert "only while nobody writes to it" in found.notes[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
