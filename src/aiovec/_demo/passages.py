"""Text that every machine has: the docstrings of Python's own standard library."""

from __future__ import annotations

import ast
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

# Folders without documentation of the library: tests, applications, generated tables, pip's
# packages.
_SKIPPED = frozenset(
    "__phello__ __pycache__ _bundled dist-packages idlelib lib-dynload lib2to3 pydoc_data "
    "site-packages test tests turtledemo".split()
)

# Shortest docstring, in characters: shorter ones say less than the name ("Return self.").
_SHORTEST = 20

_KINDS = {ast.Module: "module", ast.ClassDef: "class"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def stdlib_passages() -> Iterator[dict[str, str]]:
    """Yield the docstrings of all public modules, classes and functions as rows, by their names.

    The sources are read, not imported, since some modules have side effects. The first definition
    of a name counts. Without sources, as in an embedded Python, there are no passages.
    """
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts and not any(part in _SKIPPED or part.startswith("_") for part in parts):
            yield from _passages_of(path, ".".join(parts))


def _passages_of(path: Path, module: str) -> Iterator[dict[str, str]]:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the library's strings
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return  # a template, or a file of another Python
    seen: set[str] = set()
    for node, name in [(tree, module), *_definitions(tree, module)]:
        text = ast.get_docstring(node)
        if text is None or len(text) < _SHORTEST or name in seen:
            continue
        seen.add(name)
        kind = _KINDS.get(type(node), "function")
        yield {"id": name, "module": module, "kind": kind, "text": f"{name}\n{text}"}


def _definitions(parent: ast.AST, prefix: str) -> Iterator[tuple[Definition, str]]:
    """Yield the public classes and functions inside a module or class, also within an ``if``."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Definition):
            if node.name.startswith("_"):
                continue
            name = f"{prefix}.{node.name}"
            yield node, name
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, name)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
            yield from _definitions(node, prefix)
