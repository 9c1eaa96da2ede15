"""Counts for docs/internals/architecture.md: the code's size, the calls of a search and an insert.

They are of the tree that ``aiovec`` is imported from. To count an older tree, run this with the
Python of an environment in which that tree is installed (``pip install -e OLD``).
"""

from __future__ import annotations

import ast
import asyncio
import dis
import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType

import aiovec

from .measure import Options, Result

ROOT = Path(aiovec.__file__).resolve().parents[2]
PARTS = ("src", "adapters", "migrate")
LARGE_MODULE = 400  # lines; a hint to look for two subjects
TABLE = "counted"


async def run(options: Options) -> list[Result]:
    walks = "calls of the product's own functions on SQLite, caches warm"
    return [
        Result("counts, code", f"the modules of {', '.join(PARTS)}", "", _code()),
        Result("counts, walks", walks, "", await _walks(options.folder)),
    ]


def _code() -> dict[str, float]:
    texts = [
        path.read_text(encoding="utf-8")
        for part in PARTS
        for path in sorted((ROOT / part).rglob("*.py"))
    ]
    lines = [len(text.splitlines()) for text in texts]
    return {
        "modules": len(texts),
        "lines": sum(lines),
        f"modules above {LARGE_MODULE} lines": sum(count > LARGE_MODULE for count in lines),
        "classes": sum(
            isinstance(node, ast.ClassDef) for text in texts for node in ast.walk(ast.parse(text))
        ),
    }


@dataclass
class Walk:
    """The calls of product functions in a block, of all threads, in order.

    A coroutine that continues after an await is not another call.
    """

    calls: list[CodeType] = field(default_factory=list)
    under_way: bool = False

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if self.under_way and event == "call" and _is_product(code) and _begins(frame):
            self.calls.append(code)

    @contextmanager
    def of(self) -> Iterator[None]:
        self.calls = []
        self.under_way = True
        try:
            yield
        finally:
            self.under_way = False

    def figures(self, name: str) -> dict[str, float]:
        files = [code.co_filename for code in self.calls]
        return {
            f"{name}: calls": len(files),
            f"{name}: files": len(set(files)),
            f"{name}: moves from file to file": sum(one != other for one, other in pairwise(files)),
        }


@functools.cache
def _is_product(code: CodeType) -> bool:
    return any(code.co_filename.startswith(str(ROOT / part)) for part in PARTS)


def _begins(frame: FrameType) -> bool:
    return frame.f_lasti <= _first_instruction(frame.f_code)


@functools.cache
def _first_instruction(code: CodeType) -> int:
    """Return where a call begins; one that continues begins behind its await or yield."""
    return next((at.offset for at in dis.get_instructions(code) if at.opname == "RESUME"), 0)


async def _walks(folder: Path) -> dict[str, float]:
    walk = Walk()
    # Before anything is opened, so that the threads of the stores are seen too.
    before = sys.getprofile()
    threading.setprofile(walk.note)
    sys.setprofile(walk.note)
    try:
        return await _search_and_insert(walk, folder)
    finally:
        threading.setprofile(None)
        sys.setprofile(before)


async def _search_and_insert(walk: Walk, folder: Path) -> dict[str, float]:
    vector = [1.0] * 8
    async with aiovec.connect(folder / "counts.db") as store:
        await store.create_table(TABLE, _schema())
        await store.insert(TABLE, [_row(number) for number in range(100)])
        for _ in range(10):  # until the table is in memory
            await store.search(TABLE, vector)
            await asyncio.sleep(0.1)
        with walk.of():
            await store.search(TABLE, vector)
        found = walk.figures("a search")
        with walk.of():
            await store.insert(TABLE, [_row(100)])
        return found | walk.figures("an insert")


def _schema() -> aiovec.Schema:
    return aiovec.Schema(dim=8, fields={"year": int})


def _row(number: int) -> dict[str, object]:
    return {"id": str(number), "embedding": [float(number + 1)] * 8, "year": 2000 + number}
