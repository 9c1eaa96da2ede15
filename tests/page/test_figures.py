"""The ring of figures, and the map's projection."""

from __future__ import annotations

import numpy as np
import pytest

from aiovec_server.page.figures import POINTS, STEP, Figures, FiguresMiddleware, kind_of
from aiovec_server.page.maps import MAX_ROWS, principal_components, sample_size, spread


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_points_hold_what_ended_in_their_seconds() -> None:
    clock = Clock()
    figures = Figures(clock)
    for _ in range(98):
        figures.add("search", 0.004, failed=False)
    figures.add("search", 3.0, failed=True)
    figures.add("read", 0.5, failed=False)
    clock.now += STEP
    made = figures.to_dict()
    assert made["failed"] == [1]
    searches = made["kinds"]["search"]  # type: ignore[index]
    assert searches["count"] == [99]
    assert searches["p50"][0] == pytest.approx(0.004, rel=0.16)
    assert searches["p99"][0] == pytest.approx(3.0, rel=0.16)
    assert made["all"]["count"] == [100]  # type: ignore[index]
    assert made["kinds"]["write"] == {"count": [0], "p50": [None], "p99": [None]}  # type: ignore[index]


def test_the_ring_forgets() -> None:
    clock = Clock()
    figures = Figures(clock)
    figures.add("read", 1.0, failed=False)
    clock.now += STEP * (POINTS + 3)
    figures.add("read", 1.0, failed=False)
    clock.now += STEP
    counts = figures.to_dict()["all"]["count"]  # type: ignore[index]
    assert len(counts) == POINTS - 1
    assert sum(counts) == 1
    assert counts[-1] == 1


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e9])
def test_any_latency_has_a_place(seconds: float) -> None:
    clock = Clock()
    figures = Figures(clock)
    figures.add("write", seconds, failed=False)
    clock.now += STEP
    assert figures.to_dict()["all"]["p50"][0] > 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/tables/notes/search", "search"),
        ("POST", "/tables/notes/search_text", "search"),
        ("POST", "/backend/search", "search"),
        ("GET", "/tables", "read"),
        ("POST", "/tables/notes/find", "read"),
        ("POST", "/backend/find", "read"),
        ("POST", "/tables", "write"),
        ("POST", "/tables/notes/records", "write"),
        ("DELETE", "/tables/notes/records/1", "write"),
        ("POST", "/backend/insert", "write"),
    ],
)
def test_kinds(method: str, path: str, kind: str) -> None:
    assert kind_of(method, path) == kind


async def test_a_request_that_fails_is_counted_and_over() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise RuntimeError

    middleware = FiguresMiddleware(app)  # type: ignore[arg-type]
    scope = {"type": "http", "path": "/tables", "method": "GET"}
    with pytest.raises(RuntimeError):
        await middleware(scope, None, None)  # type: ignore[arg-type]
    figures = middleware._figures
    figures._clock = lambda: figures._began + STEP
    assert figures.to_dict()["failed"] == [1]
    assert figures.running == 0


class TestPrincipalComponents:
    def test_the_two_directions_of_most_variance(self) -> None:
        generator = np.random.default_rng(5)
        scales = np.array([5.0, 3.0] + [0.3] * 38)
        basis, _ = np.linalg.qr(generator.normal(size=(40, 40)))
        data = (generator.normal(size=(500, 40)) * scales) @ basis
        places, explained = principal_components(data.astype(np.float32), unit=False)
        centred = data - data.mean(axis=0)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        for n in range(2):
            expected = left[:, n] * values[n]
            assert abs(np.corrcoef(places[:, n], expected)[0, 1]) > 0.9999
            assert explained[n] == pytest.approx(values[n] ** 2 / (values**2).sum(), rel=1e-3)
        assert np.abs(places).max() == pytest.approx(1.0)

    @pytest.mark.parametrize("unit", [False, True])
    @pytest.mark.parametrize(
        "vectors",
        [
            np.zeros((0, 4)),
            np.zeros((3, 4)),
            np.ones((1, 4)),
            np.ones((5, 1)),
            np.eye(2, 1),
            np.full((4, 3), 3.4e38),
            np.array([[3.4e38, -3.4e38], [-3.4e38, 3.4e38], [1e-45, 0]]),
            np.array([[1e-45, 0.0], [0.0, 1e-45]]),
            np.eye(3, 8192),
        ],
    )
    def test_any_vectors_have_finite_places(
        self, vectors: np.ndarray[tuple[int, int], np.dtype[np.float64]], unit: bool
    ) -> None:
        places, explained = principal_components(vectors.astype(np.float32), unit=unit)
        assert places.shape == (len(vectors), 2)
        assert np.isfinite(places).all()
        assert np.abs(places).max(initial=0.0) <= 1.0
        assert (explained >= 0).all()
        assert explained.sum() <= 1.0001

    def test_lengths_do_not_count_under_cosine(self) -> None:
        data = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
        lengths = np.linspace(0.01, 100, 50, dtype=np.float32)[:, None]
        one, _ = principal_components(data, unit=True)
        other, _ = principal_components(data * lengths, unit=True)
        np.testing.assert_allclose(one, other, atol=1e-4)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1999, 2000])
    @pytest.mark.parametrize("total", [2000, 2001, 2999, 3000, 4567, 1_000_000])
    def test_the_places_of_a_sample(self, size: int, total: int) -> None:
        places = spread(size, total)
        assert len(places) == size
        assert places == sorted(set(places))
        assert 0 <= places[0] < total / size
        assert total - total / size - 1 < places[-1] < total
        for part, place in enumerate(places):
            assert -1 < place - part * total / size <= total / size + 1

    def test_the_size_of_a_sample(self) -> None:
        assert sample_size(768, 2_000) == MAX_ROWS
        assert sample_size(8192, 2_000) == 250
        assert sample_size(4, 10) == 10
