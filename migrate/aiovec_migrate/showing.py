"""What a run tells while it goes on: a bar on a terminal, lines in a pipe, JSON for programs.

All of it is written by a thread of its own. A terminal that is stopped, or a pipe that nobody
empties, must never hold up a migration, least of all while writers wait for the cut-over.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from types import TracebackType
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from aiovec._cli.output import err, one_line

from .events import Event
from .plans import duration

_SECONDS_BETWEEN_LINES = 5.0


class Display(Protocol):
    """One way to show events. Called in the thread that writes."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Showing:
    """A listener that shows what it hears: ``with Showing(json=False) as listener``."""

    def __init__(self, *, json: bool, quiet: bool = False) -> None:
        self._json = json
        self._quiet = quiet
        self.heard = False
        """Whether anything was told: a run that was over before tells nothing."""
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="aiovec-showing", daemon=True)

    def __enter__(self) -> Showing:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._events.put(None)
        self._thread.join()

    def __call__(self, event: Event) -> None:
        self.heard = True
        self._events.put(event)

    def _write(self) -> None:
        display = self._display()
        try:
            while (event := self._events.get()) is not None:
                display.show(event)
        except OSError:
            return  # nobody reads any more; the run goes on all the same
        finally:
            with contextlib.suppress(OSError):
                display.close()

    def _display(self) -> Display:
        if self._json:
            return Objects(sys.stdout)
        console = err()
        if self._quiet:
            return Nothing()
        return Bar(console) if console.is_terminal else Lines(console.file)


class Nothing:
    """Shows nothing."""

    def show(self, event: Event) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Objects:
    """Each event as a JSON object in a line of its own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def show(self, event: Event) -> None:
        shown = {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in event.to_dict().items()
        }
        self._stream.write(json_line(shown))
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class Lines:
    """A line for each phase, and while rows pass one every few seconds."""

    def __init__(self, stream: IO[str], *, every: float = _SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream
        self._every = every
        self._last = time.monotonic()

    def show(self, event: Event) -> None:
        now = time.monotonic()
        if event.kind == "progress" and now - self._last < self._every:
            return
        if line := line_of(event):
            self._last = now
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class Bar:
    """A bar that stays at the bottom, with sentences above it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._progress.start()

    def show(self, event: Event) -> None:
        if event.kind == "progress":
            self._update(event)
            return
        if event.kind == "phase":
            self._forget()
            self._task = self._progress.add_task(_doing(event), total=None, facts=event.text)
        style = {"warning": "yellow", "phase": "bold", "done": "green"}.get(event.kind, "")
        if line := line_of(event):
            self._progress.console.print(Text(line, style))

    def _update(self, event: Event) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=None, facts="")
        self._progress.update(
            self._task,
            description=_doing(event),
            total=event.total,
            completed=event.rows or 0,
            facts=", ".join(_facts(event)),
        )

    def _forget(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def close(self) -> None:
        self._progress.stop()


def line_of(event: Event) -> str:
    """An event in one line for people; empty where there is nothing to say."""
    if event.kind in ("note", "done"):
        return one_line(event.text)
    if event.kind == "warning":
        return one_line(f"warning: {event.text}")
    facts = ", ".join([*_facts(event), *([event.text] if event.text else [])])
    ended = " done" if event.kind == "table" else ""
    return one_line(f"{_doing(event)}{ended}{': ' if facts else ''}{facts}")


def _doing(event: Event) -> str:
    phase = event.phase.replace("-", " ")
    return phase if event.table is None else f"{phase} {event.table}"


def _facts(event: Event) -> list[str]:
    facts = []
    if event.rows is not None and event.total:
        facts.append(f"{event.rows:,} of {event.total:,} rows")
    elif event.rows is not None:
        facts.append(f"{event.rows:,} rows")
    if event.kind == "table":
        return facts  # it is through, so how fast it is now means nothing
    if event.rate is not None:
        facts.append(f"{event.rate:,.0f} rows/s")
    if event.left is not None:
        facts.append(f"{duration(event.left)} left")
    if event.lag is not None:
        facts.append(f"{event.lag:,} changes behind")
    return facts


def json_line(value: Any) -> str:
    """A value as one line of JSON, in ASCII so that every stream can write it."""
    return json.dumps(value, default=str) + "\n"
