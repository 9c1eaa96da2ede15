"""The second process of a soak, as the first one sees it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tests.soak.resources import Resources
from tests.soak.world import State, World

_PROGRAM = f"{__package__}.second"
# A line tells all rows at once.
_LONGEST_LINE = 2**26

Rows = dict[str, dict[str, State]]
"""By table, by id."""


class Neighbour:
    """The second process, seen from the first one. A context manager, which ends it."""

    def __init__(self, world: World, arguments: Mapping[str, Any]) -> None:
        schemas = {name: schema.to_json() for name, schema in world.schemas.items()}
        self._arguments = json.dumps({**arguments, "schemas": schemas, "exact": world.exact})
        self._world = world
        self._paused: asyncio.Future[dict[str, Any]] | None = None
        self._ends = False
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Neighbour:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", _PROGRAM, self._arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, limit=_LONGEST_LINE,
        )  # fmt: skip
        assert self._process.stderr is not None
        self._complaints = asyncio.ensure_future(self._process.stderr.read())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        assert self._process.stdout is not None
        while await self._process.stdout.read(2**16):
            pass
        await self._complaints
        await self._process.wait()

    async def listen(self) -> None:
        """Hear what the process tells, to its end. Fails where it did."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "mark" in told:
                table, id, number = told["mark"]
                self._world.marks[id] = (table, number)
            elif self._paused is not None:
                self._paused.set_result(told)
        text = (await self._complaints).decode(errors="replace")
        code = await self._process.wait()
        if code or not self._ends:
            raise AssertionError(f"the second process ended with {code}:\n{text[-5000:]}")

    async def pause(self) -> tuple[Rows, Resources]:
        """Have it stop after the calls that run; what its rows are then, and what it holds."""
        self._paused = asyncio.get_running_loop().create_future()
        self._tell("pause")
        told = await self._paused
        self._paused = None
        self.counts = Counter(told["counts"])
        rows = {
            table: {id: State(*state) for id, state in states.items()}
            for table, states in told["rows"].items()
        }
        return rows, Resources(*told["resources"])

    def go_on(self) -> None:
        self._tell("go")

    def end(self) -> None:
        self._ends = True
        self._tell("end")

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
