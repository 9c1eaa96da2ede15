"""Contract tests for several processes with one store: all see each acknowledged write."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase
from tests.harness.values import SMALL, ids_of, small_rows, vectors

from aiovec import VectorStore

# This program makes the calls that it reads, and prints each result, or the name of its error.
CHILD = """
import asyncio, json, sys
import aiovec

async def main(target, config):
    async with aiovec.connect(target, config=config) as store:
        while line := await asyncio.to_thread(sys.stdin.readline):
            call, arguments, options = json.loads(line)
            try:
                result = await getattr(store, call)(*arguments, **options)
                if isinstance(result, aiovec.Results):
                    result = [row.id for row in result]
                answer = ["ok", result]
            except aiovec.AiovecError as exc:
                answer = [type(exc).__name__, None]
            print(json.dumps(answer), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Other:
    """A store in another process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._in, self._out = process.stdin, process.stdout

    async def __call__(self, call: str, *arguments: Any, **options: Any) -> Any:
        """Return the result of a call, or the name of its error."""
        self._in.write(json.dumps([call, arguments, options]).encode() + b"\n")
        line = await self._out.readline()
        assert line, f"the process ended during {call}"
        word, result = json.loads(line)
        return result if word == "ok" else word


def _calls_of(store: VectorStore) -> Callable[..., Awaitable[Any]]:
    """Return a function that makes calls like ``Other``, on a store of this process."""

    async def made(call: str, *arguments: Any) -> Any:
        result = await getattr(store, call)(*arguments)
        return ids_of(result) if call == "find" else result

    return made


class ProcessesContract(ContractBase):
    """Rules 1 and 2 of the backend contract, as users rely on them."""

    @asynccontextmanager
    async def other(self, path: Path) -> AsyncIterator[Other]:
        """Open the store of this process in another process, too."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, self.target(path), str(path / "aiovec.toml"),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield Other(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    @pytest.mark.core
    async def test_every_process_sees_a_write_that_was_answered(
        self, store: VectorStore, tmp_path: Path
    ) -> None:
        self.need_processes()
        await store.create_table("notes", SMALL)
        rows: list[dict[str, Any]] = [
            {**row, "embedding": row["embedding"].tolist()} for row in small_rows(12)
        ]
        async with self.other(tmp_path) as other:
            for n, row in enumerate(rows):
                writer, reader = (other, _calls_of(store))[:: 1 if n % 2 else -1]
                assert await writer("insert", "notes", [row]) == 1
                assert await reader("find", "notes") == [row["id"] for row in rows[: n + 1]]
            assert await other("update", "notes", {"year": 99}, where="year >= 6") == 6
            hits = await store.search("notes", vectors(1)[0], where="year = 99", limit=99)
            assert sorted(ids_of(hits)) == [row["id"] for row in rows[6:]]
            assert await store.delete("notes", where="year = 99") == 6
            assert await other("count", "notes") == 6
            assert await other("rename_field", "notes", "year", "since") is None
            assert ids_of(await store.find("notes", "since < 3")) == [r["id"] for r in rows[:3]]
            assert await other("delete", "notes", [rows[0]["id"]]) == 1
            other.process.kill()  # after it has answered
            await other.process.wait()
            assert await store.count("notes") == 5
        async with self.connect(tmp_path) as again:
            assert await again.count("notes", "since < 99") == 5

    @pytest.mark.core
    async def test_of_two_processes_that_insert_an_id_one_wins(
        self, store: VectorStore, tmp_path: Path
    ) -> None:
        self.need_processes()
        await store.create_table("notes", SMALL)
        async with self.other(tmp_path) as other:
            for n in range(5):
                row = {"id": f"r{n}", "embedding": [1.0, n, 0.0, 0.0]}
                theirs = asyncio.ensure_future(other("insert", "notes", [{**row, "year": 1}]))
                ours = asyncio.ensure_future(store.insert("notes", [{**row, "year": 2}]))
                outcomes = await asyncio.gather(theirs, ours, return_exceptions=True)
                won = [outcome == 1 for outcome in outcomes]
                assert sum(won) == 1, outcomes
                assert "DuplicateIdError" in (outcomes[0], type(outcomes[1]).__name__)
                assert (await store.get("notes", f"r{n}"))[0]["year"] == 1 + won.index(True)
            assert await other("count", "notes") == 5
