"""Processes that use one file at once, through the faces without await."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aiovec.sync import VectorStore, connect

ROUNDS = 40

# Each makes the collection, which only one of them can, and then writes points of its own, replaces
# one that all share, deletes every fourth again, and reads what it wrote.
WORKER = """
import sys
from aiovec.sync import FieldCondition, VectorFilter, VectorStore

path, me, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
with VectorStore(path) as store:
    store.ensure_collection("notes", 3, model="m")
    print("ready", flush=True)
    sys.stdin.readline()
    mine = VectorFilter(must=[FieldCondition(key="by", value=me)])
    kept = 0
    for n in range(rounds):
        store.upsert_batch("notes", [
            {"id": f"{me}-{n}", "vector": [1, n, 0], "payload": {"by": me, "n": n}},
            {"id": "shared", "vector": [0, 0, 1], "payload": {"last": me}},
        ], model="m")
        kept += 1
        if n % 4 == 3:
            assert store.delete("notes", f"{me}-{n}") == 1
            kept -= 1
        found = store.search("notes", [1, n, 0], limit=1000, filter_=mine, model="m")
        assert len(found) == kept, (len(found), kept)
        assert found[0]["payload"]["by"] == me
        if n % 4 != 3:
            assert found[0]["id"] == f"{me}-{n}"
print("done", kept)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["points.db", "points"])
def test_two_processes_on_one_file(target: str, tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path / target), me, str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me in ("one", "two")
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
    answers = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        answers.append((worker.returncode, out, err))
    assert answers == [(0, f"done {ROUNDS * 3 // 4}\n", "")] * 2

    with VectorStore(tmp_path / target) as store:
        assert store.count("notes") == 2 * ROUNDS * 3 // 4 + 1
        (shared,) = store.search("notes", [0, 0, 1], limit=1)
        assert shared["id"] == "shared"
        assert shared["payload"]["last"] in ("one", "two")


@pytest.mark.slow
def test_a_process_sees_what_another_wrote(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "points.db") as store:
        store.ensure_collection("notes", 3)
        program = (
            "import sys\n"
            "from aiovec.sync import VectorStore\n"
            "with VectorStore(sys.argv[1]) as store:\n"
            "    store.upsert('notes', id='a', vector=[1, 0, 0], payload={'n': 1})\n"
        )
        for _ in range(2):
            subprocess.run(
                [sys.executable, "-c", program, str(tmp_path / "points.db")], check=True, timeout=60
            )
            assert store.search("notes", [1, 0, 0])[0]["payload"] == {"n": 1}
            assert store.delete("notes", "a") == 1
            assert store.count("notes") == 0
    with connect(tmp_path / "points.db") as again:
        assert again.tables() == ["notes"]
