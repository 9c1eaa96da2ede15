"""A fixture that runs the command like a user."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.harness import command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run() -> Run:
    """Return a function that runs ``aiovec migrate``; it returns the exit code and both outputs."""

    def run(*arguments: object) -> tuple[int, str, str]:
        done = command.run("migrate", *arguments)
        return done.code, done.out, done.err

    return run
