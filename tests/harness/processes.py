"""Run other Python processes of the same environment in the repository's root."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start another Python process with these arguments."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, text=True, encoding="utf-8", **options
    )


def run_python(
    *arguments: object, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run another Python process to completion, with ``env`` added to its environment."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **(env or {})},
        capture_output=True, text=True, encoding="utf-8", timeout=timeout, check=False,
    )  # fmt: skip


def output_of(*arguments: object, env: Mapping[str, str] | None = None, **options: Any) -> str:
    """Run another Python process, which must succeed, and return its standard output."""
    done = run_python(*arguments, env=env, **options)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


async def start_code(code: str, *arguments: str) -> asyncio.subprocess.Process:
    """Run code in another Python process, and return the process once it has printed a line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline(), "the process ended before its first line"
    return process
