"""What a run tells: lines in a pipe, a bar on a terminal, JSON; never in the way of the run."""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import Any

import pytest
from rich.console import Console

from aiovec_migrate.show import Bar, Lines, Objects, Showing, line_of
from aiovec_migrate.state import Event

EVENTS = [
    Event("phase", "copying"),
    *(
        Event(
            "progress",
            "copying",
            "notes",
            rows=n,
            total=5000,
            rate=1000.4,
            left=round(5.0 - n / 1000, 2),
        )
        for n in range(0, 5000, 10)
    ),
    Event("table", "copying", "notes", rows=5000, total=5000),
    Event("phase", "catching-up"),
    Event("progress", "catching-up", "notes", lag=12),
    Event("warning", "catching-up", text="writers are\nfaster"),
    Event("note", "cutting-over", text="tried again"),
    Event("done", "done", text="all is there"),
    Event("done", "done"),
]

WORDS = [
    (EVENTS[0], "copying"),
    (EVENTS[2], "copying notes: 10 of 5,000 rows, 1,000 rows/s, 5.0 s left"),
    (Event("table", "copying", "notes", rows=5000, rate=3.0), "copying notes done: 5,000 rows"),
    (Event("done", "done"), ""),
    (Event("phase", "catching-up", lag=0), "catching up: 0 changes behind"),
    (Event("phase", "moved", text="the source sends all on"), "moved: the source sends all on"),
    (Event("warning", "copying", text="a\nb \x1b[31m"), "warning: a b �[31m"),
    (Event("done", "done", text="all is there"), "all is there"),
]


@pytest.mark.parametrize(("event", "words"), WORDS)
def test_an_event_in_words(event: Event, words: str) -> None:
    assert line_of(event) == words


def test_in_a_pipe_progress_is_a_line_every_few_seconds() -> None:
    stream = io.StringIO()
    lines = Lines(stream, every=3600)
    for event in EVENTS:
        lines.show(event)
    assert stream.getvalue().splitlines() == [
        "copying",
        "copying notes done: 5,000 of 5,000 rows",
        "catching up",
        "warning: writers are faster",
        "tried again",
        "all is there",
    ]
    stream = io.StringIO()
    lines = Lines(stream, every=0)
    for event in EVENTS:
        lines.show(event)
    assert len(stream.getvalue().splitlines()) == len(EVENTS) - 1


def test_as_json_each_event_is_a_line() -> None:
    stream = io.StringIO()
    objects = Objects(stream)
    for event in EVENTS:
        objects.show(event)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert found == [event.to_dict() for event in EVENTS]


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    bar = Bar(console)
    for event in EVENTS[:-5]:
        bar.show(event)
    bar._progress.refresh()
    bar.close()
    shown = stream.getvalue()
    assert "copying notes" in shown
    assert "━" in shown
    stream.truncate(0)
    bar = Bar(console)
    bar.show(EVENTS[2])
    bar._progress.refresh()
    assert "10 of 5,000 rows, 1,000 rows/s, 5.0 s left" in stream.getvalue()
    for event in EVENTS:
        bar.show(event)
    bar.close()
    assert "warning: writers are faster" in stream.getvalue()


def test_all_is_written_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with Showing(json=True) as listener:
        for event in EVENTS:
            listener(event)
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == len(EVENTS)
    assert written.err == ""
    with Showing(json=False) as listener:
        listener(EVENTS[-2])
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "all is there\n")
    with Showing(json=False, quiet=True) as listener:
        listener(EVENTS[-1])
    assert capsys.readouterr() == ("", "")


class _Stuck(io.StringIO):
    """A pipe that nobody empties until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(60)
        return super().write(text)


def test_a_reader_that_stands_still_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _Stuck()
    monkeypatch.setattr(sys, "stdout", stream)
    with Showing(json=True) as listener:
        for event in EVENTS:
            listener(event)
        heard = not stream.go.is_set()
        stream.go.set()
    assert heard
    assert len(stream.getvalue().splitlines()) == len(EVENTS)


class _Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_reader_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", _Gone())
    with Showing(json=True) as listener:
        for event in EVENTS:
            listener(event)


def test_an_error_passes_through_and_what_was_told_before_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(listener: Any) -> None:
        listener(EVENTS[0])
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"), Showing(json=False) as listener:
        fail(listener)
    assert capsys.readouterr().err == "copying\n"
