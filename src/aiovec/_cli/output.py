"""Output of the commands: JSON, tables, plain lines, progress, and one line for an error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table as Grid
from rich.text import Text

from ..errors import ConfigError

# C0 without tab and newline, DEL, C1: stored text must not drive the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# A cell of a table on a terminal. In a pipe nothing is cut.
_WIDEST_CELL = 200


def settle_streams() -> None:
    """Let a stream that cannot write a character write a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def number_of(stream: TextIO | None, name: str) -> int:
    """The descriptor of a standard stream that a command was told to use."""
    if stream is None:
        raise ConfigError(f"{name} is closed")
    return stream.fileno()


class _Console(Console):
    """A console that prints each string as one line, and nothing that drives the terminal."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(_harmless, objects), **options)


def out() -> Console:
    """Standard output. Made when it is needed, so that a redirected stream counts."""
    return _Console()


def err() -> Console:
    """Standard error."""
    return _Console(stderr=True)


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Text):
        # A styled text may have several lines. As many characters as before keep its styles.
        value = value.copy()
        value.plain = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value.plain)
    return value


def one_line(value: object) -> str:
    """A value as text in one line that does nothing to a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(str(value).split()))


def counted(rows: int) -> str:
    """Return a number of rows in words."""
    return "1 row" if rows == 1 else f"{rows:,} rows"


def say_error(message: object) -> None:
    """One red line on standard error."""
    err().print(Text.assemble(("error: ", "bold red"), (one_line(message), "red")))


def print_json(value: Any, *, stderr: bool = False) -> None:
    """A value as JSON, each item of its outermost levels on a line of its own."""
    stream = sys.stderr if stderr else sys.stdout
    unicode_out = (stream.encoding or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode_out, indent=2, default=_as_json)
    # JSON escapes C0 by itself. DEL and C1 drive a terminal too, and only strings can hold them.
    stream.write(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def print_rows(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
) -> None:
    """A table: on a terminal laid out to its width, in a pipe as lines with tabs."""
    console = out()
    aligned_right = frozenset(right)
    if not console.is_terminal:
        for row in (columns, *rows):
            # Not through the console, which would turn tabs into spaces.
            console.file.write("\t".join(one_line(cell) for cell in row) + "\n")
        return
    grid = Grid(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(
            Text(one_line(column)), justify="right" if column in aligned_right else "left"
        )
    for row in rows:
        grid.add_row(*(Text(_shortened(one_line(cell))) for cell in row))
    console.print(grid, soft_wrap=False)


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    console = out()
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        console.print(Text.assemble((f"{name:<{width}}  ", "bold"), one_line(value)))


def progress(unit: str) -> Progress:
    """A bar on standard error that goes away when it is done; nothing in a pipe."""
    console = err()
    console.quiet = not console.is_terminal
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        console=console,
        transient=True,
        disable=console.quiet,
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDEST_CELL else text[: _WIDEST_CELL - 1] + "…"


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
