"""Run all benchmarks, or one subject as in ``python -m bench search``."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import tempfile
from pathlib import Path

from .data import FOLDER_VARIABLE
from .measure import RESULTS, Options, Result, machine, write

SUBJECTS = "search writes get lancedb migrate text server load start quality".split()
# ``all`` leaves out subjects that take long, need a cluster, or install other stores.
ALONE = "against embed many passages recall sizes scale waiting watch".split()


def main(arguments: list[str] | None = None) -> int:
    """Run the subjects; return 1 if an answer was wrong, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure aiovec and its alternatives."
    )
    parser.add_argument("subject", nargs="?", default="all", choices=["all", *SUBJECTS, *ALONE])
    parser.add_argument(
        "--data", help=f"folder with a real data set, see bench/data.py (or ${FOLDER_VARIABLE})"
    )
    parser.add_argument("--folder", type=Path, help="where to write stores; default: a temporary")
    parser.add_argument("--rows", type=int, help="number of rows, for one subject")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of rows")
    parser.add_argument("--repeat", type=float, default=1.0, help="multiplies rounds and seconds")
    parser.add_argument(
        "--alone", action="store_true", help="without the peers, as far as they can be left out"
    )
    parser.add_argument("--sets", type=lambda names: names.split(","), help="with quality: sets")
    parser.add_argument("--dim", type=int, default=384, help="with sizes: of generated rows")
    parser.add_argument("--cache", type=Path, help="folder that keeps the peers' environments")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write the JSON")
    chosen = parser.parse_args(arguments)
    if chosen.rows is not None and chosen.subject == "all":
        parser.error("--rows is for one subject")
    subjects = SUBJECTS if chosen.subject == "all" else (chosen.subject,)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    results: list[Result] = []
    for subject in subjects:
        with tempfile.TemporaryDirectory(prefix="aiovec-bench-", dir=chosen.folder) as folder:
            options = Options(
                Path(folder), chosen.data, chosen.scale, chosen.repeat, chosen.alone, chosen.cache,
                chosen.rows, chosen.dim, chosen.sets,
            )  # fmt: skip
            module = importlib.import_module(f"bench.{subject}")
            measured: list[Result] = asyncio.run(module.run(options))
        for result in measured:
            print(f"\n{result}", flush=True)
        results += measured
    print(f"\nwritten to {write(results, chosen.subject, chosen.results)}")
    wrong = [text for result in results for text in result.wrong]
    if wrong:
        print(f"WRONG: {'; '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
