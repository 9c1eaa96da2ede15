"""A store that nobody closed warns, and never keeps the process from ending."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sqlite.support import ROOT, check_file, python, run_code

COMMON = """
import asyncio, gc, sys, warnings
import aiovec
async def open_store(path):
    store = await aiovec.connect(path)
    await store.create_table("t", aiovec.Schema(4), exist_ok=True)
    await store.upsert("t", [{"id": "a", "embedding": [1, 2, 3, 4]}])
    await store.search("t", [1, 2, 3, 4])
    return store
def row(n): return {"id": f"x{n}", "embedding": [1, 2, 3, 4]}
"""

WAYS = {
    "forgotten": """
async def main():
    store = await open_store(sys.argv[1])
asyncio.run(main())
""",
    "kept": """
async def main():
    global store
    store = await open_store(sys.argv[1])
asyncio.run(main())
""",
    "writes in flight": """
async def main():
    store = await open_store(sys.argv[1])
    tasks = [asyncio.ensure_future(store.insert("t", [row(n)])) for n in range(200)]
    await asyncio.sleep(0.01)
asyncio.run(main())
""",
    "reads in flight": """
async def main():
    store = await open_store(sys.argv[1])
    tasks = [asyncio.ensure_future(store.search("t", [1, 2, 3, 4])) for n in range(3000)]
    export = store.export("t", batch_size=1)
    await anext(export)
    await asyncio.sleep(0.005)
asyncio.run(main())
""",
    "a loop that just stops": """
loop = asyncio.new_event_loop()
store = loop.run_until_complete(open_store(sys.argv[1]))
task = loop.create_task(store.insert("t", [row(n) for n in range(2000)]))
loop.run_until_complete(asyncio.sleep(0.001))
""",
    "an error in between": """
async def main():
    store = await open_store(sys.argv[1])
    raise KeyError("something")
try:
    asyncio.run(main())
except KeyError:
    pass
