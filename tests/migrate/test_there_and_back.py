"""Complete runs between real stores: everything is unchanged, there and back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from tests.harness.values import (
    EVERY_KIND,
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    SMALL,
    rows_of_every_kind,
    small_rows,
)
from tests.lancedb.buckets import s3_server

import aiovec
import aiovec_migrate
from aiovec import Embed, Field, MigrationError, Schema
from aiovec_migrate import Event

from .support import (
    BACK_FIRST,
    WAYS,
    At,
    a_store,
    assert_same,
    contents_at,
    fill,
    named,
    rows,
    stopped_at,
    switched,
    write_toml,
)

TABLES: dict[str, tuple[Schema, list[dict[str, Any]]]] = {
    "every": (EVERY_KIND, rows_of_every_kind(90)),
    "empty": (Schema(3, metric="dot", model="a-model", fields={"n": int}), []),
    "hostile": (
        Schema(
            4,
            metric="l2",
            fields={"name": Field(str, index="btree"), "year": int},
            payload_indexes=("payload.more",),
        ),
        [
            {**row, "id": id, "name": text, "more": {"of": [text, 1, 1.0, None, -0.0]}}
            for row, id, text in zip(
                small_rows(len(HOSTILE_IDS)), HOSTILE_IDS, HOSTILE_TEXTS * 2, strict=False
            )
        ],
    ),
    # Missing vectors, and a negative zero.
    "nullable": (
        Schema(2, metric="l2", vector_nullable=True, payload=False),
        [{"id": f"r{n}", "embedding": None if n % 3 else [-0.0, n]} for n in range(30)],
    ),
    "texts": (
        Schema(4, fields={"body": Field(str, text=True)}, embed=Embed("body")),
        [{"id": f"r{n}", "body": f"text {n}", "embedding": [n, 1, 2, 3]} for n in range(1, 9)],
    ),
}


async def fill_all(target: Path | str) -> None:
    async with aiovec.connect(target) as store:
        for table, (schema, rows) in TABLES.items():
            await store.create_table(table, schema)
            if rows:
                await store.insert(table, rows)


@pytest.mark.parametrize("route", ["ab", pytest.param("bacd", marks=pytest.mark.slow)])
async def test_every_value_survives_a_move_there_and_back_to_the_bit(
    tmp_path: Path, route: str
) -> None:
    """The stores have every kind of value and of table, and may be of the same kind."""
    places = [str(tmp_path / "first.db")]
    places += [f"lancedb://{tmp_path}/{n}" if n in "ac" else f"{tmp_path}/{n}.db" for n in route]
    await fill_all(places[0])
    before = await contents_at(places[0])
    notes = (await aiovec_migrate.plan(places[0], places[1])).notes
    assert ["'hostile' on payload.more" in note for note in notes] == [True] * (route == "ab")
    for source, target in itertools.pairwise(places):
        assert (await aiovec_migrate.run(source, target)).equal
        assert_same(before, await contents_at(target))
    assert_same(before, await contents_at(places[0]))
    async with aiovec.connect(places[-1]) as store:
        assert (await store.search_text("texts", "text 3"))[0].id == "r3"
        assert (await store.schema("hostile")).payload_indexes == ("payload.more",)


@BACK_FIRST
async def test_rows_written_during_a_run_arrive(tmp_path: Path, way: str) -> None:
    """Rows are written at every step up to the comparison. After the run, the source's schemas can
    be altered again."""
    kind = WAYS[way][0]
    config = await a_store(tmp_path, kind)
    target = f"lancedb://{tmp_path}/copy"
    async with aiovec.connect(config=config) as store:
        steps: list[str] = []

        async def write(step: str) -> None:
            if step in steps or "verify:compared" in steps:
                return
            steps.append(step)
            written = len(steps)
            await store.upsert("notes", rows(f"new{written // 2}", 3, name=step))
            if written % 2:
                await store.delete("notes", [f"new{written // 2}/1", f"r/{written}"])
            else:
                await store.update("notes", {"name": step}, ids=[f"r/{39 - written}"])
                changes = [{"id": f"r/{n}", "year": written, "payload.n": n} for n in range(5, 9)]
                await store.update("notes", [*changes, {"id": "r/10", "name": step}])

        await aiovec_migrate.run(kind, target, config=config, _step=write)
        assert len(steps) > 5
        assert_same(await contents_at(config=config), await contents_at(target))
        await store.create_table("more", SMALL)


async def test_events_name_each_phase_and_its_progress(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    events: list[Event] = []
    report = await switched(config, "lancedb", listener=events.append)
    phases = [event.phase for event in events if event.kind == "phase"]
    assert phases == ["marking", "copying", "optimizing", "verifying", "switching"]
    copied = [e for e in events if e.kind == "progress" and e.phase == "copying"]
    assert [(event.rows, event.total) for event in copied] == [(38, 38)]
    assert [table.difference.source_rows for table in report.tables] == [38]


async def test_a_copy_is_brought_up_to_date_by_the_same_command(tmp_path: Path) -> None:
    """Only differing rows are written, and rows that only the copy has are removed."""
    config = await a_store(tmp_path, "sqlite")
    target = f"lancedb://{tmp_path}/copy"
    await aiovec_migrate.run(None, target, config=config)
    async with aiovec.connect(config=config) as store, aiovec.connect(target) as copy:
        await store.upsert("notes", rows("r", 3, name="since"))
        await store.delete("notes", "r/9")
        await fill(store, "others")
        await copy.insert("notes", rows("stray", 2))
        plan = await aiovec_migrate.plan(None, target, config=config)
        assert [table.removed for table in plan.tables] == [3, 0]
        assert "3 rows only in the target would be removed" in "\n".join(plan.lines())
        events: list[Event] = []
        report = await aiovec_migrate.run(None, target, config=config, listener=events.append)
        message = [event.text for event in events if event.phase == "comparing" and event.text]
        assert message == ["6 rows differed, 3 of them only in the target and removed"]
        assert [table.removed for table in report.tables] == [3, 0]
        assert "3 rows only in the target were removed" in "\n".join(report.lines())
        assert_same(await contents_at(config=config), await contents_at(target))
        # A field that the copy does not have yet.
        await store.add_field("notes", "added", Field(str))
        await aiovec_migrate.run(None, target, config=config)
    assert_same(await contents_at(config=config), await contents_at(target))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_tables_are_neither_made_nor_altered_nor_dropped_midway(
    tmp_path: Path, way: str
) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source, "notes", "others")
    before = await contents_at(config=config)

    async def alter() -> None:
        async with aiovec.connect(config=config) as store:
            for call in (
                store.add_field("notes", "added", Field(str)),
                store.create_table("young", Schema(2)),
                store.drop_table("others"),
            ):
                with pytest.raises(MigrationError, match="a migration is open"):
                    await call
            await store.create_table("notes", SMALL, exist_ok=True)
            await store.drop_table("young", missing_ok=True)
            await store.insert("notes", rows("late", 1))

    at = At("copy:written", alter)
    await switched(config, target, step=at)
    assert at.met
    after = await contents_at(config=config)
    assert after["notes"][1].pop("late/0")
    assert_same(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_the_way_back_is_a_run_in_the_other_direction(tmp_path: Path, way: str) -> None:
    """It keeps later writes and tables, even if it was stopped and aborted in between. Then the
    rows move there again, with one store open all the time."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source, "notes", "dropped")
    async with aiovec.connect(config=config) as store:
        await switched(config, target)
        await store.insert("notes", rows("since", 3))
        await store.delete("notes", ["r/20"])
        await store.add_field("notes", "added", Field(str))
        await store.create_table("young", aiovec.Schema(2))
        await store.drop_table("dropped")
        await stopped_at("cut-over:ready", lambda at: switched(config, source, step=at))
        await aiovec_migrate.abort(config=config)
        with pytest.raises(MigrationError, match=r"no migration .*is open"):
            await aiovec_migrate.abort(config=config)
        assert store.backend_name == named(config) == target
        await store.upsert("notes", rows("since", 5))
        wanted = await contents_at(config=config)
        assert (await switched(config, source)).switched
        assert await store.tables() == ["notes", "young"]
        assert store.backend_name == named(config) == source
        assert_same(wanted, await contents_at(config=config))
        assert (await aiovec_migrate.verify(config=config)).equal
        await store.insert("notes", rows("behind", 3))
        await switched(config, target)
        assert await store.count("notes") == len(wanted["notes"][1]) + 3
        assert store.backend_name == target


