"""Processes with a synchronous store that fork, or end without closing it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(program: str, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        # Python warns when a process with threads forks, which these tests do.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


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
def test_a_forked_child_gets_an_error_and_can_open_a_store(tmp_path: Path) -> None:
    assert run(FORKS, tmp_path / "notes.db", tmp_path / "other.db") == (0, "", "")
