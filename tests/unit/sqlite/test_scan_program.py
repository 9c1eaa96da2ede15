"""The native scan as a program of its own: under sanitizers, and on an emulated processor."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.unit.sqlite.scans import (
    PARTS,
    check_measured,
    packed,
    random_case,
    random_pairs,
    random_words,
    unpacked,
)

from aiovec_sqlite.copies.kernel.build import SOURCE
from aiovec_sqlite.copies.kernel.library import KINDS

DRIVER = Path(__file__).with_name("scan_driver.c")
SANITIZERS = ("address,undefined", "thread")


def compiled(compiler: str, to: Path, *flags: str) -> Path:
    """Compile the driver, or skip where the machine has no such compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} on this machine")
    command = [compiler, "-std=c11", *flags, "-I", str(SOURCE.parent), "-o", str(to), str(DRIVER)]
    command += ["-lm", "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return to


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = (f"-fsanitize={request.param}", "-fno-sanitize-recover=all", "-g", "-O1")
    return compiled("gcc", tmp_path_factory.mktemp("sanitized") / "driver", *flags)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("there is no qemu-aarch64 on this machine")
    to = tmp_path_factory.mktemp("emulated") / "driver"
    return [emulator, str(compiled("aarch64-linux-gnu-gcc", to, "-O3", "-static"))]


async def output_of(command: list[str], given: bytes) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, said = await process.communicate(given)
    return process.returncode, output, said


async def check(command: list[str], kind: str, seeds: range) -> None:
    """Let the program answer random cases; skip where its processor has no such instructions."""
    # In a thread, since the library that takes codes apart is read from the disk.
    cases = await asyncio.to_thread(
        lambda: [random_case(np.random.default_rng(seed)) for seed in seeds]
    )
    end = (-1).to_bytes(8, "little", signed=True)
    code, output, said = await output_of(command, end)
    assert code == 0, said.decode()
    if not int.from_bytes(output, "little") >> KINDS[kind] & 1:
        pytest.skip(f"the processor has no {kind}")
    given = b"".join(
        packed(case, KINDS[kind], PARTS[seed % len(PARTS)])
        for seed, case in zip(seeds, cases, strict=True)
    )
    given += end
    code, output, said = await output_of(command, given)
    assert code == 0, said.decode()
    _, answers = unpacked(output, cases)
    for seed, case, near in zip(seeds, cases, answers, strict=True):
        try:
            check_measured(case, near)
        except AssertionError as exc:
            exc.add_note(f"seed {seed}")
            raise


async def check_distances(command: list[str], seeds: range) -> None:
    cases = [random_pairs(np.random.default_rng(seed)) for seed in seeds]
    given = b"".join(case.packed() for case in cases) + (-1).to_bytes(8, "little", signed=True)
    code, output, said = await output_of(command, given)
    assert code == 0, said.decode()
    measured = np.frombuffer(output[8:], dtype="<f8")  # behind the kinds of the processor
    wanted = np.concatenate([case.by_numpy() for case in cases])
    assert np.array_equal(measured, wanted, equal_nan=True)


async def check_words(command: list[str], seeds: range) -> None:
    cases = [random_words(np.random.default_rng(seed)) for seed in seeds]
    given = b"".join(case.packed() for case in cases) + (-1).to_bytes(8, "little", signed=True)
    code, output, said = await output_of(command, given)
    assert code == 0, said.decode()
    at = 8  # behind the kinds of the processor
    for seed, case in zip(seeds, cases, strict=True):
        count = int.from_bytes(output[at : at + 8], "little")
        rows = np.frombuffer(output, "<u4", count, at + 8)
        scores = np.frombuffer(output, "<f8", count, at + 8 + 4 * count)
        at += 8 + 12 * count
        try:
            case.check(rows, scores)
        except AssertionError as exc:
            exc.add_note(f"seed {seed}")
            raise


@pytest.mark.soak(minutes=1)
async def test_words_under_sanitizers_are_brute_forces(sanitized: Path) -> None:
    for start in range(0, 10_000, 1_000):
        await check_words([str(sanitized)], range(start, start + 1_000))


@pytest.mark.soak(minutes=2)
async def test_distances_under_sanitizers_are_numpys(sanitized: Path) -> None:
    for start in range(0, 20_000, 1_000):
        await check_distances([str(sanitized)], range(start, start + 1_000))


@pytest.mark.soak(minutes=3)
@pytest.mark.parametrize("kind", KINDS)
async def test_scans_under_sanitizers_find_the_nearest(sanitized: Path, kind: str) -> None:
    for start in range(0, 20_000, 1_000):
        await check([str(sanitized)], kind, range(start, start + 1_000))


@pytest.mark.soak(minutes=5)
async def test_scans_are_right_on_an_emulated_processor(emulated: list[str]) -> None:
    """Instructions that this machine lacks are tried where Debian's emulator is installed."""
    await check_distances(emulated, range(60))
    await check_words(emulated, range(200))
    for kind in ("portable", "neon"):
        await check(emulated, kind, range(60))
