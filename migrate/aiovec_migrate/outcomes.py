"""What came of a command, in words and as JSON."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiovec._cli.output import out, print_rows
from aiovec.errors import AiovecError

from .model import Phase, RunState, TableState

if TYPE_CHECKING:
    from .comparing import Difference
    from .runner import Outcome
    from .verifying import VerifyReport


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
    """What a run itself has verified: every row, while writes went on. Nothing is equal in part."""

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
    lines = []
    verdict = "every row is equal" if report.equal else "not verified"
    if state.options.verify and not report.equal:
        verdict = "NOT EQUAL"
        lines += report.to_text().rstrip("\n").split("\n")
    if not begun:
        lines.append("this run was over already, so nothing was done; the next begins after finish")
    lines.append(
        f"migrate: {state.phase.value}: {tables} {'table' if tables == 1 else 'tables'}, "
        f"{rows:,} rows copied from {state.source} to {state.target}; {verdict}"
    )
    if state.switched and state.phase is Phase.DONE:
        pause = f"; writers waited {state.longest_pause:.2f} s" if state.longest_pause else ""
        lines.append(f"switched: {state.config} names the new backend{pause}")
        back = f", aiovec migrate rollback{options} to go back"
    else:
        back = ""
    if state.phase is Phase.DONE:
        lines.append(f"next: aiovec migrate finish{options} when you are content{back}")
    return lines


def options_that_name(config: str | None, journal: str | None) -> str:
    """The options by which another command finds the same run, as a shell takes them."""
    given = [("--config", config), ("--journal", journal)]
    words = [word for name, value in given if value is not None for word in (name, value)]
    joined = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return f" {joined}" if joined else ""


def show_status(state: RunState, *, options: str = "") -> None:
    from .plans import duration

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
    """What ends the run, or goes on with it where it was killed."""
    command = f"aiovec migrate {state.next_command}{options}"
    if state.phase is Phase.DONE and state.switched and not state.options.has_no_way_back:
        return f"{command}, or aiovec migrate rollback{options} to go back"
    if state.phase is Phase.ROLLING_BACK:
        return f"{command}; aiovec migrate abort{options} calls it off"
    if state.next_command != "run":
        return command
    if state.phase is Phase.MOVED:
        return f"{command}, where it is not at work"
    return f"{command}, where it is not at work; aiovec migrate abort{options} ends it"


def _progress(state: RunState) -> tuple[int, int]:
    tables = state.tables.values()
    return sum(table.rows for table in tables), sum(max(t.total, t.rows) for t in tables)


def _state_of(table: TableState) -> str:
    for name in ("verified", "indexed", "copied"):
        if getattr(table, name):
            return name
    return "being copied" if table.made else "waits"
