"""For all tests: the tiers, the event loop, and a guard against calls that block it."""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest

# The tests start hundreds of processes. If bytecode must not be written next to the code, as in
# many containers, each process would compile all its imports. So write it to a separate folder.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / "build" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# Hide the aiovec settings of the environment from the tests.
for _name in [*os.environ]:
    if _name.upper().startswith("AIOVEC_") and _name != "AIOVEC_LOOP":
        del os.environ[_name]

pytest.register_assert_rewrite("tests.contract", "tests.harness")

from tests.harness.blocking import watching  # noqa: E402 - behind what rewrites the asserts
from tests.harness.cases import cases_of  # noqa: E402 - behind what rewrites the asserts
from tests.harness.tiers import leaves_out  # noqa: E402 - behind what rewrites the asserts

import aiovec  # noqa: E402 - after register_assert_rewrite

# Background jobs of a shell ignore interrupts, and so would the processes that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The time of an example depends on the machine and its load.
hypothesis.settings.register_profile(
    "aiovec", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("aiovec")

TIERS = ("slow", "soak")
_WHOLLY_SLOW = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.(slow|soak)\b", re.MULTILINE)
_MINUTES = pytest.StashKey[float]()
# The reasons of tests and modules that are skipped because ``make test`` installs no such packages.
_WANTING = re.compile(r"needs (aiovec\[|llm|the wheels|the packages|psycopg)|could not import")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="the first seed of each campaign; else a new one")
    parser.addoption("--minutes", type=float, help="about how long the campaigns take, in all")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore files that have only tests of higher tiers, unless ``-m`` or the name selects them."""
    named = any(argument.endswith(".py") for argument in config.args)
    if named or collection_path.suffix != ".py" or not leaves_out(config):
        return None
    return bool(_WHOLLY_SLOW.search(collection_path.read_text("utf-8"))) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of higher tiers, unless ``-m`` or a test's id selects them. With
    ``--minutes``, leave out campaigns that cannot be shortened. Sort by the length of campaigns."""
    left_out: set[pytest.Item] = set()
    if leaves_out(config):
        left_out = {item for item in items if any(map(item.get_closest_marker, TIERS))}
    if config.option.minutes is not None:
        left_out |= {item for item in items if minutes_of(item) and not _can_be_short(item)}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=minutes_of, reverse=True)  # the longest campaigns first


def minutes_of(item: pytest.Item) -> float:
    """Return the approximate minutes that a campaign takes on two cores; 0 for other tests."""
    return float(sum(mark.kwargs.get("minutes", 0) for mark in item.iter_markers("soak")))


def _can_be_short(item: pytest.Item) -> bool:
    return "seeds" in getattr(item, "fixturenames", ())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_MINUTES] = sum(map(minutes_of, session.items))


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str:
    """Report before the run how long the campaigns take."""
    campaigns = sum(1 for item in items if minutes_of(item))
    minutes = config.option.minutes or config.stash[_MINUTES]
    about = f"{campaigns} campaigns, about {minutes:.0f} minutes; --minutes cuts them short"
    return about if campaigns else ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, object, object]:
    """Report at the end which tests were skipped for lack of packages, and what runs them."""
    result = yield
    skipped = terminalreporter.stats.get("skipped", [])
    if left := sum(1 for report in skipped if _WANTING.search(str(report.longrepr))):
        terminalreporter.write_line(
            f"left out for want of packages: {left} tests or files of them; "
            "nox -s agents bridges crewai imports memories ray runs them"
        )
    return result


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Use the event loop that ``AIOVEC_LOOP`` names: ``asyncio`` or ``uvloop``."""
    if os.environ.get("AIOVEC_LOOP") == "uvloop":
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let the cases of a test continue after one that fails."""
    with cases_of(pyfuncitem):
        return (yield)


@pytest.fixture(scope="session")
def blocking_calls() -> Iterator[list[str]]:
    """Watch every event loop of the session."""
    with watching() as blocked:
        yield blocked


@pytest.fixture(autouse=True)
def _no_blocking_call(blocking_calls: list[str]) -> Iterator[None]:
    """Fail a test in which the product blocked an event loop."""
    blocking_calls.clear()
    yield
    assert not blocking_calls, "the event loop was blocked by " + "\n".join(blocking_calls)


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Iterator[int]]]:
    """Yield the seeds of a campaign's rounds, up to a number or until its share of ``--minutes`` is
    over. A failure shows the last seed, and ``--seed`` starts with it."""
    options = request.config.option
    seed = int.from_bytes(os.urandom(3)) if options.seed is None else options.seed
    seconds = math.inf
    if options.minutes is not None:
        part = minutes_of(request.node) / request.config.stash[_MINUTES]
        seconds = 60 * options.minutes * part

    def count(most: int) -> Iterator[int]:
        nonlocal seed
        began = time.monotonic()
        for number in range(seed, seed + most):
            seed = number
            yield seed
            if time.monotonic() - began > seconds:
                return

    yield count
    sys.stdout.write(f"the seed was {seed}: --seed {seed} goes on with it\n")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[aiovec.VectorStore]:
    """An open store in a new file."""
    async with aiovec.connect(tmp_path / "store.db") as opened:
        yield opened
