"""For all tests: the tiers, the event loop, and a guard against calls that block it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest

# The tests start hundreds of processes. Where no bytecode may be kept beside the code, as in many
# containers, each would compile all that it imports: keep it in a folder of its own then.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / "build" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

pytest.register_assert_rewrite("tests.contract", "tests.harness")

from tests.harness.blocking import watching  # noqa: E402 - behind what rewrites the asserts
from tests.harness.cases import all_cases  # noqa: E402 - behind what rewrites the asserts

import aiovec  # noqa: E402 - behind what rewrites the asserts

# A shell has its background jobs ignore interrupts, and the processes that tests start inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is a matter of the machine and of what else it does.
hypothesis.settings.register_profile(
    "aiovec", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("aiovec")

TIERS = ("slow", "soak")
# What a skipped test or module says that needs packages which ``make test`` does not install.
_WANTING = re.compile(r"needs (aiovec\[|llm|the wheels|the packages|psycopg)|could not import")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="the seed of the campaigns; without it a new one")
    parser.addoption("--minutes", type=float, help="how long the campaigns take, in all")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the higher tiers, unless ``-m`` or a test's own id asks for them."""
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    higher = [item for item in items if any(item.get_closest_marker(tier) for tier in TIERS)]
    if higher:
        config.hook.pytest_deselected(items=higher)
        left_out = set(higher)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, object, object]:
    """Say last what was left out for want of large packages, and what runs it."""
    result = yield
    skipped = terminalreporter.stats.get("skipped", [])
    if left := sum(1 for report in skipped if _WANTING.search(str(report.longrepr))):
        terminalreporter.write_line(
            f"left out for want of packages: {left} tests or files of them; "
            "nox -s agents bridges crewai imports ray runs them"
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
    """Let the cases of a table go on behind one that fails."""
    with all_cases():
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
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of a campaign, which a failure shows: ``--seed`` runs the same one again."""
    given: int | None = request.config.getoption("--seed")
    seed = int.from_bytes(os.urandom(3)) if given is None else given
    sys.stdout.write(f"the seed is {seed}: --seed {seed} runs this again\n")
    return seed


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[aiovec.VectorStore]:
    """An open store in a new file."""
    async with aiovec.connect(tmp_path / "store.db") as opened:
        yield opened
