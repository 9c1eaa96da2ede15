"""Run commands, and set their exit codes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import typer

from .._tools.lazy_arrow import needs_arrow
from ..errors import AiovecError, EmbeddingError
from .output import say, say_error

_P = ParamSpec("_P")
_T = TypeVar("_T")

_FIX = "pass --embedder KIND, such as local, or --config FILE, or search with --by text"


def command_app(name: str, **options: Any) -> typer.Typer:
    """Return the app for a package's command, which behaves like aiovec's own commands."""
    return typer.Typer(
        name=name,
        add_completion=False,
        # Anything but an AiovecError is a bug and keeps its traceback.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def check_installed(command: str, extra: str, *modules: str) -> None:
    """Raise AiovecError, which names the extra to install, if a module is not installed."""
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as exc:
            raise AiovecError(
                f"{command} needs the package {exc.name}, which is not installed; "
                f'run: pip install "{extra}"'
            ) from exc


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine to completion."""
    import asyncio  # slow, and the help does not need it

    return asyncio.run(work)


def on_signals(act: Callable[[], object]) -> None:
    """Make Ctrl+C and SIGTERM call ``act`` on the running loop, instead of ending the process."""
    import asyncio
    import signal

    with suppress(NotImplementedError):  # on Windows
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, act)


def failing_clearly(command: Callable[_P, None]) -> Callable[_P, None]:
    """Return the command with exit codes: 1 and one line for an error, 130 when interrupted.

    Only an ``AiovecError`` and a missing or broken pyarrow are the user's errors; anything else is
    a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        from asyncio import CancelledError  # slow, and the help does not need it

        try:
            command(*args, **kwargs)
        except AiovecError as exc:
            # On the command line, the fix is an option.
            say_error(replace(exc, fix=_FIX) if isinstance(exc, EmbeddingError) else exc)
            for note in getattr(exc, "__notes__", ()):
                say(note, stderr=True)
            raise typer.Exit(1) from exc
        except ImportError as exc:
            if (error := needs_arrow(exc)) is None:
                raise
            say_error(error)
            raise typer.Exit(1) from exc
        except (KeyboardInterrupt, CancelledError) as exc:
            say_error("interrupted")
            raise typer.Exit(130) from exc

    # The help wraps a paragraph to the terminal only if it is one line.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return run
