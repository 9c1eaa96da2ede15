"""``aiovec demo``: store the docstrings of Python's standard library, and search them."""

from __future__ import annotations

import ast
import sysconfig
import time
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._model.schema import Embed, Field, Schema
from .._store.connect import connect
from ..errors import AiovecError, TableNotFoundError
from .output import one_line, say, working
from .run import failing_clearly, run_async

if TYPE_CHECKING:
    from .._model.records import Hit
    from .._store.store import VectorStore

TABLE = "stdlib"
FIELDS = {
    "module": Field(str, index="btree"),
    "kind": Field(str, index="bitmap"),
    "text": Field(str, text=True),
}

_SHOWN = 3
_LONGEST_TEXT = 90

_QUERIES = (
    "compress a file with gzip",
    "temporary directory that is removed afterwards",
    "wait until several tasks are done",
)
_FILTER = "kind = 'class' AND module STARTSWITH 'asyncio'"
_WORDS = '"RFC 2822" -header'
_WORDS_AND_VECTOR = "parse a date as RFC 2822 has it"

# Folders without documentation of the library: tests, applications, generated tables, pip's
# packages.
_SKIPPED = frozenset(
    "__phello__ __pycache__ _bundled dist-packages idlelib lib-dynload lib2to3 pydoc_data "
    "site-packages test tests turtledemo".split()
)


_KINDS = {ast.Module: "module", ast.ClassDef: "class"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@failing_clearly
def demo(
    store: Annotated[
        str,
        typer.Option(
            "--store",
            "-s",
            metavar="STORE",
            help="Path or URL of the demo's store, such as lancedb://aiovec-demo.lance.",
        ),
    ] = "aiovec-demo.db",
) -> None:
    """Store a few thousand docstrings of Python's standard library, and search them.

    Takes a few seconds. Running it again starts afresh.
    """
    run_async(_demo(store))


async def _demo(target: str) -> None:
    import asyncio

    began = time.perf_counter()
    # Its own model knows meanings; the built-in one needs no installation.
    installed = all(map(find_spec, ("wordllama", "tokenizers")))
    async with connect(target, embedder="local" if installed else "demo") as store:
        await _make_table(store)
        with working("reading docstrings"):
            passages = await asyncio.to_thread(lambda: list(stdlib_passages()))
        if not passages:
            raise AiovecError("this Python has no sources of its standard library")
        with working("embedding and storing"):
            await store.insert(TABLE, passages)
        _say(f"{len(passages):,} docstrings embedded and stored", "green")
        for query in _QUERIES:
            _show(f'Vectors: "{query}"', await store.search(TABLE, query, limit=_SHOWN))
        hits = await store.search(TABLE, query, limit=_SHOWN, where=_FILTER)
        _show(f'Filter: "{query}" where {_FILTER}', hits)
        _show(f"Keywords: {_WORDS}", await store.search_text(TABLE, _WORDS, limit=_SHOWN))
        hits = await store.search_hybrid(TABLE, _WORDS_AND_VECTOR, limit=_SHOWN)
        _show(f'Hybrid, keywords and vectors: "{_WORDS_AND_VECTOR}"', hits)
        rows, place = await store.count(TABLE), store.target
    if target != ":memory:":
        _show_next(target)
    seconds = time.perf_counter() - began
    _say(f"\ndemo: done in {seconds:.1f} s; {rows:,} passages are in {place}", "bold green")


async def _make_table(store: VectorStore) -> None:
    """Make an empty table. Refuses to replace a table of this name that is not the demo's."""
    from .._embed.hashing import HashingEmbedder
    from .._embed.static import BUILT_IN

    try:
        existing = await store.schema(TABLE)
    except TableNotFoundError:
        pass
    else:
        if existing.model not in (HashingEmbedder.model, BUILT_IN):
            raise AiovecError(
                f"{store.target} has a table {TABLE!r} that is not the demo's; name another --store"
            )
        await store.drop_table(TABLE)
    schema = Schema(fields=FIELDS, analyzer="english", embed=Embed("text"))
    await store.create_table(TABLE, schema)


def _show(title: str, hits: Sequence[Hit]) -> None:
    from rich.text import Text

    _say(f"\n{title}", "bold")
    for hit in hits:
        text = one_line(hit["text"].partition("\n")[2])  # the first line is the name, as is the id
        if len(text) > _LONGEST_TEXT:
            text = text[: _LONGEST_TEXT - 1] + "…"
        say(Text.assemble("  ", (f"{hit.score:.3f}", "cyan"), "  ", (hit.id, "bold")))
        _say(f"         {text}", "dim")


def _show_next(target: str) -> None:
    _say("\nTry next", "bold")
    name = f'"{target}"' if " " in target else target
    for command in (
        f'search {TABLE} "temporary directory" --by text -s {name}',
        f"search {TABLE} --like gzip.GzipFile --where \"kind = 'module'\" -s {name}",
        f"info -s {name}",
        "demo -s lancedb://aiovec-demo.lance",
    ):
        _say(f"  aiovec {command}", "cyan")


def _say(text: str, style: str) -> None:
    from rich.text import Text

    say(Text(text, style))


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
        # A shorter docstring says less than the name ("Return self.").
        if text is None or len(text) < 20 or name in seen:
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
