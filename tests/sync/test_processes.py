"""Processes with a store without await: that share a file, fork, or end without closing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiovec.sync import VectorStore

pytestmark = pytest.mark.slow


def run(program: str, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        # Python warns of forking where threads run, which is what is tried here.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


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
        assert n % 4 == 3 or found[0]["id"] == f"{me}-{n}"
print("done", kept)
"""
ROUNDS = 20


def test_two_processes_on_one_file(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "points.db"), me, str(ROUNDS)],
            stdin=pipe, stdout=pipe, stderr=pipe, text=True,
        )
        for me in ("one", "two")
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
    answers = [worker.communicate("\n", timeout=300) for worker in workers]
    assert answers == [(f"done {ROUNDS * 3 // 4}\n", "")] * 2
    with VectorStore(tmp_path / "points.db") as store:
        assert store.count("notes") == 2 * ROUNDS * 3 // 4 + 1
        (shared,) = store.search("notes", [0, 0, 1], limit=1)
        assert (shared["id"], shared["payload"]["last"] in ("one", "two")) == ("shared", True)


ENDS = """
import sys
from aiovec import AiovecError, Schema, sync
store = sync.connect(sys.argv[1])
store.create_table('notes', Schema(4))
# More than sixteen rows, so that a worker thread has checked them.
store.insert('notes', [{'id': str(n), 'embedding': [1, 0, 0, n]} for n in range(100)])
batches = store.export('notes', batch_size=1)
next(batches)

class Closing:
    store = store
    def __del__(self):  # the store's thread is halted by then
        self.store.close()

def generator():
    with sync.connect(sys.argv[2]) as other:
        yield other

kept, kept_too = Closing(), generator()
next(kept_too)
sys.exit(3)
"""


def test_a_process_ends_without_closing(tmp_path: Path) -> None:
    assert run(ENDS, tmp_path / "notes.db", tmp_path / "other.db") == (3, "", "")


FORKS = """
import os, sys
from aiovec import StoreClosedError, sync
store = sync.connect(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        store.tables()
    except StoreClosedError as exc:
        store.close()
        if 'fork' in str(exc):
            with sync.connect(sys.argv[2]) as other:
                os._exit(40 + len(other.tables()))
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 40
assert store.tables() == []
store.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork(tmp_path: Path) -> None:
    assert run(FORKS, tmp_path / "notes.db", tmp_path / "other.db") == (0, "", "")
