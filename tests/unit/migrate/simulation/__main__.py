"""Run one seed of the simulation and print its trace, or look for seeds that fail.

python -m tests.unit.migrate.simulation SEED
python -m tests.unit.migrate.simulation FIRST LAST
"""

from __future__ import annotations

import sys

from .course import Course

first, last = int(sys.argv[1]), int(sys.argv[-1])
failed = 0
for seed in range(first, last + 1):
    course = Course(seed)
    try:
        course.run()
    except Exception as error:  # noqa: BLE001 - each is printed
        failed += 1
        sys.stdout.write(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}\n")
    if first == last:
        sys.stdout.write("\n".join([str(course.scenario), *course.world.trace, ""]))
sys.stdout.write(f"{failed} of {last + 1 - first} seeds failed\n")
sys.exit(bool(failed))
