"""The options of a run of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """``scale`` shrinks the row counts; a small one shows that a benchmark works, no more.

    ``peers`` also measures other stores that happen to be installed, ``slow_peers`` even those
    whose index takes minutes to build. Those indexes are kept in ``cache`` and used from there.
    ``asked_rows`` and ``dim`` are for subjects that generate their rows, in place of those they
    have by default.
    """

    folder: Path
    data: str | None = None
    scale: float = 1.0
    repeat: float = 1.0
    peers: bool = True
    slow_peers: bool = False
    cache: Path | None = None
    asked_rows: int | None = None
    dim: int | None = None

    def rows(self, wanted: int) -> int:
        return self.asked_rows or max(200, int(wanted * self.scale))

    def rounds(self, wanted: int) -> int:
        return max(1, int(wanted * self.repeat))
