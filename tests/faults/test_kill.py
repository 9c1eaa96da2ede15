"""A writer that is killed at random moments loses nothing that it acknowledged."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import (
    SCHEMAS,
    State,
    all_changes,
    check_file,
    opened,
    python,
    vector,
    whole_table,
)

import aiovec
from aiovec import VectorStore

from .crash_writer import OWN_FIELDS, Content, body_of


class Journal:
    """What the killed process said: the calls that it began, and those that were acknowledged."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[str, dict[str, State | None]]] = {}
        self.done: set[str] = set()
        # Of each table that one task had for itself: what it held when a call was acknowledged,
        # and the call that was open then, with what the table holds after it.
        self.tables: dict[str, Content | None] = {}
        self.open: dict[str, tuple[str, Content | None]] = {}
        self.kinds: Counter[str] = Counter()  # the calls that a kill met
        self.heard = threading.Event()

    def listen(self, stream: Any) -> None:
        for line in stream:
            if not line.endswith("\n"):
                break  # the kill cut it: nobody has read that as said
            kind, number, *rest = json.loads(line)
            if kind == "begin":
                owner, plain = rest
                self.begun[number] = (owner, {i: s and State(*s) for i, s in plain.items()})
            elif kind == "done":
                self.done.add(number)
                self.heard.set()
            elif kind == "table":
                self.open[number] = (rest[0], rest[1])
                self.tables.setdefault(number, None)
            elif kind == "table-done":
                self.tables[number] = self.open.pop(number)[1]
            else:
                self.said(kind, number)
        self.kinds.update(kind for kind, _ in self.open.values())

    def said(self, kind: str, what: str) -> None:
        """Anything else that a writer tells."""
        raise AssertionError(f"{kind} {what}")

    def so_far(self) -> str:
        """For the message of a failure."""
        return f"{len(self.done)} calls acknowledged"

    def owner(self, id: str) -> str:
        return id.partition("/")[0]


def run_and_kill(
    target: Path | str,
    table: str,
    turn: int,
    chance: random.Random,
    *,
    writer: str = "tests.faults.crash_writer",
    journal: Journal | None = None,
    environment: Mapping[str, str] | None = None,
    patience: float = 60.0,
) -> Journal:
    """What the writer said until it was killed, soon after its journal had heard enough."""
    journal = journal or Journal()
    arguments = [str(target), table, str(turn), str(chance.randrange(10**6))]
    with tempfile.TemporaryDirectory() as folder:  # nothing that a killed process made stays
        process = python(
            "-m", writer, *arguments, stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {}), "TMPDIR": folder},
        )  # fmt: skip
        listener = threading.Thread(target=journal.listen, args=(process.stdout,))
        listener.start()
        try:
            ends = time.monotonic() + patience
            while not journal.heard.wait(0.2):
                assert process.poll() is None, "the writer ended by itself"
                assert time.monotonic() < ends, f"not enough in {patience} s: {journal.so_far()}"
            # Now and then very soon, else anywhere within the next half second.
            time.sleep(chance.choice([0.0, 0.02, 0.5]) * chance.random())
            assert process.poll() is None, "the writer ended by itself"
        finally:
            process.kill()
            process.wait()
            listener.join()
            process.stdout.close()
    return journal


def settle(journal: Journal, before: dict[str, State], found: dict[str, aiovec.Record]) -> None:
    """Check what is there against what was said, and bring ``before`` to what is there."""
    for number in [n for n in journal.begun if n in journal.done]:
        for id, state in journal.begun[number][1].items():
            if state is None:
                before.pop(id, None)
            else:
                before[id] = state
    problems = []
    # Calls that were begun and not acknowledged: wholly done, or not at all.
    for number, (owner, states) in journal.begun.items():
        if number in journal.done:
            continue
        kept = [_matches(found.get(id), state, owner) for id, state in states.items()]
        if all(kept):
            for id, state in states.items():
                if state is None:
                    before.pop(id, None)
                else:
                    before[id] = state
        elif any(kept) and any(
            _matches(found.get(id), state, owner) and before.get(id) != state
            for id, state in states.items()
        ):
            problems.append(f"{number} is half there")
    for id, state in before.items():
        if id not in found:
            problems.append(f"{id} is missing")
        else:
            problems += state.problems(found[id], journal.owner(id))
    problems += [f"{id} should not be there" for id in found if id not in before]
    assert not problems, problems[:20]


def _matches(record: aiovec.Record | None, state: State | None, owner: str) -> bool:
    if record is None or state is None:
        return record is None and state is None
    return not state.problems(record, owner)


async def check_tables(store: VectorStore, journal: Journal) -> None:
    """The tables that a task had for itself hold what they must, and are dropped.

    A call that was not acknowledged is wholly done, or not at all. An import is many calls, so
    each row is as before it or as after it.
    """
    there = set(await store.tables())
    for table, before in journal.tables.items():
        kind, after = journal.open.get(table, ("", before))
        known = [one for one in (before, after) if one is not None]
        found = await _content(store, table, known) if table in there else None
        if kind == "import" and found != before:
            assert before is not None
            assert after is not None
            assert found is not None
            assert found["rows"].keys() <= after["rows"].keys(), (table, kind)
            for id, row in after["rows"].items():
                assert found["rows"].get(id) in (before["rows"].get(id), row), (table, kind, id)
        else:
            assert found in (before, after), (table, kind, _differences(found, before, after))
        if found is not None:
            await store.drop_table(table)


