"""The guard of the event loop's time sees a callback that takes long, and only that."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from aiovec.testing.loop_time import HeldLoopError, begin_at_once, own_work, watched_loop

LIMIT = 0.1


def work(seconds: float) -> None:
    """Use so much CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def working(seconds: float) -> None:
    work(seconds)
    await asyncio.sleep(0)


@pytest.fixture
def at_once() -> asyncio.AbstractEventLoop:
    if sys.version_info < (3, 12):
        pytest.skip("Python begins tasks at once from 3.12 on")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(begin_at_once)
    return loop


def test_a_long_callback_is_found_with_its_place() -> None:
    with watched_loop(LIMIT) as found:
        asyncio.run(working(6 * LIMIT))  # on a busy machine the thread that looks comes late
    (slow,) = found.slow
    assert "in work" in slow
    assert found.longest > LIMIT


def test_what_a_test_does_by_itself_and_the_collector_do_not_count() -> None:
    async def main() -> None:
        with own_work():
            work(2 * LIMIT)
            kept = [[n] for n in range(200_000)]
        await asyncio.sleep(0)
        until = time.thread_time() + 2 * LIMIT
        while time.thread_time() < until:
            gc.collect()
        with own_work():
            del kept

    with watched_loop(LIMIT) as found:
        asyncio.run(main())
    assert not found.slow


def test_first_steps_that_are_done_at_once_count_one_by_one(
    at_once: asyncio.AbstractEventLoop,
) -> None:
    async def main(seconds: float) -> None:
        await asyncio.gather(*(working(seconds) for _ in range(5)))

    try:
        with watched_loop(LIMIT) as found:
            at_once.run_until_complete(main(LIMIT / 4))
        assert not found.slow
        with watched_loop(LIMIT) as found:
            at_once.run_until_complete(main(LIMIT * 2))
        assert len(found.slow) == 5
    finally:
        at_once.close()


RUNS: Counter[str] = Counter()


@pytest.fixture
def guard() -> Iterator[None]:
    RUNS["guard"] += 1
    yield
    if RUNS["guard"] <= int(os.environ.get("HELD_RUNS", "1")):
        raise HeldLoopError("as the guard says it")


@pytest.mark.usefixtures("guard")
def test_what_was_held_is_looked_at_again() -> None:
    RUNS["test"] += 1
    assert RUNS["test"] == RUNS["guard"]


@pytest.mark.parametrize(("held", "end"), [(1, "1 passed"), (4, "1 error")])
def test_it_is_said_what_was_run_again(held: int, end: str) -> None:
    name = f"{__file__}::{test_what_was_held_is_looked_at_again.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    env = {**os.environ, "HELD_RUNS": str(held)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=env
    )
    assert done.returncode == (end != "1 passed"), done.stdout
    assert "run again: tests/core/test_loop_time.py" in done.stdout
    assert "as the guard says it" in done.stdout
    assert end in done.stdout


def test_a_loop_that_was_held_is_an_error_with_its_facts() -> None:
    with watched_loop(LIMIT) as found:
        asyncio.run(working(6 * LIMIT))  # on a busy machine the thread that looks comes late
    with pytest.raises(HeldLoopError, match=r"(?s)held.* ms in .*in work"):
        found.check()
    with watched_loop(LIMIT) as quiet:
        asyncio.run(working(0))
    quiet.check()
