"""New ids, which any thread may ask for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from aiovec._core.ids import new_ids

# Another thread is making ids as the process is forked, and is not in the child.
FORK = """
import os, signal, threading, warnings
from aiovec._core import ids

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of the fork as such
inside, leave = threading.Event(), threading.Event()

class Slow(type(ids._RANDOM)):
    def getrandbits(self, bits):
        if threading.current_thread() is slow:
            inside.set()
            leave.wait()
        return super().getrandbits(bits)

ids._RANDOM = Slow()
slow = threading.Thread(target=ids.new_id)
slow.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    ids.new_id()
    os._exit(0)
leave.set()
print(os.waitpid(child, 0)[1], ids.new_id() < ids.new_id())
"""


def test_ids_rise_and_are_apart() -> None:
    ids = [id for count in (1, 100, 1) for id in new_ids(count)]
    assert ids == sorted(set(ids))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_makes_ids_whoever_made_some_at_the_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout == "0 True\n", done.stderr
