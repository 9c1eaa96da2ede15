"""A process that is forked is for its test what one that is started is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

LOOK = """
import json, os, sys
files = [f"/proc/self/fd/{n}" for n in range(50)]
pipes = [os.readlink(file)[:5] for file in files if os.path.lexists(file)].count("pipe:")
print(json.dumps({
    "argv": sys.argv, "folder": os.getcwd(), "parent": os.getppid(),
    "variable": os.environ.get("AIOVEC_LOOK"), "given": sys.stdin.read(),
    "forked": "tests.forked" in sys.modules, "pipes": pipes,
}))
print("told", file=sys.stderr)
sys.exit(3)
"""


def looked(start: Any, folder: Path, **more: str) -> tuple[dict[str, Any], str, int]:
    process = start(
        [sys.executable, "-c", LOOK, "one", "é"], cwd=folder, stdin=-1, stdout=-1, stderr=-1,
        text=True, env={**os.environ, "AIOVEC_LOOK": "yes", **more},
    )  # fmt: skip
    out, told = process.communicate("given\n", timeout=60)
    return json.loads(out), told, process.returncode


def test_it_has_what_a_started_one_has(tmp_path: Path) -> None:
    found, told, code = looked(forked.Popen, tmp_path)
    wanted, *others = looked(subprocess.Popen, tmp_path)
    assert (found.pop("forked"), wanted.pop("forked")) == (True, False)
    assert found == wanted
    assert [told, code] == others
    assert found["parent"] == os.getpid()


# A signal that comes just before a sleep does not shorten it.
ASLEEP = "import time; print(1, flush=True)\nwhile True: time.sleep(0.05)"


def test_a_signal_ends_it() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = forked.Popen(
            [sys.executable, "-c", ASLEEP],
            stdout=-1, stderr=-1,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -number
        assert errors.endswith(b"KeyboardInterrupt\n") is (number == signal.SIGINT)


def test_one_with_another_environment_of_the_interpreter_is_started(tmp_path: Path) -> None:
    found, _, code = looked(forked.Popen, tmp_path, PYTHONUTF8="1")
    assert (found["forked"], code) == (False, 3)
    done = forked.run([sys.executable, "-I", "-c", "print(1)"], capture_output=True, check=True)
    assert done.stdout == b"1\n"


def test_a_module_runs_as_the_main_one() -> None:
    done = forked.run(
        [sys.executable, "-m", "json.tool", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: " in done.stdout
    done = forked.run([sys.executable, "-m", "no_such_module"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No module named no_such_module" in done.stderr
