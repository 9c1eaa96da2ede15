"""Progress of the commands: a bar on a terminal, lines in a pipe, or JSON.

A separate thread writes it: a stopped terminal, or a pipe that nobody reads, must never delay a
migration, least of all while writers wait for the cut-over.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from aiovec._cli.output import emit, err, one_line

from .events import Event, Listener

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown(*, json: bool) -> Iterator[Listener]:
    """Return a listener that shows events until the block ends."""
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def write() -> None:
        # If nobody reads any longer, the run still goes on.
        with contextlib.suppress(OSError), _display(json=json) as show:
            while (event := events.get()) is not None:
                show(event)

    thread = threading.Thread(target=write, name="aiovec-showing", daemon=True)
    thread.start()
    try:
        yield events.put
    finally:
        events.put(None)
        thread.join()


@contextmanager
def _display(*, json: bool) -> Iterator[Callable[[Event], None]]:
    console = err()
    if json:
        yield lambda event: _write(sys.stdout, json_line(event.to_dict()))
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield _Bar(progress)
    else:
        yield _lines()


def _write(stream: object, text: str) -> None:
    stream.write(text)  # type: ignore[attr-defined]
    stream.flush()  # type: ignore[attr-defined]


def _lines() -> Callable[[Event], None]:
    """Return a function that writes a line for each phase, and every few seconds of progress."""
    last = time.monotonic()

    def show(event: Event) -> None:
        nonlocal last
        if event.kind == "progress" and time.monotonic() - last < _SECONDS_BETWEEN_LINES:
            return
        last = time.monotonic()
        _write(sys.stderr, line_of(event) + "\n")

    return show


class _Bar:
    """A bar at the bottom, with sentences above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, facts="")

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            style = {"warning": "yellow", "phase": "bold"}.get(event.kind, "")
            self._progress.console.print(Text(line_of(event), style))
        facts, doing = _facts(event), _doing(event)
        self._progress.update(
            self._task, description=doing, total=event.total, completed=event.rows or 0, facts=facts
        )


def line_of(event: Event) -> str:
    """Return an event in one line for people."""
    if event.kind == "warning":
        return one_line(f"warning: {event.text}")
    facts = ", ".join(part for part in (_facts(event), event.text) if part)
    done = " done" if event.kind == "table" else ""
    return one_line(f"{_doing(event)}{done}{': ' if facts else ''}{facts}")


def _doing(event: Event) -> str:
    return event.phase if event.table is None else f"{event.phase} {event.table}"


def _facts(event: Event) -> str:
    facts = []
    if event.rows is not None:
        of = f" of {event.total:,}" if event.total else ""
        facts.append(f"{event.rows:,}{of} rows")
    if event.rate is not None:
        facts.append(f"{event.rate:,.0f} rows/s")
    if event.left is not None:
        facts.append(f"{duration(event.left)} left")
    if event.lag is not None:
        facts.append(f"{event.lag:,} changes")
    return ", ".join(facts)


def duration(seconds: float) -> str:
    """Return seconds as people write them: ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def emit_lines(facts: Any, lines: Iterable[str], json: bool) -> None:
    """Print a result as JSON, or as lines for people with their spaces kept."""
    emit(facts, map(Text, lines), json)


def json_line(value: object) -> str:
    """Return a value as one line of JSON, in ASCII so that every stream can write it."""
    return json.dumps(value, default=str) + "\n"
