"""A mixed load holds no more resources after an hour than after 15 minutes, on every backend."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.cases import Seeds, case
from tests.harness.processes import python
from tests.harness.scripts import KINDS, target_in

# The first rounds fill caches and start threads; a round takes a minute.
WARM, ROUNDS, SECONDS = 15, 60, 60
LEAST = 4  # rounds, also with --minutes
MORE = {"descriptors": 10, "threads": 10, "private": 64}  # MiB
# LanceDB reads each file in a thread of Tokio, which ends after ten idle seconds.
TOKIO = 200


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors and threads are read in /proc")
@pytest.mark.soak(minutes=ROUNDS)
@pytest.mark.timeout(2 * ROUNDS * SECONDS)
def test_a_long_run_holds_no_more_and_more(tmp_path: Path, seeds: Seeds) -> None:
    """Descriptors, threads and private memory do not grow, and no removed file stays open."""
    processes = {
        kind: python(
            "-m", "tests.faults.mixed_load", target_in(tmp_path, kind),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for kind in KINDS
    }  # fmt: skip
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for seed in itertools.chain(range(LEAST), seeds(ROUNDS - LEAST)):
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.write(f"{seed} {SECONDS}\n")
            process.stdin.flush()
        for kind, process in processes.items():
            assert process.stdout is not None
            lines[kind].append(process.stdout.readline())
    for kind, process in processes.items():
        rest, _ = process.communicate(timeout=10 * SECONDS)
        assert process.returncode == 0
        begun, *rounds, closed = map(json.loads, [*lines[kind], *rest.splitlines()])
        sys.stdout.write(f"{kind}: {json.dumps([begun, *rounds, closed])}\n")
        with case(kind):
            assert closed["removed"] == 0
            assert closed["descriptors"] <= begun["descriptors"]
            # The only process gets StoreBusyError only if its own writes wait for busy_timeout.
            calls, busy = (sum(each[name] for each in rounds) for name in ("calls", "busy"))
            assert 100 * busy <= calls
            warm = min(WARM, len(rounds) // 2)
            for held, more in MORE.items():
                early = max(each[held] for each in rounds[:warm])
                late = max(each[held] for each in rounds[warm:])
                most = early + more
                if (held, kind) == ("threads", "lancedb"):
                    most = max(most, TOKIO)
                assert late <= most, f"{held}: {late} after {early}"