gc.collect()  # Python's own as the process ends is left out where a thread is in the middle of one
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("way", sorted(WAYS))
def test_the_process_ends(tmp_path: Path, way: str) -> None:
    path = tmp_path / "notes.db"
    process = python(
        "-X", "dev", "-c", COMMON + WAYS[way], str(path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    assert "Exception in thread" not in complaints
    assert check_file(path)["t"] >= 1  # what was acknowledged is there
    if way == "a loop that just stops":
        return  # the task that still waits for the store keeps it to the very end
    assert "ResourceWarning" in complaints
    assert "was never closed" in complaints
    if "in flight" not in way:
        assert "Traceback" not in complaints


DROPPED = """
import warnings
async def main():
    gc.disable()
    store = await open_store(sys.argv[1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del store
    print(any("was never closed" in str(one.message) for one in told))
asyncio.run(main())
"""


def test_a_store_is_gone_with_the_last_reference(tmp_path: Path) -> None:
    """Else the collector has to find it, which a process that ends does not always let."""
    done = run_code(COMMON + DROPPED, str(tmp_path / "notes.db"))
    assert done.stdout == "True\n", done.stderr


CLOSED_LOOP = """
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda *_: None)
store = loop.run_until_complete(open_store(sys.argv[1]))

async def crowd():
    calls = [store.insert("t", [row(n)]) for n in range(200)]
    calls += [store.search("t", [1, 2, 3, 4]) for n in range(200)]
    return [asyncio.ensure_future(call) for call in calls]

tasks = loop.run_until_complete(crowd())
for _ in range(int(sys.argv[2])):
    loop.run_until_complete(asyncio.sleep(0.001))
loop.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 20])
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_a_loop_that_was_closed_with_calls_in_it_keeps_no_process(
    tmp_path: Path, kind: str, steps: int
) -> None:
    path = str(tmp_path / "notes.db") if kind == "sqlite" else f"lancedb://{tmp_path / 's'}"
    process = python("-c", COMMON + CLOSED_LOOP, path, str(steps), stderr=subprocess.PIPE)
    try:
        _, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, complaints


AT_EXIT = """
import atexit, aiovec.sync

store = aiovec.sync.connect(sys.argv[1])
store.create_table("t", aiovec.Schema(4))
if sys.argv[2] == "used":
    store.insert("t", [row(n) for n in range(2)])
    store.search("t", [1, 2, 3, 4])

def bye():
    try:
        store.upsert("t", [row(n) for n in range(3)])
        print(store.count("t"), len(store.search("t", [1, 2, 3, 4])))
    except aiovec.AiovecError as exc:
        print(exc)
    store.close()

atexit.register(bye)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_a_store_is_of_use_as_the_process_ends(tmp_path: Path, kind: str) -> None:
    assert _said_at_exit(tmp_path, kind, "used") == "3 3\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_a_store_that_needs_a_thread_as_the_process_ends(tmp_path: Path, kind: str) -> None:
    """Which Python 3.12 and later no longer start then."""
    said = _said_at_exit(tmp_path, kind, "unused")
    assert said == "3 3\n" or said.startswith("the store needs a thread, and Python starts none:")


def _said_at_exit(tmp_path: Path, kind: str, used: str) -> str:
    path = str(tmp_path / "notes.db") if kind == "sqlite" else f"lancedb://{tmp_path / 's'}"
    # Started, not forked: the order of what imports do as a process ends is its own.
    process = subprocess.Popen(
        [sys.executable, "-c", COMMON + AT_EXIT, path, used], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    said, complaints = process.communicate(timeout=60)
    assert complaints == ""
    return said


def test_the_warning_can_be_caught(tmp_path: Path) -> None:
    code = """
async def main():
    store = await open_store(sys.argv[1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del store
        gc.collect()
    told = [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)]
    assert any("never closed" in text for text in told), told
    store = await open_store(sys.argv[1])
    await store.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del store
        gc.collect()
    print("done")
asyncio.run(main())
"""
    done = run_code(COMMON + code, str(tmp_path / "notes.db"))
    assert done.stdout == "done\n", done.stderr


async def test_a_failed_opening_leaves_no_thread_that_complains(tmp_path: Path) -> None:
    code = """
for n in range(30):
    try:
        asyncio.run(open_store(sys.argv[1]))
    except aiovec.CorruptStoreError:
        pass
print("done")
"""
    path = tmp_path / "notes.db"
    await asyncio.to_thread(path.write_text, "no store " * 100)
    done = await asyncio.to_thread(run_code, COMMON + code, str(path))
    assert (done.stdout, done.stderr) == ("done\n", "")


LEFT_EXPORT = """
import asyncio, sys
import aiovec
async def main():
    global store, export
    store = await aiovec.connect(sys.argv[1])
    await store.create_table("t", aiovec.Schema(2))
    rows = [{"id": f"r{n}", "embedding": [1, n]} for n in range(5000)]
    await store.insert("t", rows)
    export = store.export("t", batch_size=10)
    await anext(export)
asyncio.run(main())
async def later():
    assert len([batch async for batch in store.export("t")]) == 5
    await store.close()
asyncio.run(later())
"""


@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_an_export_that_is_left_open_ends_with_its_loop_in_silence(
    tmp_path: Path, kind: str
) -> None:
    """The loop closed its parts at once: each told, with a traceback, that another closed it."""
    target = str(tmp_path / "a.db") if kind == "sqlite" else f"lancedb://{tmp_path}/a"
    process = python("-c", LEFT_EXPORT, target, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


LEFT_STEP = """
import asyncio, gc, sys
import aiovec
async def opened():
    store = await aiovec.connect(sys.argv[1])
    await store.create_table("t", aiovec.Schema(2))
    rows = [{"id": f"r{n}", "embedding": [1, n]} for n in range(5000)]
    await store.insert("t", rows)
    return store
async def read(store):
    async for batch in store.export("t", batch_size=10):
        pass
async def closed(store):
    assert await store.count("t") == 5000
    await store.close()
async def begun(store):
    return asyncio.ensure_future(read(store))
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda *_: None)  # that the task is destroyed
store = loop.run_until_complete(opened())
task = loop.run_until_complete(begun(store))
for _ in range(int(sys.argv[2])):
    loop.run_until_complete(asyncio.sleep(0.001))
loop.close()
asyncio.run(closed(store))
del task
gc.collect()
"""


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_a_step_of_an_export_that_its_closed_loop_left_ends_in_silence(
    tmp_path: Path, kind: str, steps: int
) -> None:
    """The wrapped generator seemed to run on, which a later test of another store complained of."""
    target = str(tmp_path / "a.db") if kind == "sqlite" else f"lancedb://{tmp_path}/a"
    process = python("-c", LEFT_STEP, target, str(steps), stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "already running" not in err
    if kind == "sqlite":  # LanceDB's own threads tell that the loop is closed
        assert err == ""


LEFT = """
import asyncio, gc, sys, time
import aiovec
sys.unraisablehook = lambda unraisable: None
target, backup = sys.argv[1:]
async def fill():
    async with aiovec.connect(target) as store:
        await store.create_table("t", aiovec.Schema(8))
        rows = [{"id": f"a{n}", "embedding": [1.0] * 8} for n in range(2000)]
        await store.insert("t", rows)
        await store.backup(backup)
async def begin():
    store = await aiovec.connect(target)
    read = 0
    async def export():
        nonlocal read
        async for _ in store.export("t", batch_size=10):
            read += 1
            await asyncio.sleep(0)
    tasks = [asyncio.ensure_future(export()) for _ in range(3)]
    while read < 5:
        await asyncio.sleep(0)
    return store, tasks
asyncio.run(fill())
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda loop, context: None)
store, tasks = loop.run_until_complete(begin())
loop.close()
del tasks, loop
for _ in range(10):
    gc.collect()
    time.sleep(0.05)
asyncio.run(store.close())
print(asyncio.run(aiovec.restore(backup, target)) is not None)
"""


@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
def test_a_read_whose_loop_was_closed_keeps_nothing_behind_the_close(
    tmp_path: Path, kind: str
) -> None:
    """On LanceDB its version stayed pinned until the process ended, and no restore was possible."""
    target = str(tmp_path / "s.db") if kind == "sqlite" else f"lancedb://{tmp_path / 's'}"
    ended = run_code(LEFT, target, str(tmp_path / "copy"))
    assert ended.stdout.strip() == "True", ended.stderr
