"""What is installed here, what is wrong with it, and the cure: the facts behind ``aiovec doctor``.

A backend's package adds its own: a function of the entry-point group ``aiovec.doctors``, under the
backend's name, that takes a target (None for none) and gives ``Finding``s. It opens nothing for
writing and raises nothing: what it cannot find out is a finding too.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .._plugins import EXTRAS, installed, installed_backends

_GROUP = "aiovec.doctors"

# Below this the next larger write may fail, and optimize or a backup will.
_LEAST_ROOM = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. Where it is not ``ok``, ``cure`` says what to do about it."""

    subject: str
    value: str
    ok: bool = True
    cure: str | None = None


Doctor = Callable[[str | None], Sequence[Finding]]
"""What an entry point of the group names."""


def examine(backend: str | None = None, target: str | None = None) -> list[Finding]:
    """The findings about Python, the packages and every backend that is installed.

    A ``target`` is examined by the doctor of its ``backend``.
    """
    findings = [
        Finding("python", f"{platform.python_implementation()} {platform.python_version()}"),
        Finding("platform", f"{sys.platform} {platform.machine()}"),
        version_of("aiovec"),
        version_of("numpy"),
        version_of("pyarrow"),
    ]
    doctors = installed(_GROUP)
    if not doctors:
        findings.append(
            Finding(
                "backends",
                "none is registered",
                ok=False,
                cure="install aiovec with pip; its sources alone on the path name no backend",
            )
        )
    if backend is not None and backend not in installed_backends():
        what = EXTRAS.get(backend, backend)
        findings.append(
            Finding(
                "backend",
                f"{backend!r} is what the store needs, and it is not installed",
                ok=False,
                cure=f'pip install "{what}"',
            )
        )
    for name, entry_point in doctors.items():
        try:
            doctor: Doctor = entry_point.load()
            findings += doctor(target if name == backend else None)
        except Exception as exc:  # noqa: BLE001 - one broken backend must not hide the others
            findings.append(
                Finding(
                    name,
                    f"{type(exc).__name__}: {exc}",
                    ok=False,
                    cure="reinstall the package that brings this backend",
                )
            )
    return findings


def version_of(distribution: str) -> Finding:
    """The installed version of a distribution."""
    try:
        return Finding(distribution, metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(distribution, "not installed", ok=False, cure=f"pip install {distribution}")


def room_at(folder: Path, why: str) -> Iterator[Finding]:
    """Whether there is room at a folder, or where it would be made, and the right to write there.

    ``why`` says what writes there.
    """
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        yield Finding(
            "folder",
            f"{folder}: this user cannot write here",
            ok=False,
            cure=f"give this user the right to write there: {why}",
        )
    free = shutil.disk_usage(folder).free
    yield Finding(
        "free space",
        f"{free:,} bytes",
        ok=free >= _LEAST_ROOM,
        cure=None if free >= _LEAST_ROOM else f"make room on the volume of {folder}",
    )
