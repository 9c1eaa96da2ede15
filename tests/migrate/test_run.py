"""Whole runs between real stores, without kills."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import State

import aiovec
import aiovec_migrate
from aiovec import F
from aiovec.errors import ConfigError, MigrationError, TableNotFoundError
from aiovec_lancedb import LancedbBackend
from aiovec_migrate import Event, Options, Phase
from aiovec_migrate.verifying import compare
from aiovec_sqlite import SqliteBackend

from .pairs import PAIRS
from .support import (
    SCHEMAS,
    contents_at,
    differences,
    fill,
    migrated,
    row,
    some_rows,
    write_toml,
)

LANCE, SQLITE = "notes.lance", "notes.db"


async def source_in(target: str | Path, **counts: int) -> None:
    async with aiovec.connect(target) as store:
        await fill(store, counts)


def lance(folder: Path, name: str = LANCE) -> str:
    return f"lancedb://{folder / name}"


async def move(source: object, target: object, journal: Path, **options: Any) -> list[Event]:
    events: list[Event] = []
    await migrated(
        str(source), str(target), journal=journal, options=Options(**options),
        listener=events.append,
    )  # fmt: skip
    return events


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 97, 1000])
async def test_there_and_back_again_to_the_bit(tmp_path: Path, batch_size: int) -> None:
    first, last = tmp_path / "a.db", tmp_path / "b.db"
    await source_in(first, notes=300, others=0)
    before = await contents_at(first)
    await move(first, lance(tmp_path), tmp_path / "j1", batch_size=batch_size)
    assert differences(before, await contents_at(lance(tmp_path))) == []
    await move(lance(tmp_path), last, tmp_path / "j2", batch_size=batch_size)
    assert differences(before, await contents_at(last)) == []
    assert differences(before, await contents_at(first)) == []


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
async def test_rows_without_vectors_there_and_back(tmp_path: Path, metric: Any) -> None:
    schema = aiovec.Schema(4, metric=metric, vector_nullable=True, fields={"n": int})
    rows = [
        {"id": f"r{n:03}", "n": n, "embedding": None if n % 3 else [1.0, n, n * n, 1.0]}
        for n in range(300)
    ]
    first, last = tmp_path / "a.db", tmp_path / "b.db"
    async with aiovec.connect(first) as store:
        await store.create_table("some", schema)
        await store.insert("some", rows)
        await store.create_table("none", schema)
        await store.insert("none", [{"id": f"r{n}"} for n in range(50)])

    async def content(target: str | Path) -> list[Any]:
        async with aiovec.connect(target) as store:
            found = [await store.find(t, limit=500, include_vector=True) for t in ("some", "none")]
            assert (await store.schema("some")).vector_nullable
            hits = await store.search("some", [1.0, 3, 9, 1], limit=500)
            assert len(hits) == sum(record.vector is not None for record in found[0])
            return [[(r.id, r["n"], None if r.vector is None else r.vector.tolist()) for r in part]
                    for part in found]  # fmt: skip

    before = await content(first)
    await move(first, lance(tmp_path), tmp_path / "j1")
    assert await content(lance(tmp_path)) == before
    async with aiovec.connect(lance(tmp_path)) as store:  # and the comparison sees a difference
        await store.set_vectors("some", ["r001"], [[1.0, 2, 3, 4]])
    await move(lance(tmp_path), last, tmp_path / "j2")
    changed = await content(last)
    assert changed != before
    assert changed == await content(lance(tmp_path))


async def test_a_row_without_a_vector_is_written_by_a_repair_a_sync_and_a_way_back(
    tmp_path: Path,
) -> None:
    schema = aiovec.Schema(2, vector_nullable=True)
    config = write_toml(tmp_path, "lancedb")
    full, empty = f"{tmp_path / 'full.db'}", [lance(tmp_path, name) for name in ("a", "b")]
    rows = [{"id": "with", "embedding": [1.0, 2]}, {"id": "without"}]
    for target, given in ((full, rows), (empty[0], []), (empty[1], []), (None, rows[:1])):
        async with aiovec.connect(target, config=config if target is None else None) as store:
            await store.create_table("t", schema)
            await store.insert("t", given)
    report = await aiovec_migrate.verify(full, empty[0], repair=True, journal=tmp_path / "j")
    assert report.equal
    await aiovec_migrate.sync(full, empty[1])
    async with aiovec.connect(config=config) as store:
        await aiovec_migrate.run(
            None, "sqlite", config=config, options=Options(switch=True, index=False)
        )
        await store.insert("t", rows[1:])
        await aiovec_migrate.rollback(config=config)
        assert await store.count("t") == 2
        assert store.backend_name == "lancedb"
    for target in (*empty, None):
        async with aiovec.connect(target, config=config if target is None else None) as store:
            found = await store.find("t", include_vector=True, order_by="id")
            assert [None if one.vector is None else one.vector.tolist() for one in found] == [
                [1.0, 2.0],
                None,
            ]


async def test_a_vector_that_is_missing_is_a_difference(tmp_path: Path) -> None:
    schema = aiovec.Schema(2, vector_nullable=True)
    vector = [1.0, 2.0]
    for name, rows in (
        ("a.db", [{"id": "x", "embedding": vector}, {"id": "y"}]),
        ("b.db", [{"id": "x"}, {"id": "y"}]),
    ):
        async with aiovec.connect(tmp_path / name) as store:
            await store.create_table("t", schema)
            await store.insert("t", rows)
    report = await aiovec_migrate.verify(str(tmp_path / "a.db"), str(tmp_path / "b.db"))
    assert not report.equal


async def test_a_sync_makes_no_store_for_a_name_that_is_wrong(tmp_path: Path) -> None:
    source, target = str(tmp_path / "a.db"), str(tmp_path / "b.db")
    with pytest.raises(ConfigError, match="there is no store at"):
        await aiovec_migrate.sync(source, target)
    await source_in(source, notes=20)
    with pytest.raises(TableNotFoundError, match="nots"):
        await aiovec_migrate.sync(source, target, tables=("nots",))
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["a.db"]
    await aiovec_migrate.sync(source, target, tables=("notes",))
    assert differences(await contents_at(source), await contents_at(target)) == []


async def test_between_stores_of_one_kind(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=200, others=30)
    before = await contents_at(tmp_path / "a.db")
    await move(tmp_path / "a.db", tmp_path / "b.db", tmp_path / "j1", index=False)
    assert differences(before, await contents_at(tmp_path / "b.db")) == []
    await move(tmp_path / "b.db", lance(tmp_path, "c"), tmp_path / "j2", index=False)
    await move(lance(tmp_path, "c"), lance(tmp_path, "d"), tmp_path / "j3", index=False)
    assert differences(before, await contents_at(lance(tmp_path, "d"))) == []


async def test_one_table(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=20, others=20)
    await move(tmp_path / "a.db", tmp_path / "b.db", tmp_path / "j", tables=("others",))
    assert list(await contents_at(tmp_path / "b.db")) == ["others"]


async def test_a_switch_of_one_table_is_refused() -> None:
    with pytest.raises(MigrationError, match="all tables"):
        Options(tables=("notes",), switch=True)


async def test_the_events_tell_each_phase_and_how_far_it_is(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=50)
    events = await move(tmp_path / "a.db", lance(tmp_path), tmp_path / "j", batch_size=10)
    phases = [event.phase for event in events if event.kind == "phase"]
    assert phases == ["copying", "catching-up", "indexing", "verifying", "done"]
    copied = [e for e in events if e.kind == "progress" and e.phase == "copying"]
    assert copied[-1].rows == copied[-1].total == 47
    assert events[-1].kind == "done"


async def test_the_source_is_free_behind_a_run_without_a_switch(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=20)
    await move(tmp_path / "a.db", lance(tmp_path), tmp_path / "j")
    state = await aiovec_migrate.status(journal=tmp_path / "j")
    assert state is not None
    assert state.phase is Phase.DONE
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("more", SCHEMAS["others"])


async def test_the_outcome_has_a_report(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=20)
    outcome = await migrated(
        tmp_path / "a.db", lance(tmp_path), journal=tmp_path / "j", options=Options()
    )
    assert outcome.report is not None
    assert outcome.report.equal
    assert [table.rows.source_rows for table in outcome.report.tables] == [18]
    again = await migrated(
        tmp_path / "a.db", lance(tmp_path), journal=tmp_path / "j", options=Options()
    )
    assert again.state.run == outcome.state.run  # it is done, and stays so


async def test_a_target_with_rows_is_refused_and_nothing_is_marked(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=20)
    await source_in(tmp_path / "b.db", notes=5)
    before = await contents_at(tmp_path / "b.db")
    with pytest.raises(MigrationError, match="notes"):
        await move(tmp_path / "a.db", tmp_path / "b.db", tmp_path / "j")
    assert await aiovec_migrate.status(journal=tmp_path / "j") is None
    assert differences(before, await contents_at(tmp_path / "b.db")) == []
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("more", SCHEMAS["others"])


async def test_an_empty_table_of_the_same_schema_is_filled(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=20)
    await source_in(tmp_path / "b.db", notes=0)
    await move(tmp_path / "a.db", tmp_path / "b.db", tmp_path / "j")
    found = await contents_at(tmp_path / "b.db")
    assert differences(await contents_at(tmp_path / "a.db"), found) == []


async def test_the_store_itself_is_no_target(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=20)
    with pytest.raises(MigrationError):
        await move(tmp_path / "a.db", tmp_path / "a.db", tmp_path / "j")


async def test_what_is_written_meanwhile_arrives(tmp_path: Path) -> None:
    await source_in(tmp_path / "a.db", notes=200)
    moments = ["table:created", "copy:written", "indexed", "verify:compared"]
    async with aiovec.connect(tmp_path / "a.db") as store:

        async def write(step: str) -> None:
            if step not in moments:
                return
            n = 10 * len(moments)
            moments.remove(step)
            await store.insert("notes", some_rows(step, 30, "notes"))
            await store.delete("notes", [f"r/{k}" for k in range(n, n + 3)])
            await store.upsert("notes", [row(f"r/{n + 5}", State(7, 7), step)])
            await store.update("notes", {"name": step}, ids=["r/199"])

        await migrated(
            tmp_path / "a.db", lance(tmp_path), journal=tmp_path / "j",
            options=Options(batch_size=20), step=write,
        )  # fmt: skip
    assert not moments
    found = await contents_at(lance(tmp_path))
    assert differences(await contents_at(tmp_path / "a.db"), found) == []


async def test_rows_that_come_and_go_while_all_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ, and when it is asked for their names they have none any more."""
    await source_in(tmp_path / "a.db", notes=200)
    compared, named = compare.Sides.compared, compare.Sides.named
    rounds = 0
    async with aiovec.connect(tmp_path / "a.db") as store:

        async def come(*args: Any) -> Any:
            nonlocal rounds
            rounds += 1
            await store.insert("notes", some_rows(f"late{rounds}", 30, "notes"))
            return await compared(*args)

        async def go(*args: Any) -> Any:
            await store.delete_where("notes", F.id.startswith(f"late{rounds}/"))
            return await named(*args)

        monkeypatch.setattr(compare.Sides, "compared", come)
        monkeypatch.setattr(compare.Sides, "named", go)
        await move(tmp_path / "a.db", lance(tmp_path), tmp_path / "j")
    assert rounds == 1
    found = await contents_at(lance(tmp_path))
    assert differences(await contents_at(tmp_path / "a.db"), found) == []


