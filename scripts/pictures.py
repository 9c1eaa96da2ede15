"""Draw the pictures of the front page and other pages from the tables of the two benchmark pages.

``python scripts/pictures.py``, run in the repository, writes them to ``docs/assets``; a test
compares them with this script's output. The line below the bars names the command, the date and
the machine, as the section of the page does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

# Pixels. A letter of a wide font, such as DejaVu Sans, takes 8.5 on average, or 7.3 in a footnote.
_WIDTH, _PAD, _LETTER = 580, 12, 8.5
_TOP, _LINE, _NOTED, _BAR = 52, 28, 46, 18

# The pictures have a background: the page may have another colour scheme than the reader's system.
_STYLE = """\
text {font: 14px sans-serif; fill: #24292f} .title {font-weight: bold}
.foot {font-size: 12px; fill: #57606a}
rect {fill: #9a7b45} .ours {fill: #1a7f5a} .ground {fill: #ffffff}
@media (prefers-color-scheme: dark) {text {fill: #e6edf3} .foot {fill: #b1bac4}
rect {fill: #b8975a} .ours {fill: #3fb68b} .ground {fill: #161b22}}"""

Row = dict[str, str]


@dataclass(frozen=True)
class Picture:
    """A bar for each row of a section's table."""

    name: str
    title: str
    section: str
    """The beginning of the section's heading."""
    length: str
    """The name of the column whose number is the length of a bar."""
    label: Callable[[Row], str]
    note: Callable[[Row], str] | None = None
    """The text of a second line, below the name."""


PICTURES = (
    Picture(
        "many",
        "Two processes write 400 rows: what a third, open one finds",
        "Several processes",
        "the open reader finds",
        lambda row: "refused" if row["written, of 400"] == "0" else row["the open reader finds"],
    ),
    Picture(
        "stalls",
        "Longest stall of the event loop while 20 tasks search",
        "Eight other stores",
        "longest stall, ms",
        lambda row: f"{row['longest stall, ms']} ms",
    ),
    Picture(
        "million",
        "One search of 1,000,000 vectors",
        "A million rows",
        "one search, ms",
        lambda row: f"{row['one search, ms']} ms",
        lambda row: f"recall {row['recall']}{_built(row)}",
    ),
    Picture(
        "migration",
        "A move between SQLite and LanceDB, rows a second",
        "`python -m bench migrate",
        "rows/s",
        lambda row: row["rows/s"],
    ),
)


def files(root: Path) -> dict[Path, str]:
    """Return the text of each picture, by its path below ``root``."""
    pages = ("docs/internals/benchmarks.md", "docs/explanation/benchmarks.md")
    page = "\n".join((root / path).read_text(encoding="utf-8") for path in pages)
    return {root / f"docs/assets/{picture.name}.svg": _drawn(picture, page) for picture in PICTURES}


def _drawn(picture: Picture, page: str) -> str:
    section = re.split(rf"^##+ {re.escape(picture.section)}", page, flags=re.MULTILINE)[1]
    section = re.split(r"\n##+ ", section)[0]
    (about,) = re.findall(r"\(([^()]* 20\d\d,[^()]*)\)", section)
    rows = _table(section)
    most = max(_number(row[picture.length]) for row in rows)
    names = [re.sub("[`*]", "", row[""]) for row in rows]
    labels = [picture.label(row) for row in rows]
    left = round(_PAD + _LETTER * max(map(len, names)) + 8)
    room = _WIDTH - _PAD - left - _LETTER * max(map(len, labels)) - 8
    line = _NOTED if picture.note else _LINE
    height = _TOP + line * len(rows) + 36
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(picture.title)}</title>\n<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="8"/>',
        f'<text class="title" x="{_PAD}" y="30">{escape(picture.title)}</text>',
    ]
    for number, (row, name, label) in enumerate(zip(rows, names, labels, strict=True)):
        top = _TOP + line * number
        wide = max(2, round(room * _number(row[picture.length]) / most))
        default = "aiovec" in name and "on LanceDB" not in name
        mark = ' class="ours"' if default else ""
        drawn += [
            f'<text x="{_PAD}" y="{top + 14}">{escape(name)}</text>',
            f'<rect{mark} x="{left}" y="{top}" width="{wide}" height="{_BAR}"/>',
            f'<text x="{left + wide + 8}" y="{top + 14}">{escape(label)}</text>',
        ]
        if picture.note:
            note = escape(picture.note(row))
            drawn.append(f'<text class="foot" x="{_PAD}" y="{top + 31}">{note}</text>')
    about = re.sub(r"\s+", " ", about).replace("`", "")
    drawn.append(f'<text class="foot" x="{_PAD}" y="{height - 14}">{escape(about)}</text>')
    return "\n".join([*drawn, "</svg>", ""])


def _table(section: str) -> list[Row]:
    """Return the rows of a section's table; the first column has the key ``""``."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip(" *") for cell in line[1:-1].split("|")] for line in lines]
    return [dict(zip(["", *head[1:]], row, strict=True)) for row in rows]


def _number(cell: str) -> float:
    """Return a figure of a table, or the middle of a range such as "5.5 to 7.0"."""
    figures = [float(part.replace(",", "")) for part in cell.split(" to ")]
    return sum(figures) / len(figures)


def _built(row: Row) -> str:
    built = row["index built in, s"]
    return "" if not built else ", no index" if built == "none" else f", built in {built} s"


if __name__ == "__main__":
    for path, text in files(Path()).items():
        path.write_text(text, encoding="utf-8")
