"""What a process pays before its first answer, and what an installation takes on the disk.

All times are of new processes, the interpreter's own start included.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from .measure import Options, Result, Way, interleaved, medians, timed

_ROUNDS = 7
_ANSWER = """
import asyncio, sys, aiovec

ROWS = [{"id": str(n), "embedding": [n + 1.0] * 8, "year": n} for n in range(10)]

async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        await store.create_table("t", aiovec.Schema(dim=8, fields={"year": int}), exist_ok=True)
        await store.upsert("t", ROWS)
        assert len(await store.search("t", [1.0] * 8)) == 10

asyncio.run(main())
"""
_MEMORY = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"


async def run(options: Options) -> list[Result]:
    python = sys.executable
    answers = {
        "SQLite": str(options.folder / "start.db"),
        "LanceDB": f"lancedb://{options.folder / 'start'}",
    }
    asked: dict[str, Sequence[str]] = {
        "Python, nothing": (python, "-c", "pass"),
        "import aiovec": (python, "-c", "import aiovec"),
        "aiovec --version": (python, "-m", "aiovec", "--version"),
        "aiovec --help": (python, "-m", "aiovec", "--help"),
    }
    for name, target in answers.items():
        asked[f"10 rows written and found, {name}"] = (python, "-c", _ANSWER, target)
    if _installed("lancedb") is not None:
        asked["import lancedb"] = (python, "-c", "import lancedb")
    else:
        del asked["10 rows written and found, LanceDB"], answers["LanceDB"]
    ways: dict[str, Way] = {
        name: timed(lambda told=told: _said(told)) for name, told in asked.items()
    }
    took = medians(await interleaved(ways, options.rounds(_ROUNDS)))
    most = {
        f"{name} (MiB)": float(await _said((python, "-c", _ANSWER + _MEMORY, target)))
        for name, target in answers.items()
    }
    return [
        Result("start, time", "new processes, files in the system's cache (median)", "ms", took),
        Result("start, memory", "the most that such a process takes", "", most),
        Result("start, size", "the files of what pip installs", "", _sizes()),
    ]


async def _said(command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, command
    return out.decode()


def _sizes() -> dict[str, float]:
    """The size of aiovec with all that it needs, and with some of its extras."""
    found: dict[str, float] = {}
    for extra in ("", "arrow", "remote", "server", "lancedb"):
        names: set[str] = set()
        _collect("aiovec", extra, names)
        name = f"aiovec[{extra}]" if extra else "aiovec"
        found[f"{name}, packages"] = len(names)
        found[f"{name} (MB)"] = sum(map(_size, names)) / 1e6
    return found


def _collect(package: str, extra: str, names: set[str]) -> None:
    """Add a package and what it needs, as far as that is installed."""
    name = re.sub(r"[-_.]+", "-", package).lower()
    at = _installed(name)
    if at is None or (name in names and not extra):
        return
    names.add(name)
    for text in at.requires or ():
        needed = Requirement(text)
        if needed.marker is None or any(
            needed.marker.evaluate({"extra": one}) for one in ("", extra)
        ):
            for wanted in ("", *needed.extras):
                _collect(needed.name, wanted, names)


def _installed(package: str) -> Distribution | None:
    try:
        return distribution(package)
    except PackageNotFoundError:
        return None


def _size(package: str) -> int:
    """The bytes of a package's files, without what Python compiles at its first import."""
    files = [Path(str(file.locate())) for file in distribution(package).files or ()]
    if package == "aiovec":  # which may be installed as a link to its source
        import aiovec

        files += Path(aiovec.__file__).parent.rglob("*")
    return sum(file.stat().st_size for file in files if file.suffix != ".pyc" and file.is_file())
