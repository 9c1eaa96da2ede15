"""Workers that aiovec starts on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .cluster import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The thread that asked for the workers has ended before they get their first task.
PROGRAM = """
import asyncio, sys, threading, time
from aiovec.backend.threads import in_thread
from aiovec.backend import threads
from aiovec.backend.engine import engine_named
from aiovec.backend.place import find_place

threads.REST = 0.1

def work(number):
    return -number

def start():
    return threading.current_thread(), engine_named("ray", None, find_place(sys.argv[1]))

async def main():
    starter, engine = await in_thread(start)
    while starter.is_alive():  # of two idle threads, one ends
        await asyncio.gather(in_thread(time.sleep, 0.1), in_thread(time.sleep, 0.15))
        await asyncio.sleep(0.5)
    from aiovec_ray.cluster import each
    print("worked:", await asyncio.wait_for(each(work, [(-7,)], lambda _: None), 30))
    engine.close()

asyncio.run(main())
"""


def test_workers_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    if lacking := missing():
        pytest.skip(f"needs {', '.join(lacking)}: pip install 'aiovec[ray]'")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, f"lancedb://{tmp_path / 'store'}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "worked: [7]" in ran.stdout, ran.stderr