def _differences(found: Content | None, *wanted: Content | None) -> list[str]:
    """For the message of a failure."""
    told = []
    for one in wanted:
        if found is None or one is None:
            told.append(f"there: {found is not None}, wanted: {one is not None}")
            continue
        ids = sorted(found["rows"].keys() | one["rows"].keys())
        other = [id for id in ids if found["rows"].get(id) != one["rows"].get(id)]
        told.append(
            f"fields {found['fields']}, wanted {one['fields']}; {len(other)} of {len(ids)} rows"
            f" differ: {[(i, found['rows'].get(i), one['rows'].get(i)) for i in other[:5]]}"
        )
    return told


async def _content(store: VectorStore, table: str, known: Sequence[Content]) -> Content:
    """What a table holds, in the form of ``crash_writer.TableWorker``; its vectors are checked."""
    schema = await store.schema(table)
    fields = [name for name in schema.fields if name not in OWN_FIELDS]
    ids = list(await whole_table(store, table))
    versions = sorted({row[0] for one in known for row in one["rows"].values()}, reverse=True)
    rows = {}
    for record in await store.get(table, ids):
        late = {record.fields[name] for name in fields} or {None}
        assert len(late) == 1, (table, record.id, late)
        assert record.fields["body"] == body_of(record.id)
        deep = record.fields.get("deep", {"x": None, "same": "kept"})
        assert deep["same"] == "kept", (table, record.id, deep)
        version = await asyncio.to_thread(_version_of, record, versions)
        rows[record.id] = [version, record.fields["n"], late.pop(), deep["x"]]
    assert len(rows) == len(ids)
    assert await store.count(table) == len(ids)
    text = schema.fields["body"].text
    if text and ids:
        await store.optimize(table)  # which goes on with a build that was killed
        found = await store.search_text(table, "common", limit=len(ids) + 1)
        assert {hit.id for hit in found} == set(ids), (table, "keywords")
    return {"fields": fields, "text": text, "rows": rows}


def _version_of(record: aiovec.Record, versions: Sequence[int]) -> int:
    """The write that a vector came with."""
    for version in versions:
        if vector(record.id, version).tobytes() == record.vector.tobytes():
            return version
    raise AssertionError(f"{record.id} has a vector that nobody wrote")


async def records(path: Path, table: str) -> dict[str, aiovec.Record]:
    async with opened(path) as store:
        exported = await whole_table(store, table)
        found = {r.id: r for r in await store.get(table, list(exported))}
        assert found.keys() == exported.keys()
        applied, _ = await all_changes(store, table)
        assert applied == exported, "the change feed is not what the table holds"
        assert await store.count(table) == len(found)
        for record in list(found.values())[:3]:
            nearest = await store.search(table, record.vector, limit=len(found))
            assert record.id in {hit.id for hit in nearest}
    return found


async def check_own_tables(path: Path, journal: Journal) -> None:
    async with opened(path) as store:
        await check_tables(store, journal)


async def create(path: Path) -> None:
    async with opened(path) as store:
        for name, schema in SCHEMAS.items():
            await store.create_table(name, schema)


def campaign(path: Path, rounds: int, seed: int) -> tuple[int, Counter[str]]:
    """Rounds on one file, so that each starts from what the last one left: the acknowledged
    calls, and the calls of whole tables that kills met."""
    chance = random.Random(seed)
    asyncio.run(create(path))
    expected: dict[str, dict[str, State]] = {name: {} for name in SCHEMAS}
    acknowledged = 0
    kinds: Counter[str] = Counter()
    for turn in range(rounds):
        table = list(SCHEMAS)[turn % len(SCHEMAS)]
        journal = run_and_kill(path, table, turn, chance)
        acknowledged += len(journal.done)
        if turn % 2:  # by turns, who recovers the WAL
            check_file(path)
        asyncio.run(check_own_tables(path, journal))
        kinds += journal.kinds
        found = asyncio.run(records(path, table))
        settle(journal, expected[table], found)
        counts = check_file(path)
        assert counts == {name: len(rows) for name, rows in expected.items()}
    return acknowledged, kinds


def test_killed_writers(tmp_path: Path) -> None:
    acknowledged, kinds = campaign(tmp_path / "notes.db", 6, seed=20)
    assert acknowledged >= 6
    assert kinds


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_killed_writers_500_rounds(tmp_path: Path, part: int) -> None:
    """50 of them in each part."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # noqa: T201 - to run a failed campaign again
    acknowledged, kinds = campaign(tmp_path / "notes.db", 50, seed)
    assert acknowledged > 50
    assert len(kinds) > 4, kinds
