"""Run the ``aiovec`` command like a user, and return its exit code and its output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from io import BytesIO, TextIOWrapper
from typing import Any
from unittest import mock

import typer.main

COMMAND = (sys.executable, "-m", "aiovec")


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """The cells of a table that was printed to a pipe, line by line."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def json(self) -> Any:
        assert self.code in (0, 1), self.err
        return json.loads(self.out)


@cache
def _main() -> Callable[[], None]:
    (command,) = entry_points(group="console_scripts", name="aiovec")
    main: Callable[[], None] = command.load()
    return main


# Typer builds all commands again for each call, which takes longer than most commands.
_built = cache(typer.main.get_command)


def run(*arguments: object) -> Finished:
    """Run the installed command in this process."""
    main = _main()
    streams = [TextIOWrapper(BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2)]
    code: Any = 0
    with (
        redirect_stdout(streams[0]),
        redirect_stderr(streams[1]),
        mock.patch.object(sys, "argv", ["aiovec", *map(str, arguments)]),
        mock.patch.object(typer.main, "get_command", _built),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return Finished(code, out, err) if isinstance(code, int) else Finished(1, out, f"{err}{code}")


_WITHOUT = """
import runpy, sys
sys.modules[sys.argv.pop(1)] = None
runpy.run_module("aiovec", run_name="__main__", alter_sys=True)
"""


def command_without(module: str) -> tuple[str, ...]:
    """Return a command that runs aiovec in a process that cannot import this module."""
    return (sys.executable, "-c", _WITHOUT, module)


def run_process(
    *arguments: object, command: tuple[str, ...] = COMMAND, **variables: str
) -> Finished:
    """Run the command in a separate process, with ``variables`` added to its environment."""
    done = subprocess.run(
        [*command, *map(str, arguments)], env={**os.environ, **variables},
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)
