"""Documents that are read in a process of their own: hostile PDFs, cancellation, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from tests.documents.files import blown_up, nested_forms, pdf, repeated_page
from tests.harness.cases import case
from tests.harness.command import COMMAND
from tests.harness.processes import output_of
from tests.harness.waiting import until

from aiovec import DocumentError, connect, documents, sync

pytest.importorskip("pypdfium2")

BROKEN_TITLE = "<FEFFD8000048>"  # half of a pair of UTF-16


async def _cut(data: bytes | str, source: str = "a.pdf") -> list[dict[str, Any]]:
    return [row async for row in documents.passages(data, source=source)]


async def test_what_is_no_title_is_none() -> None:
    of_programs = "\\(anonymous\\)", "untitled", "Untitled Document", "Microsoft Word - a.doc"
    for title in (BROKEN_TITLE, f"({'long ' * 50})", "()", *(f"({each})" for each in of_programs)):
        with case(title):
            (row,) = await _cut(pdf(["Text."], title=title))
            assert (row["body"], row["title"]) == ("Text.", None)


async def test_a_document_beyond_a_bound_fails_alone() -> None:
    for data, reason in ((blown_up(), "memory"), (pdf([""] * 10_001), "more than 10,000 pages")):
        with case(reason):
            with pytest.raises(DocumentError, match=reason):
                await _cut(data)
            assert len(await _cut(pdf(["Text."]))) == 1


@pytest.mark.slow
async def test_a_document_that_takes_long_to_break_a_bound_fails_alone() -> None:
    for data, reason, seconds in (
        (nested_forms(), "memory", 60),
        (repeated_page(), "more than 60 s", 2),  # as it says, but nobody waits for so long
        (repeated_page(100, visible=True), "more than (16,777,216 characters|60 s)", 60),
    ):
        with case(reason):
            with (
                mock.patch.dict("aiovec._documents.child.BOUNDS", seconds=seconds),
                pytest.raises(DocumentError, match=reason),
            ):
                await _cut(data)
            assert len(await _cut(pdf(["Text."]))) == 1


async def test_the_store_answers_beside_slow_uploads() -> None:
    async with connect(":memory:", embedder="demo") as store:
        await store.create_table("notes", documents.SCHEMA)

        async def upload(n: int) -> int:
            name = f"{n}.pdf"
            return await store.upsert("notes", documents.passages(slow, source=name))

        slow = repeated_page()
        uploads = [asyncio.ensure_future(upload(n)) for n in range(9)]
        await until(_readers)
        rows = [{"id": str(n), "body": f"Row {n}."} for n in range(2000)]
        assert await store.upsert("notes", rows) == 2000
        assert await store.upsert("notes", documents.passages("Words.", source="a.md")) == 1
        assert len(await store.search("notes", "row", limit=3)) == 3
        assert not any(task.done() for task in uploads)
        for task in uploads:
            task.cancel()
        await asyncio.wait(uploads)
        assert all(task.cancelled() for task in uploads)
        # None of them holds up what comes next.
        assert await store.upsert("notes", documents.passages(pdf(["Text."]), source="a.pdf")) == 1


@pytest.mark.slow
async def test_the_reader_ends_after_a_rest() -> None:
    cutting = asyncio.ensure_future(_cut(pdf(["Text."])))
    await until(_readers)
    await cutting
    await until(lambda: not _readers())


def test_loops_and_threads_have_readers_of_their_own() -> None:
    data = pdf(["Text."])
    for _ in range(3):
        assert len(asyncio.run(_cut(data))) == 1

    async def beside() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.to_thread(asyncio.run, _cut(data)))
                     for _ in range(4)]  # fmt: skip
        assert [len(task.result()) for task in tasks] == [1] * 4

    with sync.connect(":memory:", embedder="demo") as store:
        store.create_table("notes", documents.SCHEMA)
        assert store.upsert("notes", documents.passages(data, source="a.pdf")) == 1
    asyncio.run(beside())


FORKED = """
import asyncio, os, sys
sys.path.insert(0, ".")
from aiovec import documents
from tests.documents.files import pdf

