"""Run the tests on all cores, as make, nox and CI do: ``python -m tests [OPTIONS]``.

The options are pytest's.
"""

from __future__ import annotations

import os
import sys

import pytest

if __name__ == "__main__":  # a spawned process imports this module again
    # The processes share the cores, so NumPy's own threads would only spin while they wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Two processes on two cores would keep them busy for 57 % of the time: tests wait for timeouts,
    # for the disk and for other processes. So there is one process more than cores.
    on_linux = hasattr(os, "sched_getaffinity")  # Linux can limit a process to some cores
    cores = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
    # With worksteal, an idle process takes over tests of another, so all end together.
    sys.exit(pytest.main(["-n", f"{cores + 1}", "--dist", "worksteal", *sys.argv[1:]]))
