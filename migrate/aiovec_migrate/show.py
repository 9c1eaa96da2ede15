"""Progress and results of the commands: a bar on a terminal, lines in a pipe, or JSON.

All of it is written by a thread of its own. A terminal that is stopped, or a pipe that nobody
empties, must never hold up a migration, least of all while writers wait for the cut-over.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from aiovec._cli.output import err, one_line, out, print_rows
from aiovec.errors import AiovecError

from .planning.report import duration
from .state import Event, Options, Phase, RunState, TableState

if TYPE_CHECKING:
    from .migration import Outcome
    from .verifying.compare import Difference
    from .verifying.report import VerifyReport


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
        """True if any event came: a run that was over before sends none."""
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


def state_dict(state: RunState) -> dict[str, Any]:
    """A run for JSON, without what is only the journal's own."""
    found: dict[str, Any] = json.loads(state.to_json())
    found.pop("format", None)
    found["tables"] = {}
    for name, table in state.tables.items():
        known = json.loads(table.to_json())
        known.pop("cursor", None)
        known["schema"] = json.loads(table.schema) if table.schema else None
        found["tables"][name] = known
    found["over"] = state.phase.over
    return found


def counts(difference: Difference) -> dict[str, int]:
    return {
        "source_rows": difference.source_rows,
        "copied": difference.copied,
        "deleted": difference.deleted,
    }


@dataclass(frozen=True, slots=True)
class RunReport:
    """The report of a run that verified every row itself, while writes went on."""

    state: RunState

    @property
    def equal(self) -> bool:
        """A run with verification ends well only where every row is the same."""
        return self.state.options.verify and self.state.phase is Phase.DONE

    def to_dict(self) -> dict[str, Any]:
        return {"equal": self.equal, "run": state_dict(self.state)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def to_text(self) -> str:
        state = self.state
        lines = [
            f"run       {state.run}",
            f"source    {state.source}",
            f"target    {state.target}",
            f"started   {state.started}",
            f"ended     {state.changed}",
            *(f"table     {table.name}: {table.rows:,} rows" for table in state.tables.values()),
            "verdict   " + ("every row is equal" if self.equal else "NOT VERIFIED"),
        ]
        return "\n".join(lines)


def report_of(outcome: Outcome) -> RunReport | VerifyReport:
    """The report of a run."""
    return RunReport(outcome.state) if outcome.report is None else outcome.report


def keep(file: Path | None, report: RunReport | VerifyReport) -> None:
    """Write the report to a file, where one is named."""
    if file is None:
        return
    text = report.to_json() if file.suffix.lower() == ".json" else report.to_text()
    try:
        file.write_text(text.rstrip("\n") + "\n", "utf-8")
    except OSError as exc:
        raise AiovecError(f"the report cannot be written to {file}: {exc.strerror}") from exc


def summary(
    state: RunState, report: RunReport | VerifyReport, *, begun: bool, options: str
) -> list[str]:
    """The last lines of a run; ``options`` are those that name it in further commands.

    Without ``begun`` the run was over before the command.
    """
    rows = sum(table.rows for table in state.tables.values())
    tables = len(state.tables)
    lines, back = [], ""
    verdict = "every row is equal" if report.equal else "not verified"
    if state.options.verify and not report.equal:
        verdict = "NOT EQUAL"
        lines += report.to_text().rstrip("\n").split("\n")
    if not begun:
        lines.append(
            "this run had already ended, so nothing was done; a new one can start after finish"
        )
    lines.append(
        f"migrate: {state.phase.value}: {tables} {'table' if tables == 1 else 'tables'}, "
        f"{rows:,} rows copied from {state.source} to {state.target}; {verdict}"
    )
    if state.switched and state.phase is Phase.DONE:
        pause = f"; writers waited {state.longest_pause:.2f} s" if state.longest_pause else ""
        lines.append(f"switched: {state.config} names the new backend{pause}")
        if not state.options.has_no_way_back:
            back = f", aiovec migrate rollback{options} to go back"
    if state.phase is Phase.DONE:
        lines.append(f"next: aiovec migrate finish{options} when everything works{back}")
    return lines


def options_that_name(config: str | None, journal: str | None) -> str:
    """The options by which another command finds the same run, as a shell takes them."""
    given = [("--config", config), ("--journal", journal)]
    return _as_typed([word for name, value in given if value is not None for word in (name, value)])


def _as_typed(words: list[str]) -> str:
    joined = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return f" {joined}" if joined else ""


def _own_options(options: Options) -> str:
    """The options with which `aiovec migrate run` goes on as it began; it takes what it is given.

    How many rows it reads at once, and how long writers may wait, changes no result.
    """
    words = [word for table in options.tables or () for word in ("--table", table)]
    for name, given in (
        ("--switch", options.switch),
        ("--one-way", options.one_way),
        ("--no-verify", not options.verify),
        ("--no-index", not options.index),
    ):
        if given:
            words.append(name)
    return _as_typed(words)


def show_status(state: RunState, *, options: str = "") -> None:
    from .planning.report import duration

    console = out()
    facts = [f"migrate: {state.phase.value.replace('-', ' ')}"]
    done, total = _progress(state)
    facts.append(f"{done:,} of {total:,} rows")
    if state.rate is not None:
        facts.append(f"{state.rate:,.0f} rows/s")
    if state.left is not None and not state.phase.over:
        facts.append(f"{duration(state.left)} left")
    if state.lag is not None:
        facts.append(f"{state.lag:,} changes behind")
    console.file.write(", ".join(facts) + "\n")
    console.file.write(f"run      {state.run}, started {state.started}\n")
    console.file.write(f"from     {state.source}\nto       {state.target}\n")
    console.file.write(f"changed  {state.changed}\n")
    console.file.write(f"next     {_next(state, options)}\n")
    print_rows(
        ["table", "rows", "of", "state"],
        [
            [table.name, f"{table.rows:,}", f"{table.total:,}", _state_of(table)]
            for table in state.tables.values()
        ],
        right=["rows", "of"],
    )


def _next(state: RunState, options: str) -> str:
    """Return the commands that end the run, or continue it if it was killed."""
    command = f"aiovec migrate {state.next_command}{options}"
    if state.phase is Phase.DONE and state.switched and not state.options.has_no_way_back:
        return f"{command}, or aiovec migrate rollback{options} to go back"
    if state.phase is Phase.ROLLING_BACK:
        return f"{command}; aiovec migrate abort{options} cancels it"
    if state.next_command != "run":
        return command
    command = f"aiovec migrate run{_own_options(state.options)}{options}"
    if state.options.reembed:
        command += f", with the --reembed options that name {state.options.reembed!r}"
    if state.phase is Phase.MOVED:
        return f"{command}, if it is not running"
    return f"{command}, if it is not running; aiovec migrate abort{options} ends it"


def _progress(state: RunState) -> tuple[int, int]:
    tables = state.tables.values()
    return sum(table.rows for table in tables), sum(max(t.total, t.rows) for t in tables)


def _state_of(table: TableState) -> str:
    for name in ("verified", "indexed", "copied"):
        if getattr(table, name):
            return name
    return "being copied" if table.made else "waits"
