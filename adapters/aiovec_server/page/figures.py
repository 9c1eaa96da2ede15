"""Rates and latencies of the last minutes, for the page's charts."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aiovec.backend.threads import in_thread

from ..access import Access, access_of
from ..asgi import path_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STEP = 2
"""Seconds that one point of a chart spans."""
POINTS = 150
"""Points that are kept: five minutes."""
KINDS = ("search", "read", "write")

# Upper bounds of the latencies that are counted together, in seconds: 100 microseconds to two
# minutes, each 15 % above the one before. So a percentile is at most 15 % too high.
BOUNDS = tuple(0.0001 * 1.15**n for n in range(101))


class _Point:
    __slots__ = ("failed", "latencies", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.failed = 0
        self.latencies: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}


class Figures:
    """A ring of points, each with the requests that ended in its seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._ring: list[_Point | None] = [None] * POINTS
        self.running = 0

    def add(self, kind: str, seconds: float, *, failed: bool) -> None:
        """Count a request that ended now."""
        number = self._number()
        point = self._ring[number % POINTS]
        if point is None or point.number != number:
            point = self._ring[number % POINTS] = _Point(number)
        counts = point.latencies[kind]
        place = bisect_left(BOUNDS, seconds)
        counts[place] = counts.get(place, 0) + 1
        point.failed += failed

    def to_dict(self) -> dict[str, object]:
        """Return the points of the last minutes, oldest first, as columns.

        The newest is of the last seconds that are over. Latencies are in seconds, and null where
        no request of the kind ended.
        """
        last = self._number() - 1
        numbers = range(max(0, last - POINTS + 2), last + 1)
        points = [self._at(number) for number in numbers]
        return {
            "step": STEP,
            "points": POINTS - 1,
            "last": last,
            "running": self.running,
            "uptime": round(self._clock() - self._began, 1),
            "failed": [0 if point is None else point.failed for point in points],
            "kinds": {kind: _columns(points, (kind,)) for kind in KINDS},
            "all": _columns(points, KINDS),
        }

    def _number(self) -> int:
        return int((self._clock() - self._began) / STEP)

    def _at(self, number: int) -> _Point | None:
        point = self._ring[number % POINTS]
        return point if point is not None and point.number == number else None


def _columns(points: list[_Point | None], kinds: tuple[str, ...]) -> Mapping[str, object]:
    counts: list[int] = []
    middle: list[float | None] = []
    slow: list[float | None] = []
    for point in points:
        merged: dict[int, int] = {}
        for kind in kinds:
            # In one step: a request may end meanwhile.
            for place, count in [] if point is None else list(point.latencies[kind].items()):
                merged[place] = merged.get(place, 0) + count
        counts.append(sum(merged.values()))
        middle.append(_percentile(merged, 0.5))
        slow.append(_percentile(merged, 0.99))
    return {"count": counts, "p50": middle, "p99": slow}


def _percentile(counts: Mapping[int, int], share: float) -> float | None:
    total = sum(counts.values())
    left = share * total
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            return float(f"{BOUNDS[min(place, len(BOUNDS) - 1)]:.3g}")
    return None


_KEY = "aiovec.figures"


async def figures_of(scope: Scope) -> dict[str, object]:
    """Return the figures of the middleware that a request came through."""
    figures: Figures = scope.get(_KEY) or Figures()
    return await in_thread(figures.to_dict)


class FiguresMiddleware:
    """Measures every request of an app but the page's own, and shows the figures to the latter."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._figures = Figures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else "/"
        if _of_the_page(path):
            scope[_KEY] = self._figures
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        figures = self._figures
        began = time.perf_counter()
        figures.running += 1
        try:
            await self._app(scope, receive, watched)
        finally:
            figures.running -= 1
            kind = kind_of(scope["method"], path)
            figures.add(kind, time.perf_counter() - began, failed=status >= 500)


def _of_the_page(path: str) -> bool:
    return path == "/" or path.startswith(("/assets/", "/page/"))


def kind_of(method: str, path: str) -> str:
    """Return the kind under which a request is counted."""
    if "search" in path.rsplit("/", 1)[-1]:
        return "search"
    return "write" if access_of(method, path) is Access.WRITE else "read"
