"""``aiovec demo``: what the library does, shown on text that every machine has."""

from __future__ import annotations

import asyncio
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Annotated, Any

import numpy as np
import typer
from rich.text import Text

from .._demo import HashingEmbedder, Passage, stdlib_passages
from .._model.records import Hit
from .._model.schema import Embed, Field, Schema
from .._store.connect import connect
from .._store.store import VectorStore
from ..backend.contract import TableStats
from ..backend.locate import is_url, locate
from ..backend.plugin import BackendPlugin
from ..backend.plugins import plugins
from ..errors import AiovecError, TableNotFoundError, UnsupportedError
from .output import one_line, out, progress
from .run import failing_clearly, run

TABLE = "stdlib"

# Enough rows for the vectors to be made and written in bulk, few enough for the bar to move.
_BATCH = 500
_SHOWN = 3
_LONGEST_TEXT = 90

_QUERIES = (
    "compress a file with gzip",
    "temporary directory that is removed afterwards",
    "wait until several tasks are done",
)
_WORDS = '"RFC 2822" -header'
_WORDS_AND_VECTOR = "parse a date as RFC 2822 has it"
_MARKS = ("[", "]")
_FILTERED_QUERY = "wait until several tasks are done"
_FILTER = "kind = 'class' AND module STARTSWITH 'asyncio'"

SCHEMA = Schema(
    HashingEmbedder.dim,
    model=HashingEmbedder.model,
    fields={
        "module": Field(str, index="btree"),
        "kind": Field(str, index="bitmap"),
        "line": int,
        "length": int,
        "text": Field(str, text=True),
        "read": bool,
    },
    analyzer="english",
    embed=Embed("text"),
)
_EMBEDDERS = {"default": {"kind": "demo", "batch_size": _BATCH}}


