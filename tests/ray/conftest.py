"""One cluster of two nodes for all tests of a process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if lacking := missing():
        pytest.skip(f"needs {', '.join(lacking)}: pip install 'aiovec[ray]'")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = Cluster(folder, nodes=2)
        stack.callback(cluster.close)
        cluster.start()
        yield cluster
