"""Counts of the code itself, for docs/ARCHITECTURE.md: its size, and the walks of three calls.

They are of the tree that ``aiovec`` is imported from. So an older one is counted by the Python of
an environment in which it is installed (``pip install -e OLD``), in the folder of this one.
"""

from __future__ import annotations

import ast
import asyncio
import dis
import functools
import re
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType

import aiovec
import aiovec_migrate
from aiovec.backend.contract import Backend

from .measure import Check, Result
from .options import Options

ROOT = Path(aiovec.__file__).resolve().parents[2]
PARTS = ("src", "adapters", "migrate")
# The contract suite is for those who write backends; it is no part of what an app runs.
SUITE = "testing"
LARGE_MODULE = 400  # lines; a hint to look for two subjects
CLAUSES = ("What", "Whether", "How", "Which", "Who")
BACKENDS = re.compile(r"(?<![a-z])(sqlite|lancedb|remote)(?![a-z0-9]|_master)", re.IGNORECASE)
# The default of the TOML file's ``backend``: a line, with the one before it.
DEFAULT_BACKEND = re.compile(r"\bbackend: .+ = .*\s*(?:default=)?\"sqlite\"")
TABLE = "counted"

# The targets of the redesign that began at d45c448.
TARGETS = {
    "lines of code outside adapters/ that name a backend": 0,
    "modules that exactly one other imports": 35,
    "a search: files": 24,
    "an insert: files": 14,
    "a migration of one row: files": 50,
    "a migration of one row: stores opened": 2,
}


async def run(options: Options) -> list[Result]:
    walks = await _walks(options.folder)
    return [
        _result("counts, code", f"the modules of {', '.join(PARTS)}", _code()),
        _result("counts, walks", "calls of the product's own functions, caches warm", walks),
    ]


def _result(subject: str, compared: str, measured: dict[str, float]) -> Result:
    checks = [
        Check(what, measured[what], target, at_most=True)
        for what, target in TARGETS.items()
        if what in measured
    ]
    return Result(subject, compared, "", measured, checks)


@dataclass(frozen=True)
class Module:
    """A module of the product, parsed."""

    name: str
    part: str
    is_package: bool
    is_suite: bool
    text: str
    tree: ast.Module


@functools.cache
def _modules() -> list[Module]:
    found = []
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            inside = path.relative_to(ROOT / part)
            name = ".".join(inside.with_suffix("").parts)
            text = path.read_text(encoding="utf-8")
            found.append(
                Module(
                    name.removesuffix(".__init__"), part, inside.name == "__init__.py",
                    SUITE in inside.parts, text, ast.parse(text),
                )
            )  # fmt: skip
    return found


def _code() -> dict[str, float]:
    product = [module for module in _modules() if not module.is_suite]
    named = Counter(kind for module in product for kind in _lines_that_name_backends(module))
    return {
        "modules": len(product),
        "lines": sum(len(module.text.splitlines()) for module in product),
        f"modules above {LARGE_MODULE} lines": sum(
            len(module.text.splitlines()) > LARGE_MODULE for module in product
        ),
        "classes": sum(
            isinstance(node, ast.ClassDef) for module in product for node in ast.walk(module.tree)
        ),
        "numeric constants of modules": sum(_numeric_constants(module) for module in product),
        "modules that exactly one other imports": sum(
            len(importers) == 1 for importers in _importers(product).values()
        ),
        "lines of code outside adapters/ that name a backend": named["code"],
        "lines of text outside adapters/ that name a backend": named["text"],
        # The suite's are read by those who write backends, so they count too.
        "docstrings that begin with What, Whether, How, Which, Who": sum(
            _clauses(module) for module in _modules()
        ),
    }


def _numeric_constants(module: Module) -> int:
    """Names that the module binds to a value with a number in it."""
    return sum(
        isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and any(
            isinstance(part, ast.Constant) and type(part.value) in (int, float)
            for part in ast.walk(node.value)
        )
        for node in module.tree.body
    )


def _importers(modules: list[Module]) -> dict[str, set[str]]:
    """Each module, not a package, with the modules that import it when they are imported.

    A package's ``__init__`` only hands names on, so it does not count.
    """
    known = {module.name for module in modules}
    found: dict[str, set[str]] = {module.name: set() for module in modules if not module.is_package}
    for module in modules:
        if module.is_package:
            continue
        for name in _imported(module, known):
            if name in found and name != module.name:
                found[name].add(module.name)
    return found


