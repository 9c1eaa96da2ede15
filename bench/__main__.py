"""``python -m bench all``, or one subject alone."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import tempfile
from pathlib import Path

from .data import FOLDER_VARIABLE
from .measure import RESULTS, Result, machine, write
from .options import Options

# The subjects and the modules that measure them.
SUBJECTS = {
    "insert": "insert",
    "writers": "writers",
    "get": "get",
    "export": "export",
    "open": "opening",
    "import": "importing",
    "search": "search",
    "text": "text",
    "lancedb": "lance.small",
    "migrate": "migrate",
    "load": "load",
    "server": "server",
    "choices": "choices",
}
# What takes so long or so much room that it has to be asked for by name.
ALONE = {
    "search-million": "searching.million",
    "lancedb-million": "lance.million",
    # These two are parts of lancedb, too.
    "lancedb-ids": "lance.ids",
    "lancedb-filters": "lance.topical",
    # Of the code itself, not of its speed.
    "counts": "counts",
}


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("subject", nargs="?", default="all", choices=["all", *SUBJECTS, *ALONE])
    parser.add_argument(
        "--data", help=f"a folder with a real set, see bench/data.py (or ${FOLDER_VARIABLE})"
    )
    parser.add_argument("--folder", type=Path, help="where to write the stores; a temporary one")
    parser.add_argument("--rows", type=int, help="how many rows, for one subject alone")
    parser.add_argument("--dim", type=int, help="of how many dimensions, for migrate")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks the row counts")
    parser.add_argument("--repeat", type=float, default=1.0, help="more or fewer rounds")
    parser.add_argument(
        "--peers", choices=["none", "quick", "all"], default="quick",
        help="other stores that are installed; all: also those whose index takes minutes to build",
    )  # fmt: skip
    parser.add_argument(
        "--no-peers", dest="peers", action="store_const", const="none", help="as --peers none"
    )
    parser.add_argument("--cache", type=Path, help="a folder that keeps the peers' slow indexes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    asked = parser.parse_args(arguments)
    if asked.rows is not None and asked.subject == "all":
        parser.error("--rows is for one subject alone")
    subjects = list(SUBJECTS) if asked.subject == "all" else [asked.subject]
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    results: list[Result] = []
    for subject in subjects:
        with tempfile.TemporaryDirectory(prefix="aiovec-bench-", dir=asked.folder) as folder:
            options = Options(
                Path(folder), asked.data, asked.scale, asked.repeat, asked.peers != "none",
                asked.peers == "all", asked.cache, asked.rows, asked.dim,
            )  # fmt: skip
            found = run(subject, options)
        for result in found:
            print(f"\n{result.show()}", flush=True)
        results += found
    # A run of another size leaves the published one's results alone.
    name = asked.subject if asked.rows is None else f"{asked.subject}-{asked.rows}"
    print(f"\nwritten to {write(results, name, asked.results)}")
    missed = [check for result in results for check in result.checks if not check.holds]
    print("every target holds" if not missed else f"missed: {'; '.join(map(str, missed))}")
    return 1 if missed else 0


def run(subject: str, options: Options) -> list[Result]:
    module = importlib.import_module(f"bench.{(SUBJECTS | ALONE)[subject]}")
    results: list[Result] = asyncio.run(module.run(options))
    return results


if __name__ == "__main__":
    sys.exit(main())
