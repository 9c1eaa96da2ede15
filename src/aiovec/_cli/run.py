"""From the outcome of a command to its exit code."""

from __future__ import annotations

import asyncio
import functools
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import typer

from ..errors import AiovecError
from .output import err, one_line, say_error

_P = ParamSpec("_P")


def failing_clearly(command: Callable[_P, None]) -> Callable[_P, None]:
    """Return the command with exit codes: 1 and one line for an error, 130 when interrupted.

    SIGTERM, which ``timeout``, systemd and Docker send, stops it like Ctrl+C, with exit code 143.
    Only an ``AiovecError`` is an error of the user; anything else is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with _terminated_as_interrupted() as terminated:
            try:
                command(*args, **kwargs)
            except AiovecError as exc:
                say_error(exc)
                for note in getattr(exc, "__notes__", ()):
                    err().print(one_line(note))
                raise typer.Exit(1) from exc
            except (KeyboardInterrupt, asyncio.CancelledError) as exc:
                say_error("terminated" if terminated else "interrupted")
                raise typer.Exit(143 if terminated else 130) from exc
            except typer.Exit as exc:
                if terminated and exc.exit_code == 130:
                    raise typer.Exit(143) from exc
                raise

    # The help wraps a paragraph to the terminal only if it is one line.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return run


@contextmanager
def _terminated_as_interrupted() -> Iterator[list[int]]:
    """Turn SIGTERM into an interrupt, which cancels what runs. The list is empty until it comes."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    # Only the main thread can have handlers, a program has its own, and a shell lets those in its
    # background ignore interrupts.
    able = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    )
    if able:
        signal.signal(signal.SIGTERM, handle)
    try:
        yield received
    finally:
        if able:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
