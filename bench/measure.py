"""Timing ways of doing the same side by side, and telling what came out."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


async def interleaved(
    ways: Mapping[str, Callable[[], Awaitable[float]]], rounds: int
) -> dict[str, list[float]]:
    """Return each way's results, in rounds of all of them, so that a busy moment hits all alike.

    Every second round goes backwards, so that none always comes after the same other one.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(ways):
            found[name].append(await ways[name]())
    return found


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}


@dataclass(frozen=True)
class Check:
    """One number that has a target."""

    what: str
    value: float
    target: float
    at_most: bool = False
    unit: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        found, target = f"{number(self.value)}{self.unit}", f"{self.target:,g}{self.unit}"
        end = "holds" if self.holds else "MISSED"
        return f"{self.what}: {found}, target {sign} {target}: {end}"


@dataclass(frozen=True)
class Result:
    """One benchmark's outcome: the ways that were compared, and what had to hold."""

    subject: str
    compared: str
    unit: str
    measured: Mapping[str, float]
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> str:
        width = max(map(len, self.measured))
        lines = [f"{self.subject}: {self.compared}"]
        lines += [
            f"  {name:<{width}}  {number(value):>10} {self.unit}"
            for name, value in self.measured.items()
        ]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  {check}" for check in self.checks]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"checks": [{**asdict(c), "holds": c.holds} for c in self.checks]}


def number(value: float) -> str:
    """With as many digits as a measurement deserves."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def machine() -> dict[str, str]:
    """On what the numbers came about."""
    from aiovec_sqlite.driver import load_driver

    facts = {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": load_driver().sqlite_version,
    }
    for package in ("aiovec", "aiosqlite", "sqlite-vec", "numpy", "pyarrow", "lancedb"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown CPU"


def write(results: list[Result], name: str, folder: Path = RESULTS) -> Path:
    """The results as JSON; where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    report = {"machine": machine(), "results": [result.to_dict() for result in results]}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path
