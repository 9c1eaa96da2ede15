"""The walk-through of docs/MIGRATION.md, as it stands there, beside an app that goes on."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shlex
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import aiovec

from .blocks import ROOT, blocks

PAGE = "docs/MIGRATION.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walk() -> list[tuple[str, str]]:
    """The blocks of the walk-through in their order, each with its language."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    section = text.split("## A walk through")[1].split("\n## ")[0]
    return _BLOCK.findall(section)


def commands(block: str) -> list[list[str]]:
    """The arguments of each ``$ aiovec …`` line."""
    joined = block.replace("\\\n", " ")
    lines = [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
    words = [shlex.split(line) for line in lines]
    assert all(first == "aiovec" for first, *_ in words)
    return [rest for _, *rest in words]


def aiovec_command(*arguments: str) -> str:
    """What the command prints; it runs on an event loop of its own."""
    from aiovec._cli.app import app

    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{arguments}: {done.output}"
    return done.stdout


async def run_python(code: str, names: dict[str, Any]) -> None:
    compiled = compile(code, PAGE, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(compiled, names)
    if outcome is not None:
        await outcome


@pytest.mark.slow
async def test_the_walk_through_of_context_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    monkeypatch.delenv("AIOVEC_RETRIEVAL__BACKEND", raising=False)
    names: dict[str, Any] = {}
    printed: dict[str, str] = {}
    backends = []
    app = None
    try:
        for language, body in walk():
            if language == "toml":
                (tmp_path / "aiovec.toml").write_text(body, "utf-8")
            elif language == "python":
                await run_python(body, names)
                # An app of its own, which opens its store once and never again.
                app = app or await aiovec.connect(config="aiovec.toml")
            else:
                for arguments in commands(body):
                    printed[arguments[1]] = await asyncio.to_thread(aiovec_command, *arguments)
            if app is not None:
                # From LanceDB, which has no mark, a store follows within a second.
                await asyncio.sleep(1.1 if app.backend_name == "lancedb" else 0)
                (found,) = await app.get("context_vectors", ["chunk-7"])
                assert found["text_chunk"] == "What was said in part 7."
                backends.append(app.backend_name)
    finally:
        if app is not None:
            await app.close()

    assert "nothing stands in the way" in printed["plan"]
    assert json.loads((tmp_path / "moved.json").read_text("utf-8"))["equal"] is True
    assert "equal, 1,010 rows" in printed["verify"]
    assert (tmp_path / "context.db").exists()
    async with aiovec.connect(config="aiovec.toml") as store:
        assert store.backend_name == "lancedb"
        assert await store.count("context_vectors") == 1010
        assert await store.schema("context_vectors") == aiovec.Schema.context_vectors(768)
    assert printed["status"].count("1,000") > 0
    status = "migrate", "status", "--config", "aiovec.toml"
    assert "no migration is open here" in await asyncio.to_thread(aiovec_command, *status)
    # There, back by the rollback, and there again.
    assert [name for name, _ in groupby(backends)] == ["sqlite", "lancedb", "sqlite", "lancedb"]


def test_every_command_of_the_page_takes_the_options_it_is_given() -> None:
    listed = [arguments for block in blocks(PAGE, "console") for arguments in commands(block)]
    assert len(listed) > 5
    helped: dict[tuple[str, ...], str] = {}
    for arguments in listed:
        command = tuple(arguments[: 2 if arguments[0] == "migrate" else 1])
        if command not in helped:
            helped[command] = aiovec_command(*command, "--help")
        for option in (word for word in arguments if word.startswith("--")):
            assert re.search(rf"{option}\b", helped[command]), (command, option)


def test_the_toml_of_the_page_names_two_backends() -> None:
    (text,) = blocks(PAGE, "toml")
    assert 'backend = "sqlite"' in text
    assert "lancedb_url" in text
