"""The scan's arithmetic stays exact, whatever ``$CFLAGS`` asks of the compiler."""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

import pytest
from tests.harness.processes import output_of

KERNEL = Path(__file__).resolve().parents[2] / "adapters/aiovec_sqlite/copies/kernel"
# This replaces the scan: a sum that fast arithmetic would simplify, and a product it would fuse.
ARITHMETIC = """
__attribute__((visibility("default"))) double sum(double a, double b) { return (a + b) - a; }
__attribute__((visibility("default"))) double fused(double a, double b) { return a * a - b; }
"""


@pytest.mark.skipif(sys.platform == "win32", reason="its compiler does not read $CFLAGS")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("flags", ["-Ofast", "-ffast-math", "-ffp-contract=fast -march=native"])
def test_the_arithmetic_is_exact(tmp_path: Path, flags: str) -> None:
    shutil.copy(KERNEL / "build.py", tmp_path)
    (tmp_path / "scan.c").write_text(ARITHMETIC)
    built = output_of(tmp_path / "build.py", env={"CFLAGS": flags})
    library = ctypes.CDLL(built.strip())
    for function in (library.sum, library.fused):
        function.argtypes, function.restype = [ctypes.c_double] * 2, ctypes.c_double
    assert library.sum(1e16, 1.0) == 0.0
    a = 1.0 + 2.0**-30
    assert library.fused(a, a * a) == 0.0
