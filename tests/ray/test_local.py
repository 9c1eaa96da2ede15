"""Workers that aiovec starts on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .cluster import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The thread that started the workers has ended before they get their first task.
PROGRAM = """
import asyncio, sys, time
from aiovec.backend import threads
from aiovec.backend.engine import engine_named
from aiovec.backend.place import find_place

threads.REST = 0.1

def work(number):
    return -number

async def main():
    place = find_place(sys.argv[1])
    engine = await threads.in_thread(lambda: engine_named("ray", None, place))
    jobs = (threads.in_thread(lambda pause=pause: time.sleep(pause)) for pause in (0.1, 0.15))
    await asyncio.gather(*jobs)
    await asyncio.sleep(1)
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
