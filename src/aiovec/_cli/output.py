"""Output of the commands: facts for people or as JSON, progress, and one line for an error."""

from __future__ import annotations

import json as jsonlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from .._tools.messages import shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

# C0 without tab and newline, DEL, C1: stored text must not control the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def settle_streams() -> None:
    """Make the standard streams write a question mark for each character they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def out(*, stderr: bool = False) -> Console:
    """Return a new console on standard output or standard error, which may have been redirected."""
    from rich.console import Console  # importing it takes longer than printing the help

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(message: str | Text, *, stderr: bool = False) -> None:
    """Print a message without control characters; a string is printed as one line."""
    if isinstance(message, str):
        print(one_line(message), file=sys.stderr if stderr else sys.stdout, flush=True)
        return
    # A Text may have several lines. Its length must not change: styles refer to positions.
    message = message.copy()
    message.plain = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", message.plain)
    out(stderr=stderr).print(message)


def one_line(value: object) -> str:
    """Return a value as one line of text without control characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(str(value).split()))


def counted(number: int, thing: str = "row") -> str:
    """Return a number with its noun, such as "1 row" or "2 rows"."""
    return f"1 {thing}" if number == 1 else f"{number:,} {thing}s"


def cell(value: object) -> str:
    """Return a value as text: "" for null, JSON for lists, objects and booleans."""
    if value is None:
        return ""
    if isinstance(value, (list, dict, bool)):
        return jsonlib.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def say_error(message: object) -> None:
    """Print one red line to standard error."""
    from rich.text import Text

    say(Text.assemble(("error: ", "bold red"), (one_line(message), "red")), stderr=True)


@dataclass(frozen=True, slots=True)
class Listing:
    """A table to print; the columns named in ``right`` are aligned right."""

    columns: Sequence[str]
    rows: Iterable[Sequence[object]]
    right: Sequence[str] = ()


if TYPE_CHECKING:
    Line = str | Text | Mapping[str, object] | Listing
    """A part that ``emit`` prints: a line, a block of names and values, or a table."""


def emit(facts: Any, shown: Iterable[Line], json: bool, *, stderr: bool = False) -> None:
    """Print the result of a command: ``facts`` as JSON, or ``shown`` for people."""
    if json:
        _print_json(facts, stderr=stderr)
        return
    for part in shown:
        if isinstance(part, Listing):
            _print_rows(part)
        elif isinstance(part, Mapping):
            from rich.text import Text

            width = max(map(len, part), default=0)
            for name, value in part.items():
                line = Text.assemble((f"{name:<{width}}  ", "bold"), one_line(value))
                say(line, stderr=stderr)
        else:
            say(part, stderr=stderr)


def _print_json(value: Any, *, stderr: bool = False) -> None:
    """Print a value as indented JSON."""
    stream = sys.stderr if stderr else sys.stdout
    unicode_out = (stream.encoding or "").lower().replace("-", "").startswith("utf")
    text = jsonlib.dumps(value, ensure_ascii=not unicode_out, indent=2, default=_as_json)
    # JSON escapes C0. DEL and C1 control a terminal too, and only strings can hold them.
    stream.write(_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
    stream.flush()


def _print_rows(listing: Listing) -> None:
    """Print a table: fitted to the width of a terminal, or as tab-separated lines in a pipe."""
    console = out()
    if not console.is_terminal:
        for row in (listing.columns, *listing.rows):
            # Not through the console, which would turn tabs into spaces.
            console.file.write("\t".join(one_line(value) for value in row) + "\n")
        return
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in listing.columns:
        grid.add_column(
            Text(one_line(column)), justify="right" if column in listing.right else "left"
        )
    for row in listing.rows:  # in a pipe, nothing is cut off
        grid.add_row(*(Text(shortened(one_line(value), 200)) for value in row))
    console.print(grid, soft_wrap=False)


def progress(unit: str) -> AbstractContextManager[Progress]:
    """Show a progress bar on standard error, and remove it at the end.

    If standard error is not a terminal, print a line every few seconds instead.
    """
    from rich import progress as bars

    left = bars.TimeRemainingColumn(compact=True)
    return _progress(bars.BarColumn(), bars.MofNCompleteColumn(), bars.TextColumn(unit), left)


@contextmanager
def working(on: str) -> Iterator[None]:
    """Show that work of unknown length is in progress, and how long it has taken."""
    from rich.progress import TimeElapsedColumn

    with _progress(TimeElapsedColumn()) as bar:
        bar.add_task(on, total=None)
        yield


@contextmanager
def _progress(*columns: Any) -> Iterator[Progress]:
    from rich.progress import Progress, SpinnerColumn, TextColumn

    console = out(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    ended = Event()
    if bar.disable:
        Thread(target=_print_each, args=(bar, ended), daemon=True).start()
    try:
        with bar:
            yield bar
    finally:
        ended.set()


def _print_each(bar: Progress, ended: Event) -> None:
    """Print the progress of each task as a line, every few seconds."""
    while not ended.wait(5.0):
        for task in bar.tasks:
            done = "" if task.total is None else f" of {task.total:,.0f}"
            count = f": {task.completed:,.0f}{done}" if task.completed else ""
            if not task.finished or task.total is None:
                say(f"{task.description}{count}, {task.elapsed:.0f} s", stderr=True)


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
