"""The walk-through of the page on moves, as it is there, beside an app that goes on."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command import run
from tests.harness.waiting import until

import aiovec

from .blocks import BLOCK, ROOT, blocks, commands, run_code

PAGE = "docs/how-to/move-to-lancedb.md"


async def follows(app: aiovec.VectorStore, backend: str) -> bool:
    """Use the app's store; whether it uses this backend by now."""
    (record,) = await app.get("context_vectors", ["chunk-7"])
    assert record["text_chunk"] == "Part 7."
    return app.backend_name == backend


@pytest.mark.slow
async def test_the_walk_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AIOVEC_CONFIG", "AIOVEC_RETRIEVAL__BACKEND"):
        monkeypatch.delenv(name, raising=False)
    names: dict[str, Any] = {}
    backends: list[str] = []
    app: Any = None
    text = (ROOT / PAGE).read_text(encoding="utf-8").split("## A walk through")[1]
    for language, body in BLOCK.findall(text.split("\n## ")[0]):
        if language == "toml":
            (tmp_path / "aiovec.toml").write_text(body, "utf-8")
        elif language == "python":
            await run_code(body, names, PAGE)
            # An app of its own, which opens its store once and never again.
            app = app or await aiovec.connect(config="aiovec.toml")
        for arguments in commands(body):
            done = await asyncio.to_thread(run, *arguments)
            assert done.code == 0, (arguments, done.err)
            (used,) = re.findall(r'(?m)^backend = "(\w+)"', (tmp_path / "aiovec.toml").read_text())
            await until(partial(follows, app, used))
            backends.append(used)
    await app.close()
    assert [name for name, _ in groupby(backends)] == ["lancedb", "sqlite", "lancedb"]
    async with aiovec.connect(config="aiovec.toml") as store:
        assert await store.count("context_vectors") == 1001
        assert await store.schema("context_vectors") == aiovec.Schema.context_vectors(768)


def test_every_command_of_the_page_takes_the_options_it_is_given() -> None:
    listed = [arguments for block in blocks(PAGE, "console") for arguments in commands(block)]
    assert len(listed) > 5
    for arguments in listed:
        command = arguments[: 2 if arguments[0] == "migrate" else 1]
        usage = run(*command, "--help").out
        for option in (word for word in arguments if word.startswith("--")):
            assert re.search(rf"{option}\b", usage), (command, option)
