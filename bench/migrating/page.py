"""Writes what ``python -m bench migrate`` found into docs/BENCHMARKS.md.

``python -m bench.migrating.page [RESULTS.json ...]``: of several runs, as of 100,000 rows and of
1,000,000, each gets its own part, in this order.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measure import RESULTS, number

HEADING = "### `python -m bench migrate`"
PAGE = Path(__file__).parents[2] / "docs" / "BENCHMARKS.md"

Run = Sequence[Mapping[str, Any]]


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]] or [RESULTS / "migrate.json"]
    runs = [json.loads(file.read_text(encoding="utf-8"))["results"] for file in files]
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), section(runs)), encoding="utf-8")


def section(runs: Sequence[Run]) -> str:
    """The section of the page, with its heading."""
    parts = [HEADING]
    for run in runs:
        parts += [_part(result) for result in run]
    return "\n\n".join(parts) + "\n"


def _part(result: Mapping[str, Any]) -> str:
    what = result["subject"].partition(", ")[2] or result["subject"]
    text = f"{what[0].upper()}{what[1:]}: {result['compared']}.\n\n"
    unit = result["unit"]
    text += f"| | {unit} |\n| --- | --- |\n"
    text += "".join(f"| {name} | {number(value)} |\n" for name, value in result["measured"].items())
    lines = [f"- {_check(check)}" for check in result["checks"]]
    lines += [f"- {note}" for note in result["notes"]]
    return text + ("\n" + "\n".join(lines) if lines else "").rstrip()


def _check(check: Mapping[str, Any]) -> str:
    word = "most" if check["at_most"] else "least"
    found = f"{number(check['value'])}{check['unit']}"
    end = "holds" if check["holds"] else "**missed**"
    return f"{check['what']}: {found}, target at {word} {check['target']:,g}{check['unit']}: {end}"


def replaced(page: str, section: str) -> str:
    """The page with the section in its place; at the end where there was none."""
    found = re.search(rf"^{re.escape(HEADING)}\n.*?(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{page.rstrip()}\n\n{section}"
    rest = page[found.end() :]
    return page[: found.start()] + section + ("\n" + rest if rest else "")


if __name__ == "__main__":
    main()
