"""Writes what benchmarks found into docs/BENCHMARKS.md.

``python -m bench.page [RESULTS.json ...]``: what each subject found, in the section of its command.
Of several runs of one subject, as of 100,000 rows and of 1,000,000, each gets its own part, in this
order. Without files it takes all that lie in bench/results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .measure import RESULTS, number

PAGE = Path(__file__).parents[1] / "docs" / "BENCHMARKS.md"

Run = Sequence[Mapping[str, Any]]


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]] or sorted(RESULTS.glob("*.json"))
    page = PAGE.read_text(encoding="utf-8")
    subjects: dict[str, list[Run]] = {}
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
        for subject, run in by_subject(results).items():
            subjects.setdefault(subject, []).append(run)
    for subject, runs in subjects.items():
        page = replaced(page, subject, section(subject, runs))
    PAGE.write_text(page, encoding="utf-8")


def by_subject(results: Run) -> dict[str, Run]:
    """A file may hold several: the name of each ends at the first comma."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        found.setdefault(result["subject"].partition(",")[0], []).append(result)
    return dict(found)


def heading(subject: str) -> str:
    return f"### `python -m bench {subject}`"


def section(subject: str, runs: Sequence[Run]) -> str:
    """The section of the page, with its heading."""
    parts = [heading(subject)]
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


def replaced(page: str, subject: str, section: str) -> str:
    """The page with the section in its place; at the end where there was none."""
    pattern = rf"^{re.escape(heading(subject))}\n.*?(?=^##|\Z)"
    found = re.search(pattern, page, re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{page.rstrip()}\n\n{section}"
    rest = page[found.end() :]
    return page[: found.start()] + section + ("\n" + rest if rest else "")


if __name__ == "__main__":
    main()
