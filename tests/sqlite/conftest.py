"""Fixtures of the SQLite backend's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def small_scan_files() -> Iterator[None]:
    """Let tables of 300 KiB have a scan file, also in other processes, so that tests write less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOVEC_SCAN_FILE_FROM", str(300 * 1024))
        yield
