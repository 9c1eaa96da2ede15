"""What is said of a table with certain facts: the thresholds, and what is reckoned ahead."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from aiovec import TableStats
from aiovec._core.advice import (
    Advice,
    Growth,
    SearchTimes,
    TableFacts,
    facts_of,
    growth_since,
    judge,
)
from aiovec._settings.load import AdviseSettings
from aiovec.backend import MemoryNeed
from aiovec_sqlite.settings import SqliteSettings
from aiovec_sqlite.store import SqliteBackend

LIMITS = AdviseSettings()
GIB = 2**30
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SQLITE = SqliteBackend("a.db", SqliteSettings())


def copy(need: int, budget: int) -> MemoryNeed:
    return MemoryNeed(need, budget, "scan_memory")


def times(p95: float, *, growing: float = 1.0) -> SearchTimes:
    return SearchTimes(p50_ms=p95, p95_ms=p95, searches=100, growing=growing, source="a test")


def facts(
    rows: int,
    p95: float,
    *,
    growing: float = 1.0,
    a_day: float | None = None,
    scan: MemoryNeed | None = None,
) -> TableFacts:
    growth = None if a_day is None else Growth(a_day, "as a test says")
    found = times(p95, growing=growing)
    return TableFacts("docs", "sqlite", "lancedb", rows, 768, rows * 3300, found, growth, scan)


def stats(
    rows: int = 1000, *, details: dict[str, object] | None = None, scan_memory: int = 0
) -> TableStats:
    return TableStats("docs", "sqlite", rows, 1, "none", rows, scan_memory, None, details or {})


@pytest.mark.parametrize(
    ("rows", "p95", "verdict"),
    [
        (100_001, 200.1, "now"),
        (100_000, 900.0, "later"),  # slow, but not for its rows
        (900_000, 200.0, "later"),  # many rows, but quick
    ],
)
def test_many_rows_and_slow_searches_together_are_the_threshold(
    rows: int, p95: float, verdict: str
) -> None:
    assert judge(facts(rows, p95), LIMITS).verdict == verdict


def test_the_thresholds_are_those_of_the_settings() -> None:
    few = AdviseSettings(rows=10, p95_ms=1)
    assert judge(facts(11, 1.5), few).verdict == "now"
    assert judge(facts(11, 1.5), LIMITS).verdict == "later"


def test_a_scan_over_its_budget_is_one_by_itself() -> None:
    advice = judge(facts(5_000, 3.0, scan=copy(2 * GIB, GIB)), LIMITS)
    assert advice.verdict == "now"
    assert "its copy in memory would take 2.0 GiB, and scan_memory is 1.0 GiB" in advice.sentence
    assert judge(facts(5_000, 3.0, scan=copy(GIB, GIB)), LIMITS).verdict == "later"


def test_both_reasons_are_told() -> None:
    advice = judge(facts(200_000, 350.0, scan=copy(2 * GIB, GIB)), LIMITS)
    assert len(advice.why) == 2
    assert advice.at_rows == 200_000
    assert "200,000 rows are searched in 350 ms (p95 of 100)" in advice.sentence


# 90,000 rows in 90 ms: a microsecond a row, so 200 ms are passed at 200,001 rows.


@pytest.mark.parametrize(
    ("a_day", "verdict"),
    [
        (4_000, "soon"),  # in 28 days
        (3_000, "later"),  # in 37 days
        (None, "later"),
        (-5_000, "later"),
    ],
)
def test_growth_towards_the_point_within_a_month(a_day: float | None, verdict: str) -> None:
    advice = judge(facts(90_000, 90.0, a_day=a_day), LIMITS)
    assert advice.at_rows == 200_001
    assert advice.verdict == verdict


def test_a_table_that_grows_slowly_is_not_looked_at_ahead() -> None:
    """Even where it is close to the point: 500 rows a day are the threshold."""
    close = facts(199_900, 199.9)
    growing = [replace(close, growth=Growth(a_day, "")) for a_day in (500.0, 501.0)]
    assert [judge(one, LIMITS).verdict for one in growing] == ["later", "soon"]


def test_what_is_coming_is_told_with_its_days_and_how_it_is_known() -> None:
    advice = judge(facts(90_000, 90.0, a_day=5_000), LIMITS)
    assert advice.in_days == pytest.approx(22, abs=0.1)
    assert advice.sentence == (
        "lancedb will serve it better in 23 days: it has 90,000 rows and grows by 5,000 a day (as "
        "a test says), and from 200,000 rows on searches are expected to take 200 ms (p95)"
    )


def test_growth_towards_the_budget_counts_too() -> None:
    advice = judge(facts(90_000, 9.0, a_day=2_000, scan=copy(900, 1_000)), LIMITS)
    assert advice.at_rows == 100_001
    assert advice.verdict == "soon"
    assert "its copy in memory is expected to be larger than scan_memory" in advice.sentence


def test_only_the_part_that_grows_is_carried_on() -> None:
    half = facts(100_000, 20.0, growing=0.5)
    assert judge(half, LIMITS).at_rows == pytest.approx(1_900_001, abs=1)
    # The p95 is 30 ms at twice the rows.
    assert judge(half, AdviseSettings(p95_ms=30)).at_rows == pytest.approx(200_001, abs=1)
    fixed = facts(100_000, 20.0, growing=0.0)
    assert judge(fixed, LIMITS).at_rows is None
    assert "any number of rows" in judge(fixed, LIMITS).sentence


def test_the_slower_searches_grow_as_the_median_does() -> None:
    """A busy machine makes some searches slow whatever the rows."""
    searches = SearchTimes(10.0, 50.0, 100, 1.0, "")
    uneven = replace(facts(100_000, 50.0), searches=searches)
    # The p95 is 60 ms at twice the rows.
    assert judge(uneven, AdviseSettings(p95_ms=60)).at_rows == pytest.approx(200_001, abs=1)


def test_searches_that_are_slow_already_lack_only_the_rows() -> None:
    for growing in (0.0, 0.5, 1.0):
        slow = facts(50_000, 900.0, growing=growing, a_day=2_500)
        advice = judge(slow, LIMITS)
        assert (advice.verdict, advice.at_rows) == ("soon", 100_001)


@pytest.mark.parametrize("rows", [0, 1, 4_999])
def test_too_few_rows_are_not_forecast(rows: int) -> None:
    """Their searches take about as long as a call without rows."""
    found = facts(rows, 1.2, a_day=90_000, scan=copy(rows * 788, GIB))
    for few in (found, replace(found, searches=None)):
        advice = judge(few, LIMITS)
        assert (advice.verdict, advice.at_rows, advice.in_days) == ("later", None, None)
        assert advice.sentence == (
            f"sqlite serves it well; it has too few rows to forecast ({rows:,} of at least 5,000)"
        )
    assert judge(facts(5_000, 1.2, a_day=90_000), LIMITS).at_rows is not None


def test_a_table_without_measured_searches_is_not_forecast() -> None:
    advice = judge(TableFacts("docs", "sqlite", "lancedb", 90_000, 768, 0), LIMITS)
    assert (advice.verdict, advice.at_rows) == ("later", None)


def test_what_lies_ahead_is_always_more_than_there_is() -> None:
    advice = judge(facts(150_000, 199.9), LIMITS)
    assert advice.at_rows is not None
    assert advice.at_rows > 150_000


def test_sentences_are_in_round_figures() -> None:
    def sentence(rows: int, a_day: float | None) -> str:
        return judge(facts(rows, 10.0, a_day=a_day), LIMITS).sentence

    assert sentence(100_000, None) == (
        "sqlite serves it well; lancedb would serve it better from some 2,000,000 rows"
    )
    assert sentence(100_000, 1_000).endswith("rows, at its present growth in some 5 years")
    assert sentence(100_000, 0.001).endswith("in some hundreds of years")
    assert sentence(100_000, 10_000).endswith("in some 6 months")


def test_advice_as_json_has_facts_and_judgement() -> None:
    advice = judge(facts(90_000, 90.0, a_day=5_000, scan=copy(1, 2)), LIMITS)
    told = advice.to_dict()
    assert told["verdict"] == "soon"
    assert told["facts"]["growth"]["rows_a_day"] == 5_000
    assert told["facts"]["scan"] == {"bytes": 1, "budget": 2, "option": "scan_memory"}
    assert told["sentence"] == advice.sentence
    assert isinstance(advice, Advice)


# Facts


def found_in(
    told: TableStats, *, seconds: list[float] | None = None, growth: Growth | None = None
) -> TableFacts:
    return facts_of(SQLITE, told, 8, seconds or [], "a test", growth, NOW)


def test_times_are_told_by_rank() -> None:
    found = found_in(stats(), seconds=[number / 1000 for number in range(1, 101)]).searches
    assert found is not None
    assert (found.p50_ms, found.p95_ms, found.searches) == (50.0, 95.0, 100)
    assert found_in(stats()).searches is None


@pytest.mark.parametrize(
    ("stages", "growing"),
    [
        ({"searches": 10, "scan_ms": 3.0, "filter_ms": 1.0, "fetch_ms": 1.0, "batch": 7.0}, 0.4),
        # Ten searches that wait for each other: who waits, waits for scans as well.
        ({"searches": 10, "scan_ms": 4.0, "fetch_ms": 1.0, "queue_ms": 5.0}, 0.8),
        # Stages that are longer than the searches noted.
        ({"searches": 10, "scan_ms": 20.0, "fetch_ms": 20.0}, 0.5),
        ({}, 1.0),
        (None, 1.0),
    ],
)
def test_what_grows_is_told_by_the_stages(stages: object, growing: float) -> None:
    found = found_in(stats(details={"searches": stages}), seconds=[0.010]).searches
    assert found is not None
    assert found.growing == pytest.approx(growing)


def test_the_mean_growth_is_over_the_days_since_the_table_was_made() -> None:
    details: dict[str, object] = {"created": (NOW - timedelta(days=50)).isoformat()}
    told = stats(10_000, details=details)
    mean = Growth(200.0, "the mean since the table was created, 50 days ago")
    assert found_in(told).growth == mean
    seen = Growth(7.0, "seen")
    assert found_in(told, growth=seen).growth == seen


@pytest.mark.parametrize("created", [None, "yesterday", (NOW - timedelta(hours=23)).isoformat()])
def test_growth_that_is_not_known(created: str | None) -> None:
    assert found_in(stats(details={"created": created})).growth is None


def test_growth_counts_from_a_whole_day_on() -> None:
    assert growth_since(50, NOW - timedelta(days=1), NOW, "in {days}") == Growth(50.0, "in 1 day")
    assert growth_since(50, NOW - timedelta(days=0.9), NOW, "") is None


def test_facts_are_what_the_store_tells() -> None:
    details: dict[str, object] = {"scan_budget": 100, "scan_expected": 80}
    assert found_in(stats(details=details)).scan == copy(80, 100)
    # Masks of filters and free room lie beside the codes.
    assert found_in(stats(details=details, scan_memory=120)).scan == copy(120, 100)
    found = found_in(stats())
    assert found.scan is None
    assert (found.table, found.backend, found.successor) == ("docs", "sqlite", "lancedb")