def _imported(module: Module, known: set[str]) -> Iterator[str]:
    body = list(module.tree.body)
    for node in body:
        if isinstance(node, ast.If):  # of TYPE_CHECKING: also an import of a name
            body += node.body
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                package = module.name.split(".")[: -node.level]
                origin = ".".join([*package, *filter(None, [origin])])
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                yield submodule if submodule in known else origin


def _lines_that_name_backends(module: Module) -> list[str]:
    """``code`` or ``text`` for each line that names one: a string with a space is text."""
    if module.part == "adapters":
        return []
    docstrings = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    source = module.text.splitlines()
    found: dict[str, set[int]] = defaultdict(set)
    for node in ast.walk(module.tree):
        if id(node) in docstrings:
            continue
        for name in _names(node):
            line = node.lineno
            if BACKENDS.search(name) and not DEFAULT_BACKEND.search(
                "\n".join(source[line - 2 : line])
            ):
                found["text" if " " in name else "code"].add(line)
    return [*["code"] * len(found["code"]), *["text"] * len(found["text"] - found["code"])]


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.ClassDef(name=name) | ast.arg(arg=name):
            return [name]
        case ast.keyword(arg=str(name)):
            return [name]
    return []


def _clauses(module: Module) -> int:
    """Texts that begin with a question word, below a definition or an attribute."""
    return sum(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and re.match(rf"\s*({'|'.join(CLAUSES)})\b", node.value.value) is not None
        for node in ast.walk(module.tree)
    )


@dataclass
class Walk:
    """The calls of product functions between ``begin`` and ``end``, of all threads, in order.

    A coroutine that goes on after an await is not called again.
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

    def opened(self, method: str) -> int:
        """The calls of a backend's method, on every backend."""
        codes = {vars(kind)[method].__code__ for kind in _kinds(Backend) if method in vars(kind)}
        return sum(code in codes for code in self.calls)


def _kinds(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


@functools.cache
def _is_product(code: CodeType) -> bool:
    return any(code.co_filename.startswith(str(ROOT / part)) for part in PARTS)


def _begins(frame: FrameType) -> bool:
    return frame.f_lasti <= _first_instruction(frame.f_code)


@functools.cache
def _first_instruction(code: CodeType) -> int:
    """Where a call begins; one that goes on begins behind its await or yield."""
    return next((at.offset for at in dis.get_instructions(code) if at.opname == "RESUME"), 0)


async def _walks(folder: Path) -> dict[str, float]:
    walk = Walk()
    # Before anything is opened, so that the threads of the stores are seen too.
    before = sys.getprofile()
    threading.setprofile(walk.note)
    sys.setprofile(walk.note)
    try:
        return {**await _search_and_insert(walk, folder), **await _migration(walk, folder)}
    finally:
        threading.setprofile(None)
        sys.setprofile(before)


async def _search_and_insert(walk: Walk, folder: Path) -> dict[str, float]:
    vector = [1.0] * 8
    async with aiovec.connect(folder / "counts.db") as store:
        await store.create_table(TABLE, _schema())
        await store.insert(TABLE, [_row(number) for number in range(100)])
        for _ in range(10):  # until the copy that searches scan is in memory
            await store.search(TABLE, vector)
            await asyncio.sleep(0.1)
        with walk.of():
            await store.search(TABLE, vector)
        found = walk.figures("a search")
        with walk.of():
            await store.insert(TABLE, [_row(100)])
        return found | walk.figures("an insert")


async def _migration(walk: Walk, folder: Path) -> dict[str, float]:
    """Of the second of two, so that what is imported on the way is not counted."""
    for number in range(2):
        place = folder / f"migration-{number}"
        place.mkdir()
        config = place / "aiovec.toml"
        config.write_text(
            '[retrieval]\nbackend = "sqlite"\nsqlite_path = "one.db"\nlancedb_url = "one.lance"\n',
            encoding="utf-8",
        )
        async with aiovec.connect(config=config) as store:
            await store.create_table(TABLE, _schema())
            await store.insert(TABLE, [_row(1)])
        with walk.of():
            await aiovec_migrate.run(
                "sqlite", "lancedb", config=config, options=aiovec_migrate.Options(switch=True)
            )
    name = "a migration of one row"
    return walk.figures(name) | {
        f"{name}: stores opened": walk.opened("open"),
        f"{name}: tables opened": walk.opened("open_table"),
    }


def _schema() -> aiovec.Schema:
    return aiovec.Schema(dim=8, fields={"year": int})


def _row(number: int) -> dict[str, object]:
    return {"id": str(number), "embedding": [float(number + 1)] * 8, "year": 2000 + number}
