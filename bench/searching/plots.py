"""Pictures of a run for the docs, where matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measure import RESULTS, Result
from ..pictures import SIZE, find_pyplot
from .crowd import CLIENTS, FEWER
from .filtered import NO_FILTER, SHARES, shown
from .million import SUBJECT as MILLION

_DIM = 384
_ROW_TICKS = (1_000, 10_000, 100_000, 1_000_000)

Series = Mapping[str, Sequence[tuple[float, float]]]


def draw(results: Sequence[Result], folder: Path) -> str:
    """Three pictures; a line that says where they lie, or why there are none."""
    pyplot = find_pyplot()
    if pyplot is None:
        return "skipped: pictures: matplotlib is not installed"
    by_subject = {result.subject: result.measured for result in results}
    folder.mkdir(parents=True, exist_ok=True)

    figure, axes = pyplot.subplots(figsize=SIZE)
    _lines(axes, _by_rows(by_subject), "rows", "ms, median of one client")
    axes.set(xscale="log", yscale="log", title=f"A search by rows, {_DIM} dims", xticks=_ROW_TICKS)
    _save(pyplot, figure, folder / "search-rows.svg")

    figure, axes = pyplot.subplots(figsize=SIZE)
    _lines(axes, _by_clients(by_subject["search, by clients"]), "clients at once", "searches/s")
    axes.set_xscale("log", base=2)
    axes.set(title="Searches a second by clients", ylim=(0, None))
    axes.set_xticks([*FEWER, CLIENTS], [str(n) for n in (*FEWER, CLIENTS)])
    _save(pyplot, figure, folder / "search-clients.svg")

    measured = by_subject["search, filters"]
    figure, axes = pyplot.subplots(figsize=SIZE)
    points = [(share, measured[shown(share)]) for share in SHARES]
    _lines(axes, {"aiovec, filtered": points}, "% of the rows selected", "ms, median of one client")
    axes.axhline(measured[NO_FILTER], linestyle="--", color="gray", label=NO_FILTER)
    axes.set(xscale="log", title="A filtered search by what the filter selects", ylim=(0, None))
    axes.set_xticks(SHARES, [f"{share:g}" for share in SHARES])
    axes.legend(fontsize="small")
    _save(pyplot, figure, folder / "search-filters.svg")
    return f"pictures: search-rows.svg, search-clients.svg, search-filters.svg in {folder.name}/"


def _by_rows(by_subject: Mapping[str, Mapping[str, float]]) -> Series:
    found: dict[str, list[tuple[float, float]]] = {}

    def add(way: str, shape: str, value: float) -> None:
        rows, dim = shape.replace(",", "").split(" x ")
        if int(dim) == _DIM:
            found.setdefault(way, []).append((int(rows), value))

    for shape, value in by_subject["search, cost: time"].items():
        add("aiovec", shape, value)
    for name, value in by_subject["search, cost: others"].items():
        way, shape = name.rsplit(": ", 1)
        add(way.partition(",")[0], shape, value)
    for way, value in _of_a_million().items():
        found.setdefault(way.partition(",")[0], []).append((1_000_000, value))
    return found


def _of_a_million() -> dict[str, float]:
    """What ``python -m bench search-million`` found when it last ran here."""
    path = RESULTS / f"{MILLION}.json"
    if not path.exists():
        return {}
    result = json.loads(path.read_text(encoding="utf-8"))["results"][0]
    measured: dict[str, float] = result["measured"] if "1,000,000" in result["compared"] else {}
    return measured


def _by_clients(measured: Mapping[str, float]) -> Series:
    found: dict[str, list[tuple[float, float]]] = {}
    for name, value in measured.items():
        way, clients = name.removesuffix(" clients").rsplit(", ", 1)
        found.setdefault(way, []).append((int(clients), value))
    return found


def _lines(axes: Any, series: Series, across: str, up: str) -> None:
    for name, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, label=name)
    axes.set(xlabel=across, ylabel=up)
    axes.grid(True, which="major", alpha=0.3)
    if len(series) > 1:
        axes.legend(fontsize="small")


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
