"""What of the suite runs where: the parts that a kind of store leaves to another are ``slow``."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # before the higher tiers are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The hook sees the tests of every folder.
        if not item.nodeid.startswith("tests/contract/"):
            continue
        part = str(getattr(getattr(item, "function", None), "__qualname__", ""))
        ordinary: frozenset[str] | None = getattr(item.module, "ORDINARY", None)
        slow: frozenset[str] = getattr(item.cls, "slow", frozenset())
        shown_elsewhere: tuple[str, ...] = getattr(item.cls, "shown_elsewhere", ())
        here_too: frozenset[str] = getattr(item.cls, "here_too", frozenset())
        if (
            slow.intersection((item.originalname, item.name))
            or (ordinary is not None and item.originalname not in ordinary)
            or (part.startswith(shown_elsewhere) and item.originalname not in here_too)
        ):
            item.add_marker(pytest.mark.slow)
