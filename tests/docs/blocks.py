"""The code blocks of a page, and how they are run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tests.harness.command import run

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n+```.*?^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in _all_blocks(page) if kind == language]


def run_page(page: str, folder: Path) -> dict[str, Any]:
    """Run the blocks of a page from top to bottom in the current folder; return its names.

    Python may await, as in ``python -m asyncio``. TOML becomes ``aiovec.toml``, lines of
    ``$ aiovec`` are run, and a block of text is what the block before it prints.
    """
    names: dict[str, Any] = {"__name__": "page"}
    printed = ""
    with asyncio.Runner() as runner:
        for language, body in _all_blocks(page):
            if language == "python":
                with redirect_stdout(io.StringIO()) as out:
                    _run_python(runner, body, names, page)
                printed = out.getvalue()
            elif language == "text":
                assert printed == body, (page, printed)
            elif language == "toml":
                (folder / "aiovec.toml").write_text(body, "utf-8")
            elif language == "console":
                for arguments in commands(body):
                    done = run(*arguments)
                    assert done.code == 0, (page, arguments, done.err)
    return names


def commands(block: str) -> list[list[str]]:
    """Return the arguments of each ``$ aiovec …`` line, but for servers, which do not end."""
    lines = re.findall(r"^\$ aiovec (.+)$", block.replace("\\\n", " "), re.MULTILINE)
    split = [shlex.split(line, comments=True) for line in lines]
    return [arguments for arguments in split if arguments[0] != "serve"]


async def run_code(code: str, names: dict[str, Any], page: str = "page") -> None:
    """Run a block, which may await, with these names."""
    outcome = eval(_compiled(code, page), names)
    if outcome is not None:
        await outcome


def _all_blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall(NOT_RUN.sub("", (ROOT / page).read_text(encoding="utf-8")))


def _run_python(runner: asyncio.Runner, code: str, names: dict[str, Any], page: str) -> None:
    compiled = _compiled(code, page)
    if compiled.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(compiled, names))
    else:  # as a script: it may start an event loop of its own
        exec(compiled, names)


def _compiled(code: str, page: str) -> Any:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT  # and none of this module's own
    return compile(code, page, "exec", flags=flags, dont_inherit=True)
