"""Compile the scan: ``python adapters/aiovec_sqlite/copies/kernel/build.py``.

The package's build runs this module, which works on any machine with a C compiler. The library does
not use the Python API, so one library serves all versions of Python.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "scan.c"
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
LIBRARY = HERE / f"_scan{SUFFIX}"
# The build is reproducible: the library contains neither the time nor the folder of the build.
_MICROSOFT = ("/nologo", "/O2", "/std:c11", "/LD", "/Brepro")
# Distances equal NumPy's to the last bit, so the compiler must not fuse products with sums or
# reorder sums. The last flag wins, so these come after ``$CFLAGS``.
_GNU = (
    "-std=c11",
    "-O3",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-shared",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
)
_OF_PLATFORM = {
    "darwin": ("-fPIC", f"-Wl,-install_name,@rpath/{LIBRARY.name}"),
    "win32": ("-Wl,/Brepro",),
}
_LIBRARIES = () if sys.platform == "win32" else ("-lm",)
# Time limit for a compiler, in seconds.
_LIMIT = 300.0


class NoCompilerError(Exception):
    """The scan cannot be compiled here; the message gives the reason."""


def compilers() -> list[list[str]]:
    """Return the commands of the compilers to try: ``$CC`` if set, else the installed compilers.

    On Windows, GCC is not tried: it keeps AVX vectors on a stack that is not aligned for them.
    """
    if chosen := os.environ.get("CC"):
        return [shlex.split(chosen)]
    configured = shlex.split(sysconfig.get_config_var("CC") or "")[:1]
    names = [*configured, "cc", "gcc", "clang"] if sys.platform != "win32" else ["cl", "clang"]
    paths = dict.fromkeys(path for name in names if (path := shutil.which(name)))
    return [[path] for path in paths]


def build(to: Path = LIBRARY) -> Path:
    """Compile the library to a path and return the path. Raises NoCompilerError on failure."""
    reasons = []
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".scan-") as room:
        made = Path(room) / to.name
        for compiler in compilers():
            try:
                done = subprocess.run(
                    _command(compiler, made), capture_output=True, text=True, cwd=room,
                    timeout=_LIMIT, check=False,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as exc:
                reasons.append(f"{compiler[0]} failed ({exc})")
                continue
            if not done.returncode and made.exists():
                return made.replace(to)
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            reasons.append(f"{compiler[0]} failed ({' '.join(last)[:200]})")
    raise NoCompilerError("; ".join(reasons) or "no C compiler was found")


def _command(compiler: list[str], made: Path) -> list[str]:
    if Path(compiler[0]).stem.lower() == "cl":
        return [*compiler, *_MICROSOFT, str(SOURCE), f"/Fe:{made}", "/link", "/Brepro"]
    flags = shlex.split(os.environ.get("CFLAGS", ""))
    flags += [*_GNU, *_OF_PLATFORM.get(sys.platform, ("-fPIC",))]
    if sys.platform == "darwin":
        flags += _of_mac()
    return [*compiler, *flags, "-o", str(made), str(SOURCE), *_LIBRARIES]


def _of_mac() -> list[str]:
    """Return the flags for the processors and the oldest macOS version in the wheel's tag."""
    _, oldest, processors = sysconfig.get_platform().split("-", 2)
    names = ["arm64", "x86_64"] if processors == "universal2" else [processors]
    return [f"-mmacosx-version-min={oldest}", *(part for name in names for part in ("-arch", name))]


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build()}\n")
    except NoCompilerError as exc:
        sys.exit(f"the scan was not compiled: {exc}")
