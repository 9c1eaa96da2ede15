"""Show the progress of the commands as lines of text or as JSON.

A separate thread writes the output: a stopped terminal, or a pipe that nobody reads, must never
delay a migration, least of all while writers wait for the cut-over.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.text import Text

from aiovec._cli.output import emit, one_line, out
from aiovec._cli.stores import Shown

from .events import Event, Listener

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def events_shown(*, json: bool) -> Iterator[Listener]:
    """Return a listener that shows events until the ``with`` block ends."""
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def write() -> None:
        last = time.monotonic()
        # The run continues even if nobody reads its output any longer.
        with suppress(OSError):
            while (event := events.get()) is not None:
                if json:
                    _write(sys.stdout, json_line(event.to_dict()))
                elif event.kind != "progress" or time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    _write(sys.stderr, line_of(event) + "\n")

    thread = threading.Thread(target=write, name="aiovec-showing", daemon=True)
    thread.start()
    try:
        yield events.put
    finally:
        events.put(None)
        thread.join()


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def line_of(event: Event) -> str:
    """Return an event as one line of text."""
    if event.kind == "warning":
        return one_line(f"warning: {event.text}")
    facts = ", ".join(part for part in (_facts(event), event.text) if part)
    done = " done" if event.kind == "table" else ""
    doing = event.phase if event.table is None else f"{event.phase} {event.table}{done}"
    return one_line(f"{doing}{': ' if facts else ''}{facts}")


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
    """Format a duration for people: ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show_result(result: Shown, json: bool, *, after_events: bool) -> None:
    """Print a result as JSON (on one line after events), or as lines of plain text."""
    if json and after_events:
        out().file.write(json_line({"kind": "result", **result.facts}))
    else:
        emit(result.facts, [Text(str(line)) for line in result.lines], json)


def json_line(value: object) -> str:
    """Return a value as one line of JSON, in ASCII so that every stream can write it."""
    return json.dumps(value, default=str) + "\n"
