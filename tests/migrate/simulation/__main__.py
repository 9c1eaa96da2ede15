"""Run one seed of the simulation and print its trace, or look for seeds that fail.

python -m tests.migrate.simulation SEED
python -m tests.migrate.simulation FIRST LAST
"""

from __future__ import annotations

import sys
import time

from .course import Course


def show(seed: int) -> int:
    course = Course(seed)
    try:
        course.run()
    except BaseException as error:
        sys.stdout.write("\n".join(getattr(error, "__notes__", [])) + "\n")
        raise
    sys.stdout.write("\n".join([str(course.scenario), *course.world.trace, "all is well\n"]))
    return 0


def search(first: int, last: int) -> int:
    began = time.monotonic()
    failed = 0
    for seed in range(first, last + 1):
        try:
            Course(seed).run()
        except Exception as error:  # noqa: BLE001 - all of them are told
            failed += 1
            sys.stdout.write(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}\n")
            sys.stdout.flush()
    took = time.monotonic() - began
    sys.stdout.write(f"{failed} of {last + 1 - first} seeds failed in {took:.1f} s\n")
    return bool(failed)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(show(*numbers) if len(numbers) == 1 else search(*numbers))
