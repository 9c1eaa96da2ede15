"""Reading documents in a child process, so that a document that crashes the child or uses all of
its memory harms nothing else.

A child reads one document after another, and ends when it has been idle for a while. An event loop
reads one document at a time, so there is usually one child.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ..backend.threads import REST
from ..errors import AiovecError, ConfigError, DocumentError
from . import child
from .child import BOUNDS, TOO_LARGE, TOO_SLOW, read_frame, write_frames


class Text(NamedTuple):
    """The title and the pages of a document."""

    title: str | None
    pages: list[str]


class Stop:
    """Stops work in a thread, which calls ``check`` between its steps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._end: Callable[[], object] | None = None

    def __call__(self) -> None:
        with self._lock:
            self._is_set = True
            if self._end is not None:
                self._end()

    def check(self) -> None:
        """Raise AiovecError if the work should stop."""
        if self._is_set:
            raise AiovecError("the process that reads documents was stopped")

    @contextmanager
    def by(self, end: Callable[[], object]) -> Iterator[None]:
        """Call ``end`` if the work is stopped during the block, which cannot call ``check``."""
        with self._lock:
            self.check()
            self._end = end
        try:
            yield
        finally:
            with self._lock:
                self._end = None


def text_of(kind: str, data: bytes, source: str, stop: Stop) -> Text:
    """Read a document in a child process, or raise DocumentError. Blocks."""
    try:
        reader = _child()
    except OSError as exc:
        why = f"no process of Python can be started to read it: {exc}"
        raise DocumentError(source, f"{why}; convert it to Markdown first") from exc
    with reader, stop.by(reader.kill):
        facts = reader.ask(kind, data)
    stop.check()
    match facts:
        case {"title": str() | None as title, "pages": list() as pages}:
            return Text(title, pages)
        case {"missing": str() as package}:
            raise missing_package(package)
        case {"reason": str() as reason}:
            raise DocumentError(source, reason)
    raise DocumentError(source, "its reader returned an invalid answer")


def missing_package(name: str | None) -> ConfigError:
    """Return the error for a missing package that readers need."""
    install = 'pip install "aiovec[documents]"'
    return ConfigError(f"documents need the package {name}; install it with: {install}")


def bounds() -> str:
    """Return a description of how documents are read, for ``aiovec doctor``. Raises OSError if no
    child can be started."""
    with _child() as reader:
        bounded = f"{BOUNDS['memory'] >> 20:,} MiB" if reader.bounds_memory else "any amount"
    time = f"{BOUNDS['seconds']} s"
    return f"read in a separate process, each with at most {time} and {bounded} of memory"


def python() -> str:
    """Return the path of Python. Raises OSError if this process runs another program."""
    name = Path(sys.executable or "").stem.lower()
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        raise OSError(f"{sys.executable!r} is not Python")  # it would start the app again
    return sys.executable


class _Child:
    """A process that reads documents, for use in ``with``. Raises OSError if it cannot be
    started."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [python(), "-I", child.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
        _all.add(self)
        self._is_killed = False
        facts = self.ask("path", json.dumps(list(map(str, sys.path))).encode())
        if "bounds_memory" not in facts:
            self._close()
            raise OSError(f"{sys.executable} ended with {self._process.returncode}")
        self.bounds_memory = facts["bounds_memory"] is True

    def ask(self, kind: str, data: bytes) -> dict[str, Any]:
        """Return the facts about a document, or the reason why it cannot be read."""
        reason = f"{TOO_LARGE}, or breaks its reader"
        left = 4 * BOUNDS["characters"]

        def end() -> None:
            nonlocal reason
            reason = TOO_SLOW
            self.kill()

        timer = _after(BOUNDS["seconds"], end)
        try:
            stdout = cast(IO[bytes], self._process.stdout)
            write_frames(cast(IO[bytes], self._process.stdin), kind.encode(), data)
            facts: dict[str, Any] = dict(json.loads(read_frame(stdout, 2**16)))
            pages = []
            for _ in range(min(facts.get("pages", 0), BOUNDS["pages"])):
                page = read_frame(stdout, left)
                left -= len(page)
                pages.append(page.decode())
            return {**facts, "pages": pages}
        except (OSError, EOFError, ValueError, TypeError, RecursionError):
            self.kill()
            return {"reason": reason}
        finally:
            timer.cancel()
            timer.join()  # the timer may be killing the process at this moment

    def kill(self) -> None:
        """Kill the process, so that a thread that waits for its answer stops waiting. A killed
        child is not used again."""
        self._is_killed = True
        self._process.kill()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_killed:
            self._close()
        else:
            self._timer = _after(REST, self._end_rest)
            _idle.append(self)

    def _end_rest(self) -> None:
        with suppress(ValueError):  # another thread uses it
            _idle.remove(self)
            self._close()

    def wake(self) -> bool:
        """Stop the idle timer, and return whether the process still runs."""
        self._timer.cancel()
        if self._process.poll() is None:
            return True
        self._close()
        return False

    def _close(self) -> None:
        _all.discard(self)
        self.kill()
        with suppress(OSError), self._process:  # closes its pipes and waits for it
            pass


_idle: list[_Child] = []
_all: set[_Child] = set()


def _child() -> _Child:
    """Return an idle child, or a new one."""
    with suppress(IndexError):
        while True:
            if (idle := _idle.pop()).wake():
                return idle
    return _Child()


def _after(seconds: float, work: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()
    return timer


@atexit.register
def _end_all() -> None:
    for each in list(_all):
        each.kill()
    while _idle:
        _idle.pop()._close()


def _forget_all() -> None:
    for each in _all:
        each._process.returncode = 0  # the parent waits for its end
    _all.clear()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