async def test_the_way_back_drops_no_table_of_another_program(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "lancedb")
    await switched(config, "sqlite")
    db = await lancedb.connect_async(tmp_path / "notes.lance")
    foreign = await db.create_table("theirs", pa.table({"x": [1, 2, 3]}))
    with pytest.raises(MigrationError, match="'theirs' cannot be used"):
        await switched(config, "lancedb")
    assert await foreign.count_rows() == 3
    assert named(config) == "sqlite"
    await db.drop_table("theirs")
    await switched(config, "lancedb")
    assert named(config) == "lancedb"


@pytest.mark.soak
async def test_to_a_bucket_and_back(tmp_path: Path) -> None:
    with s3_server() as bucket:
        pairs = ", ".join(f'{key} = "{value}"' for key, value in bucket.options.items())
        more = f"[retrieval.lancedb]\nstorage_options = {{ {pairs} }}\n"
        config = write_toml(tmp_path, "sqlite", lancedb=bucket.new_url(), more=more)
        await fill_all(tmp_path / "notes.db")
        wanted = await contents_at(config=config)
        async with aiovec.connect(config=config) as store:
            await switched(config, "lancedb")
            assert await store.count("every") == 90
            assert store.backend_name == "lancedb"
            assert_same(wanted, await contents_at(config=config))
            await store.delete("every", "r0001")
            wanted["every"][1].pop("r0001")
            await switched(config, "sqlite")
        assert named(config) == "sqlite"
        assert_same(wanted, await contents_at(config=config))
