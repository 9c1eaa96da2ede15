"""Recall against latency, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..pictures import SIZE, find_pyplot
from .searching import Point

NAME = "lancedb-recall.svg"


def draw(points: Sequence[Point], title: str, folder: Path) -> str:
    """A line that says where the picture lies, or why there is none."""
    pyplot = find_pyplot()
    if pyplot is None:
        return "skipped: picture: matplotlib is not installed"
    figure, axes = pyplot.subplots(figsize=SIZE)
    ordered = sorted(points, key=lambda point: point.ms)
    axes.plot([point.ms for point in ordered], [point.recall for point in ordered], marker="o")
    for point in ordered:
        axes.annotate(
            point.label, (point.ms, point.recall), textcoords="offset points", xytext=(6, -10),
            fontsize=8,
        )  # fmt: skip
    axes.set(
        xscale="log", xlabel="ms, median of one client", ylabel="recall@10 on new queries",
        title=f"LanceDB, {title}",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / NAME, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return f"picture: {folder / NAME}"