async def test_a_toml_names_both(tmp_path: Path) -> None:
    await source_in(tmp_path / SQLITE, notes=20)
    config = write_toml(tmp_path, "sqlite")
    await migrated(None, "lancedb", config=config, options=Options())
    assert (tmp_path / ".aiovec" / "migration.db").exists()
    found = await contents_at(lance(tmp_path))
    assert differences(await contents_at(tmp_path / SQLITE), found) == []


@pytest.mark.parametrize(("source", "target"), PAIRS, ids="-".join)
async def test_a_run_opens_each_store_once_and_each_table_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    ends = [f"lancedb://{tmp_path}/{n}" if kind == "lancedb" else f"{tmp_path}/{n}.db"
            for n, kind in enumerate((source, target))]  # fmt: skip
    async with aiovec.connect(ends[0]) as store:
        await store.create_table("notes", aiovec.Schema(2))
        await store.insert("notes", [{"id": "one", "embedding": [1, 2]}])
    stores: list[str] = []
    tables: list[str] = []
    for kind in (SqliteBackend, LancedbBackend):
        _counted(kind, "open", stores, monkeypatch)
        _counted(kind, "open_table", tables, monkeypatch)
    outcome = await migrated(*ends, journal=tmp_path / "journal")
    assert outcome.state.phase is Phase.DONE
    assert sorted(stores) == sorted(ends_of(outcome.state))
    # The plan looks at the source's before the run marks it; until then it may be altered.
    [first, second] = ends_of(outcome.state)
    assert tables.count(first) == 2
    assert tables.count(second) == 1


def ends_of(state: aiovec_migrate.RunState) -> list[str]:
    return [state.source.target, state.target.target]


def _counted(kind: type[Any], name: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = getattr(kind, name)

    async def counted(self: Any, *args: Any) -> Any:
        calls.append(self.target)
        return await plain(self, *args)

    monkeypatch.setattr(kind, name, counted)
