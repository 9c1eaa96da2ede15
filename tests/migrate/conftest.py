"""The command as a user runs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.harness import command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run() -> Run:
    """``aiovec migrate`` with these arguments: its exit code, and what it wrote to both streams."""

    def run(*arguments: object) -> tuple[int, str, str]:
        done = command.run("migrate", *arguments)
        return done.code, done.out, done.err

    return run