async def cut():
    return [row["body"] async for row in documents.passages(pdf(["Text."]), source="a.pdf")]

assert asyncio.run(cut()) == ["Text."]
child = os.fork()
assert asyncio.run(cut()) == ["Text."]
if child:
    print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_a_reader_of_its_own() -> None:
    assert output_of("-W", "error", "-c", FORKED) == "0\n"


MAIN_PROGRAM = """
import asyncio, sys
from aiovec import documents
from tests.documents.files import pdf

print("main")  # once: no process imports this module anew
async def cut():
    return [row["body"] async for row in documents.passages(pdf(["Text."]), source="a.pdf")]
print(asyncio.run(cut()))
"""


def test_the_reader_does_not_run_the_main_program(tmp_path: Path) -> None:
    program = tmp_path / "main.py"
    program.write_text(MAIN_PROGRAM)
    for name in ("json.py", "queue.py"):  # beside the program, as an app may have them
        (tmp_path / name).write_text("raise ImportError")
    folder = Path(__file__).parents[2]
    code = (
        f"import sys; sys.path.append({str(folder)!r}); import runpy; runpy.run_path(sys.argv[1])"
    )
    assert output_of("-W", "error", "-c", code, program) == "main\n['Text.']\n"


WITHOUT = """
import asyncio, sys
from aiovec import documents
from aiovec._cli import main
from tests.documents.files import pdf

async def cut(data):
    return [row["body"] async for row in documents.passages(data, source="a.pdf")]

for sys.executable in "/usr/bin/app", "/nowhere/python", "", None:
    try:
        asyncio.run(cut(pdf(["Text."])))
    except documents.DocumentError as exc:
        print(exc)
sys.argv[1:] = ["doctor"]
try:
    main()
except SystemExit as ended:
    print(ended.code)
"""


def test_without_a_process_no_document_is_read_that_needs_one() -> None:
    """It would be read without bounds of memory and time."""
    lines = output_of("-c", WITHOUT).splitlines()
    for line, why in zip(
        lines, ("'/usr/bin/app' is not Python", "No such file", "", ""), strict=False
    ):
        assert line.startswith("a.pdf: no process of Python can be started to read it: ")
        assert why in line
    (said,) = (line for line in lines if " documents " in line)
    assert "only text and Markdown are read: no process of Python can be started: None" in said
    assert lines[-1] == "1"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT")
@pytest.mark.parametrize(
    "options", ["", pytest.param("--strict --dry-run", marks=pytest.mark.slow)]
)
async def test_an_interrupted_import_ends_at_once(tmp_path: Path, options: str) -> None:
    (tmp_path / "slow.pdf").write_bytes(repeated_page())
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "import", ".", "--embedder", "demo", "-s", "s.db", *options.split(),
        cwd=tmp_path, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    (reader,) = await until(lambda: _readers(process.pid))
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert (process.returncode, said.decode().splitlines()[-1:]) == (130, ["error: interrupted"])
    await until(lambda: _has_ended(reader))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
async def test_the_reader_of_a_killed_process_ends(tmp_path: Path) -> None:
    (tmp_path / "slow.pdf").write_bytes(repeated_page())
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "import", ".", "--embedder", "demo", "-s", "s.db", cwd=tmp_path,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    (reader,) = await until(lambda: _readers(process.pid))
    process.kill()
    await process.wait()
    await until(lambda: _has_ended(reader))


def _readers(pid: int | None = None) -> list[psutil.Process]:
    """Return the processes that read for this one, or for another."""
    readers = []
    for child in psutil.Process(pid).children():
        # A child may end between two looks at it, and has no command line from then on.
        with suppress(psutil.NoSuchProcess):
            if "child.py" in " ".join(child.cmdline()):
                readers.append(child)
    return readers


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
