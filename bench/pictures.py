"""The pictures of docs/, drawn from the figures in docs/BENCHMARKS.md.

``python -m bench.pictures``, behind ``python -m bench.page``: so a picture and the tables below it
never differ. It needs matplotlib, which comes with the extra ``bench``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .page import PAGE

Figures = Mapping[str, float]
Points = Sequence[tuple[float, float]]

SIZE = (7.0, 4.2)  # inches
BELOW = 0.24  # of the height, for the axis' name and the caption
RIGHT = 0.80  # of the width; behind it stand the names of the lines
LINE = 12  # points that a line of a name takes
DIM = 384
# Recalls that differ by less are one effort under several names.
SAME_RECALL = 0.001


def main() -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "aiovec"  # the same picture is the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: a third of the size
    page = PAGE.read_text(encoding="utf-8")
    for name, (draw, caption) in PICTURES.items():
        machine = machine_of(page, name.partition("-")[0])
        figure = new_figure()
        draw(figure.axes[0], page)
        figure.text(0.02, 0.02, f"{caption}\n{machine}", fontsize=7.5, color="dimgray", va="bottom")
        figure.savefig(PAGE.parent / name, metadata={"Date": None})
        print(f"drew {PAGE.parent / name}")


def new_figure() -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.12, right=RIGHT, bottom=BELOW, top=0.9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure


def machine_of(page: str, subject: str) -> str:
    """The processor and the day of the run, as the page says them above its tables.

    A subject that was measured again has a line of its own, which names it.
    """
    own = re.search(rf"^`{subject}`.*: measured on (.+?), on (.+?): (.+?);", page, re.MULTILINE)
    found = own or re.search(r"^Measured on (.+?), on (.+?): (.+?);", page, re.MULTILINE)
    if found is None:
        raise ValueError(f"{PAGE} does not say on which machine and day it was measured")
    day, _, processor = found.groups()
    return f"{processor}; {day}"


def figures(page: str, subject: str, part: str) -> dict[str, float]:
    """The first table of a part of a subject's section: what was measured, by its name."""
    section = re.search(rf"^### `python -m bench {subject}`\n(.*?)(?=^### |\Z)", page, re.M | re.S)
    table = section and re.search(rf"^{part}: .*?\n\n((?:\|.*\n)+)", section[1], re.M)
    if not table:
        raise ValueError(f"{PAGE} has no table {part!r} of {subject}")
    rows = [line.strip("| \n").rsplit(" | ", 1) for line in table[1].splitlines()[2:]]
    return {name: float(value.replace(",", "")) for name, value in rows}


def by_rows(axes: Any, page: str) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    for name, value in figures(page, "search", "Cost: time").items():
        _add(found, "aiovec", name, value)
    for name, value in figures(page, "search", "Cost: others").items():
        way, shape = name.rsplit(": ", 1)
        _add(found, way.partition(",")[0], shape, value)
    million = figures(page, "search-million", "Search-million")
    for way, value in million.items():
        found[way.partition(",")[0]].append((1_000_000, value))
    ours, theirs = (found[way][-1][1] for way in ("aiovec", "sqlite-vec"))
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="ms, median of one client")
    plain_ticks(axes.xaxis, (1_000, 10_000, 100_000, 1_000_000))
    plain_ticks(axes.yaxis, (0.01, 0.1, 1, 10, 100, 1_000))
    lines(axes, found, **{"faiss flat": 8})
    axes.set_title(
        f"A search of a million rows takes {ours:.3g} ms, {theirs / ours:.0f} times less than "
        "sqlite-vec alone",
        fontsize=10, loc="left",
    )  # fmt: skip


def _add(found: dict[str, list[tuple[float, float]]], way: str, shape: str, ms: float) -> None:
    rows, dim = shape.replace(",", "").split(" x ")
    if int(dim) == DIM:
        found.setdefault(way, []).append((int(rows), ms))


def by_clients(axes: Any, page: str) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    for name, value in figures(page, "search", "By clients").items():
        way, clients = name.removesuffix(" clients").rsplit(", ", 1)
        way = f"{way} (exact)" if way == "aiovec" else way.replace(", ", "\n")
        found.setdefault(way, []).append((int(clients), value))
    (first, one), *_, (most, many) = found["aiovec (exact)"]
    axes.set_xscale("log", base=2)
    highest = 1_000 * math.ceil(max(rate for way in found.values() for _, rate in way) / 1_000)
    axes.set(xlabel="clients at once", ylabel="searches per second", ylim=(0, highest))
    plain_ticks(axes.xaxis, [clients for clients, _ in found["aiovec (exact)"]])
    plain_ticks(axes.yaxis, range(0, highest + 1, 1_000))
    lines(axes, found)
    axes.set_title(
        f"From {first} client to {most}, exact searches per second rise from {one:,.0f} to "
        f"{many:,.0f}",
        fontsize=10, loc="left",
    )  # fmt: skip


