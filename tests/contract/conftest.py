"""The tiers of the kinds of store: tests marked ``core``, and all others."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from tests.contract.base import ContractBase

_NO_ARROW = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")


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
