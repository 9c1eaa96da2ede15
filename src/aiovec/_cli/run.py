"""From a command to its coroutine, and from an error to an exit code."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import typer

from ..errors import AiovecError
from .output import err, one_line, say_error

_P = ParamSpec("_P")
_T = TypeVar("_T")


def failing_clearly(command: Callable[_P, None]) -> Callable[_P, None]:
    """The command, ending with 1 and one line where it fails, and with 130 where it is stopped.

    Only an ``AiovecError`` is a failure; anything else is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except AiovecError as exc:
            say_error(exc)
            for note in getattr(exc, "__notes__", ()):
                err().print(one_line(note))
            raise typer.Exit(1) from exc
        except (KeyboardInterrupt, asyncio.CancelledError) as exc:
            say_error("interrupted")
            raise typer.Exit(130) from exc

    return run


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end. An interrupt cancels it and lets it clean up."""
    return asyncio.run(work)
