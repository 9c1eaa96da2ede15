"""The file system fails for a moment, or for longer: what is told then is true (B8)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiovec

from . import shim

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.compiled(tmp_path_factory.mktemp("shim"))


def run(library: Path, code: str, folder: Path, *arguments: str) -> list[Any]:
    """The lines of JSON that the code printed, until it ended or killed itself."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *arguments],
        cwd=ROOT,
        env=shim.environment(library, folder.parent / f"{folder.name}.control"),
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


TARGET = """
import asyncio, json, os, signal, sys
from pathlib import Path
import aiovec
from aiovec import AiovecError, CorruptStoreError, OutcomeUnknownError, Schema
from tests.faults import shim

folder, kind = Path(sys.argv[1]), sys.argv[2]
TARGET = str(folder / "s.db") if kind == "sqlite" else f"lancedb://{folder / 's'}"

def row(id):
    return {"id": id, "embedding": [1.0, 2.0, 3.0, len(id)], "text": "x" * 500}

def tell(*facts):
    print(json.dumps(facts), flush=True)
"""

# Inserts a row each time while calls fail, tells what came of it, and is killed at the end.
WRITE = (
    TARGET
    + """
async def main():
    store = await aiovec.connect(TARGET)
    await store.create_table("notes", Schema(4, fields={"text": str}))
    await store.insert("notes", [row("first")])
    faults, calls, path, most = shim.here(), *map(json.loads, sys.argv[3:6])
    n = 0
    for fail in (1, 2, most):
        for skip in range(8):
            n += 1
            faults.arm(calls, path, skip=skip, fail=fail)
            try:
                await store.insert("notes", [row(f"r{n}")])
                came = "done"
            except OutcomeUnknownError as exc:
                came = "unknown"
            except CorruptStoreError as exc:
                came = f"corrupt: {exc}"
            except AiovecError as exc:
                came = f"failed: {exc}"
            failed = faults.disarm()
            tell(f"r{n}", came, failed, await store.count("notes", f"id = 'r{n}'"))
            if skip % 4 == 3:
                await store.insert("notes", [row(f"good{n}")])
                tell(f"good{n}", "done", 0, 1)
    # The last of them is not followed by another write, which could take its place in the log.
    faults.arm(calls, path, fail=int(sys.argv[6]) if len(sys.argv) > 6 else 1)
    try:
        await store.insert("notes", [row("last")])
        came = "done"
    except OutcomeUnknownError:
        came = "unknown"
    except AiovecError as exc:
        came = f"failed: {exc}"
    tell("last", came, faults.disarm(), await store.count("notes", "id = 'last'"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
)


def ids_after(folder: Path, kind: str) -> set[str]:
    async def read() -> set[str]:
        target = str(folder / "s.db") if kind == "sqlite" else f"lancedb://{folder / 's'}"
        async with aiovec.connect(target) as store:
            found = await store.find("notes", limit=10_000)
            assert len(await store.search("notes", [1, 2, 3, 4], limit=10_000)) == len(found)
            return {record.id for record in found}

    return asyncio.run(read())


def check(outcomes: list[Any], there: set[str]) -> None:
    """``there`` are the rows behind the kill, when a new process looked."""
    assert outcomes[-1][0] == "last"
    assert any(failed for _, _, failed, _ in outcomes)
    for id, came, failed, seen in outcomes:
        if came == "done":
            assert seen, id
            assert id in there
        elif came.startswith("failed"):
            assert not seen, f"{id} is there, though it was told: {came}"
            assert id not in there, f"{id} came to light, though it was told: {came}"
        else:
            assert came == "unknown", came
        assert failed or came == "done", came


# A commit is in the WAL; the file itself has it with the next checkpoint.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "calls"),
    [
        ("s.db-wal", shim.SYNC),
        ("s.db-wal", shim.WRITE),
        ("s.db-wal", shim.WRITE | shim.SYNC | shim.READ),
        ("s.db", shim.WRITE | shim.SYNC | shim.READ),
        pytest.param("s.db", shim.SYNC, marks=pytest.mark.soak),
        pytest.param("s.db", shim.WRITE, marks=pytest.mark.soak),
    ],
)
def test_a_failed_commit_of_sqlite(tmp_path: Path, library: Path, path: str, calls: int) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    outcomes = run(library, WRITE, folder, "sqlite", str(calls), json.dumps(path), "1000")
    check(outcomes, ids_after(folder, "sqlite"))


def test_a_commit_whose_flush_fails_for_good_is_of_unknown_outcome(
    tmp_path: Path, library: Path
) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    told = run(
        library, WRITE, folder, "sqlite", str(shim.SYNC), json.dumps("s.db-wal"), "1000", "1000"
    )
    assert told[-1][:2] == ["last", "unknown"]
    check(told, ids_after(folder, "sqlite"))


# Reads while calls fail, each time with a store that has nothing of the file in memory.
READ = (
    TARGET
    + """
import numpy as np

async def main():
    dim = 256
    vectors = np.random.default_rng(1).standard_normal((2000, dim), dtype=np.float32)
    ids = [f"r{n}" for n in range(len(vectors))]
    async with aiovec.connect(TARGET) as store:
        await store.create_table("notes", Schema(dim, fields={"text": str}))
        rows = {"id": ids, "embedding": vectors, "text": ["x" * 100] * len(ids)}
        await store.insert("notes", rows)
    faults = shim.here()

    async def export(store):
        return [batch async for batch in store.export("notes")]

    calls = [
        lambda store: store.search("notes", vectors[0], limit=3, exact=True),
        lambda store: store.get("notes", ids[::100]),
        lambda store: store.find("notes", "text LIKE 'x%'", limit=50),
        export,
    ]
    for n, call in enumerate(calls):
        for skip in (0, 1, 2, 4, 8, 16, 40, 80, 150, 300):
            async with aiovec.connect(TARGET) as store:
                await store.schema("notes")
                faults.arm(shim.READ, "/place/s", skip=skip, fail=json.loads(sys.argv[3]))
                try:
                    await call(store)
                    came = "done"
                except AiovecError as exc:
                    came = f"{type(exc).__name__}: {exc}"
                failed = faults.disarm()
                tell(n, came, failed)
                await call(store)  # it was for a moment only

asyncio.run(main())
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fail"),
    [
        ("sqlite", 1000),
        ("lancedb", 1),
        pytest.param("sqlite", 1, marks=pytest.mark.soak),
        pytest.param("lancedb", 1000, marks=pytest.mark.soak),
    ],
)
def test_a_failed_read_is_not_told_as_damage(
    tmp_path: Path, library: Path, kind: str, fail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__SCAN", "disk")
    outcomes = run(library, READ, folder, kind, str(fail))
    assert any(failed for _, _, failed in outcomes)
    told = [came for _, came, failed in outcomes if failed and came != "done"]
    assert told
    for came in told:
        assert not came.startswith("Corrupt"), came
        assert "backup" not in came, came


# Whether the call is told as failed, and what the table says of the field at once and for others.
INDEX = (
    TARGET
    + """
async def main():
    store = await aiovec.connect(TARGET)
    await store.create_table("notes", Schema(4, fields={"text": aiovec.Field(str, index="btree")}))
    # More than one transaction indexes.
    count, path = (7000, "s.db-wal") if kind == "sqlite" else (50, "notes.lance")
    await store.insert("notes", [row(f"r{n}") for n in range(count)])
    for wanted in ("text",) if kind == "sqlite" else ("text", "bitmap"):
        for skip in range(0, 150, 10) if kind == "sqlite" else range(0, 40, 2):
            fail = 1000 if skip % 4 else 3
            shim.here().arm(shim.WRITE | shim.OPEN, path, skip=skip, fail=fail)
            try:
                await store.create_field_index("notes", "text", wanted)
                came = "done"
            except OutcomeUnknownError as exc:
                came = f"unknown: {exc}"
            except AiovecError as exc:
                came = f"failed: {exc}"
            failed = shim.here().disarm()
            async with aiovec.connect(TARGET) as other:
                field = (await other.schema("notes")).fields["text"]
            tell(came, failed, [field.text, field.index])
            if [field.text, field.index] != [False, "btree"]:
                async with aiovec.connect(TARGET) as other:
                    await other.optimize("notes")
                if wanted == "text":
                    assert len(await store.search_text("notes", "x" * 500, limit=10_000)) == count
                await store.drop_field_index("notes", "text", wanted)
                await store.create_field_index("notes", "text", "btree")
    async with aiovec.connect(TARGET) as other:
        await other.optimize("notes")
        field = (await other.schema("notes")).fields["text"]
    tell("in the end", 0, [field.text, field.index])

asyncio.run(main())
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_an_index_that_cannot_be_completed_is_not_told_as_refused(
    tmp_path: Path, library: Path, kind: str
) -> None:
    """The schema has it already, and the next upkeep completes it."""
    folder = tmp_path / "place"
    folder.mkdir()
    *outcomes, last = run(library, INDEX, folder, kind)
    assert last == ["in the end", 0, [False, "btree"]]
    assert {came.partition(":")[0] for came, _, _ in outcomes} >= {"done", "unknown"}
    assert any("optimize('notes') completes it" in came for came, _, _ in outcomes)
    assert not any("nothing of the call" in came for came, _, _ in outcomes if "unknown:" in came)
    for came, failed, field in outcomes:
        assert failed or came == "done", came
        if came.startswith("failed"):
            assert field == [False, "btree"], came


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param((shim.WRITE | shim.READ,), id="writes and reads"),
        pytest.param((shim.WRITE, shim.RENAME, shim.OPEN), id="other calls"),
    ],
)
def test_a_failed_commit_of_lancedb(tmp_path: Path, library: Path, kinds: tuple[int, ...]) -> None:
    """Each kind of call on the way to a commit, in the table's folder."""
    for calls in kinds:
        folder = tmp_path / f"place{calls}"
        folder.mkdir()
        outcomes = run(
            library, WRITE, folder, "lancedb", str(calls), json.dumps("notes.lance"), "1000"
        )
        check(outcomes, ids_after(folder, "lancedb"))