@failing_clearly
def demo(
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The backend that stores the passages. Default: the one that stores in a file.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Path of the demo's store. Default: aiovec-demo with the backend's suffix, in the "
            "current folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Store some thousand docstrings of Python's standard library, and search them.

    Takes some seconds. Running it again begins anew.
    """
    run(_Tour(_target(backend, path)).take())


def _target(backend: str | None, path: str | None) -> str:
    """Return the target of the demo's store."""
    offered = _offered()
    name = offered[0].name if backend is None else backend
    plugin = next((plugin for plugin in offered if plugin.name == name), None)
    if plugin is None:
        known = ", ".join(plugin.name for plugin in offered)
        raise typer.BadParameter(f"{name!r} is not one of {known}", param_hint="--backend")
    place = plugin.demo_path if path is None else path
    return place if plugin.takes_paths or is_url(place) else f"{plugin.name}://{place}"


def _offered() -> list[BackendPlugin]:
    return [plugin for plugin in plugins() if plugin.demo_path]


class _Tour:
    """The steps of the demo, each of which says what it does and how long it took."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._console = out()

    async def take(self) -> None:
        began = time.perf_counter()
        async with connect(self._target, embedders=_EMBEDDERS) as store:
            await _make_table(store)
            passages = await self._read()
            await self._store(store, passages)
            for query in _QUERIES:
                self._title(f'Vectors: "{query}"')
                hits = await self._search(store, query)
            self._title(f"Keywords: {_WORDS}")
            await self._keywords(store)
            self._title(f'Hybrid, keywords and vectors: "{_WORDS_AND_VECTOR}"')
            await self._hybrid(store)
            self._title(f'Filter: "{_FILTERED_QUERY}" where {_FILTER}')
            found = await self._search(store, _FILTERED_QUERY, where=_FILTER) or hits
            await self._change(store, found)
            stats = await store.stats(TABLE)
            await asyncio.to_thread(self._whats_next, store, stats, found)  # it looks at files
        self._console.print()
        self._say(f"demo: done in {time.perf_counter() - began:.1f} s", "bold green")

    async def _read(self) -> list[Passage]:
        self._title(f"Text: the docstrings of Python {platform.python_version()}'s own library")
        began = time.perf_counter()
        passages: list[Passage] = []
        reading = stdlib_passages()
        with progress("passages") as bar:
            task = bar.add_task("reading", total=None)
            while part := await asyncio.to_thread(_take, reading):
                passages += part
                bar.update(task, completed=len(passages))
        if not passages:
            raise AiovecError("this Python has no sources of its standard library")
        kinds = [passage.kind for passage in passages]
        counted = ", ".join(f"{kinds.count(k):,} {k}" for k in ("module", "class", "function"))
        self._done(f"{len(passages):,} passages ({counted})", began)
        return passages

    async def _store(self, store: VectorStore, passages: Sequence[Passage]) -> None:
        self._title(f"Embed with {HashingEmbedder.model} ({HashingEmbedder.dim} dimensions), store")
        began = time.perf_counter()
        with progress("passages") as bar:
            task = bar.add_task("embedding and storing", total=len(passages))
            for start in range(0, len(passages), _BATCH):
                part = passages[start : start + _BATCH]
                await store.insert(TABLE, await asyncio.to_thread(_columns, part))
                bar.advance(task, len(part))
        seconds = time.perf_counter() - began
        kept = "safe on the disk" if store.supports("power-loss") else "a commit"
        self._say(
            f"  embedded, indexed and stored in {seconds:.2f} s "
            f"({len(passages) / seconds:,.0f} rows/s, each batch {kept})"
        )

    async def _search(
        self, store: VectorStore, query: str, *, where: str | None = None
    ) -> list[Hit]:
        began = time.perf_counter()
        hits = await store.search(TABLE, query, limit=_SHOWN, where=where)
        self._hits(hits, began)
        return hits

    async def _keywords(self, store: VectorStore) -> None:
        began = time.perf_counter()
        try:
            hits = await store.search_text(TABLE, _WORDS, limit=_SHOWN, highlight=_MARKS)
        except UnsupportedError:  # this Python's own SQLite, which marks the words, has no FTS5
            hits = await store.search_text(TABLE, _WORDS, limit=_SHOWN)
        self._hits(hits, began)

    async def _hybrid(self, store: VectorStore) -> None:
        began = time.perf_counter()
        hits = await store.search_hybrid(TABLE, _WORDS_AND_VECTOR, limit=_SHOWN)
        self._hits(hits, began)

    def _hits(self, hits: Sequence[Hit], began: float) -> None:
        seconds = time.perf_counter() - began
        for hit in hits:
            # The text begins with the name, which is the id.
            text = one_line((hit.highlights or {}).get("text") or _behind_name(hit))
            if len(text) > _LONGEST_TEXT:
                text = text[: _LONGEST_TEXT - 1] + "…"
            ranks = ", ".join(f"{name} {int(rank)}" for name, rank in (hit.ranks or {}).items())
            self._console.print(
                Text.assemble(
                    "  ", (f"{hit.score:.3f}", "cyan"), "  ", (hit.id, "bold"),
                    (f"  ({ranks})" if ranks else "", "cyan"),
                ),
            )  # fmt: skip
            self._console.print(Text(f"         {text}", "dim"))
        self._say(f"  {len(hits)} hits in {seconds * 1000:.1f} ms", "green")

    async def _change(self, store: VectorStore, found: Sequence[Hit]) -> None:
        best = found[0].id
        self._title(f"Update: mark {best} as read; its vector stays")
        began = time.perf_counter()
        changed = await store.update(TABLE, {"read": True}, ids=best)
        count = await store.count(TABLE, "read")
        self._done(f"{changed} row changed; {count} row where read", began)

        versions = await store.versions(TABLE) if store.supports("snapshots") else []
        self._title(f"Delete: {best}, then the same search again")
        began = time.perf_counter()
        deleted = await store.delete(TABLE, best)
        self._done(f"{deleted} row deleted", began)
        await self._search(store, _FILTERED_QUERY, where=_FILTER)
        if versions:
            before = versions[-1]["version"]
            self._title(f"Restore: version {before} of the table, before the deletion")
            began = time.perf_counter()
            await store.restore(TABLE, before)
            self._done(f"{len(await store.get(TABLE, best))} row is there again", began)

    def _whats_next(self, store: VectorStore, stats: TableStats, found: Sequence[Hit]) -> None:
        self._title("What is there now")
        self._say(f"  {store.target}: {stats.rows:,} rows, {stats.bytes:,} bytes")
        if locate(self._target).in_memory:
            return
        named = _quoted(self._target)
        self._title("What to type next")
        commands = [
            f"aiovec info {named}",
            f'aiovec search {named} {TABLE} "temporary director*" --text --select kind,text'
            if store.supports("text-prefix")
            else f'aiovec search {named} {TABLE} "temporary directory" --text --select kind,text',
            f"aiovec search {named} {TABLE} --like gzip.GzipFile --where \"kind = 'module'\"",
            f"aiovec distinct {named} {TABLE} kind",
            f"aiovec doctor {named}",
        ]
        first, *others = _offered()
        if store.backend_name == first.name:
            for other in others:
                if not all(map(find_spec, other.requires)):
                    commands.append(f'pip install "{other.install}"')
                commands.append(f"aiovec demo --backend {other.name}")
        for command in commands:
            self._say(f"  {command}", "cyan")

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, "bold"))

    def _done(self, what: str, began: float) -> None:
        self._say(f"  {what} in {_time(time.perf_counter() - began)}", "green")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))


async def _make_table(store: VectorStore) -> None:
    """An empty table. One of that name which is not the demo's stays as it is."""
    try:
        there = await store.schema(TABLE)
    except TableNotFoundError:
        there = None
    if there is not None:
        if there.model != HashingEmbedder.model:
            raise AiovecError(
                f"{store.target} has a table {TABLE!r} that is not the demo's; name another --path"
            )
        await store.drop_table(TABLE)
    await store.create_table(TABLE, SCHEMA)


def _take(passages: Iterator[Passage]) -> list[Passage]:
    return list(islice(passages, _BATCH))


def _quoted(path: str) -> str:
    """The path as this system's shell takes it."""
    return subprocess.list2cmdline([path]) if os.name == "nt" else shlex.quote(path)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _behind_name(hit: Hit) -> str:
    text: str = hit["text"]
    return text.partition("\n")[2]


def _columns(passages: Sequence[Passage]) -> dict[str, Any]:
    texts = [f"{passage.name}\n{passage.text}" for passage in passages]
    return {
        "id": [passage.name for passage in passages],
        "module": [passage.module for passage in passages],
        "kind": [passage.kind for passage in passages],
        "line": np.array([passage.line for passage in passages]),
        "length": np.array([len(text) for text in texts]),
        "text": texts,
        "read": np.zeros(len(passages), dtype=bool),
    }
