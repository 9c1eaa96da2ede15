"""Run the tests as make, nox and CI do: in a process for each core. ``python -m tests [OPTIONS]``.

The options are pytest's.
"""

from __future__ import annotations

import os
import sys

import pytest

if __name__ == "__main__":  # a spawned process imports this module again
    # The processes share the cores: NumPy's own threads would only wait for each other, busily.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # One that has no more tests takes over some of another's, so none is left alone at the end.
    sys.exit(pytest.main(["-n", "logical", "--dist", "worksteal", *sys.argv[1:]]))