def by_filter(axes: Any, page: str) -> None:
    measured = figures(page, "search", "Filters")
    none = measured["no filter"]
    points = [
        (float(name.partition(" %")[0]), value)
        for name, value in measured.items()
        if name.endswith(" % of the rows")
    ]
    axes.axhline(none, linestyle="--", color="gray")
    axes.set(xscale="log", xlabel="rows that the filter selects, in %")
    axes.set(ylabel="ms, median of one client")
    plain_ticks(axes.xaxis, [share for share, _ in points])
    highest = math.ceil(max(none, *(value for _, value in points)) + 0.3)
    axes.set_ylim(0, highest)
    plain_ticks(axes.yaxis, range(highest + 1))
    lines(axes, {"with a filter": points}, **{"with a filter": 8})
    axes.annotate(
        "no filter", (1, none), xycoords=("axes fraction", "data"), xytext=(8, -12),
        textcoords="offset points", fontsize=9, color="gray", va="center",
    )  # fmt: skip
    worst = max(value for _, value in points) / none
    axes.set_title(
        f"A filter makes no search slower than {worst:.3g} times one without a filter",
        fontsize=10, loc="left",
    )  # fmt: skip


def by_recall(axes: Any, page: str) -> None:
    points = []
    for name, ms in figures(page, "lancedb", "Lancedb").items():
        label, _, recall = name.rpartition(": recall ")
        points.append((label, ms, float(recall)))
    axes.plot([ms for _, ms, _ in points], [recall for *_, recall in points], "o")
    groups: list[list[tuple[str, float, float]]] = []
    for point in sorted(points, key=lambda point: point[2]):
        if point[0] != "exact=True" and groups and point[2] - groups[-1][-1][2] < SAME_RECALL:
            groups[-1].append(point)
        else:
            groups.append([point])
    for group in groups:
        # Points of one effort share one label, behind the last of them.
        last = max(ms for _, ms, _ in group)
        exact = group[0][0] == "exact=True"
        axes.annotate(
            ", ".join(sorted({label for label, *_ in group})), (last, group[0][2]),
            xytext=(0, -14) if exact else (8, 0), textcoords="offset points", fontsize=9,
            ha="center" if exact else "left", va="center",
        )  # fmt: skip
    tuned, exact = (
        next(point for point in points if point[0] == name) for name in ("as tuned", "exact=True")
    )
    axes.set(xscale="log", xlim=(2.3, 55), ylim=(0.87, 1.01))
    axes.set(xlabel="ms, median of one client", ylabel="recall@10 of new queries")
    plain_ticks(axes.xaxis, (2.5, 3, 4, 5, 10, 20, 40))
    plain_ticks(axes.yaxis, (0.88, 0.90, 0.92, 0.94, 0.96, 0.98, 1.0), digits=2)
    axes.set_title(
        f"LanceDB as aiovec tunes it: recall {tuned[2]:.3f} in {tuned[1]:.3g} ms; exact search "
        f"takes {exact[1]:.3g} ms",
        fontsize=10, loc="left",
    )  # fmt: skip


def plain_ticks(axis: Any, values: Sequence[float], digits: int | None = None) -> None:
    """Numbers as one reads them, and none between: a log axis sets its own as 4 x 10^0."""
    axis.set_ticks(
        list(values), [f"{v:,.10g}" if digits is None else f"{v:.{digits}f}" for v in values]
    )
    axis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def lines(axes: Any, series: Mapping[str, Points], **rise: float) -> None:
    """A line for each way, with its name behind its last point, so many points higher."""
    ends = []
    for name, points in series.items():
        ordered = sorted(points)
        (line,) = axes.plot(*zip(*ordered, strict=True), marker="o", markersize=4)
        ends.append((name, ordered[-1], line.get_color()))
    rightmost = max(last[0] for _, last, _ in ends)
    below = -math.inf
    for name, last, color in sorted(ends, key=lambda end: end[1][1]):
        at = axes.transData.transform(last)[1] * 72 / axes.figure.dpi
        middle, half = at + rise.get(name, 0), LINE * (name.count("\n") + 1) / 2
        if last[0] == rightmost:  # names that would touch move apart
            middle = max(middle, below + half)
            below = middle + half
        axes.annotate(
            name, last, xytext=(8, middle - at), textcoords="offset points",
            fontsize=9, color=color, va="center", annotation_clip=False,
        )  # fmt: skip


PICTURES = {
    "search-rows.svg": (
        by_rows,
        f"The 10 nearest of generated rows of {DIM} dimensions; each way exact.",
    ),
    "search-clients.svg": (
        by_clients,
        "The 10 nearest of 117,659 embeddings of 384 dimensions. HNSW indexes are approximate.",
    ),
    "search-filters.svg": (
        by_filter,
        "The 10 nearest matches of a filter on an indexed int field, of 117,659 embeddings.",
    ),
    "lancedb-recall.svg": (
        by_recall,
        "The 10 nearest of 117,659 embeddings of 384 dimensions, whole rows, index ivf_rq.",
    ),
}


if __name__ == "__main__":
    main()
