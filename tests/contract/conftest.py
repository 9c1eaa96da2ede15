"""Mark the tests of each kind of store with their tiers: ``core`` tests, and all others."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from tests.contract.base import ContractBase
from tests.harness.tiers import leaves_out

_NO_ARROW = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")


def pytest_pycollect_makeitem(collector: pytest.Module, obj: object) -> list[pytest.Item] | None:
    """Skip kinds of store that have only tests of higher tiers, unless the run selects them."""
    kind = isinstance(obj, type) and issubclass(obj, ContractBase)
    return [] if kind and None not in obj.tiers and leaves_out(collector.config) else None


@pytest.hookimpl(tryfirst=True)  # before the higher tiers are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # the hook sees the tests of every folder
        kind = getattr(item, "cls", None)
        if kind is None or not issubclass(kind, ContractBase):
            continue
        if item.get_closest_marker("arrow"):
            item.add_marker(_NO_ARROW)
        core, others = kind.tiers
        tier = core if item.get_closest_marker("core") else others
        if tier is not None:
            item.add_marker(tier)
