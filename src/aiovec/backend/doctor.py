"""The report of ``aiovec doctor``: the installed packages, their faults, and the fixes.

Each backend adds its own findings with ``BackendPlugin.findings``.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from .._tools.lazy_arrow import REINSTALL_ARROW
from .memory import size_text
from .plugin import BackendPlugin, Finding, backends

if TYPE_CHECKING:
    from .place import Place

# With less free space, a large write may fail, and optimize or a backup will fail.
_LEAST_ROOM = 64 * 2**20


def examine(place: Place | None = None) -> list[Finding]:
    """Return the findings about Python, the packages and every installed backend.

    A ``place`` is examined by its backend.
    """
    findings = [
        Finding("python", f"{platform.python_implementation()} {platform.python_version()}"),
        Finding("platform", f"{sys.platform} {platform.machine()}"),
        *map(version_of, ("aiovec", "numpy")),
        _arrow(),
    ]
    installed = backends()
    if not installed:
        fix = "install aiovec with pip; a folder of sources on the path registers no backend"
        findings.append(Finding("backends", "none is registered", ok=False, fix=fix))
    for backend in installed:
        wanted = place is not None and place.backend == backend.name
        try:
            findings += backend.findings(place.address if place and wanted else None)
            if type(backend).findings is BackendPlugin.findings:  # the plugin does not override it
                text = f"installed by {backend.install}"
                findings.append(Finding(backend.name, text, checked=not wanted))
        except Exception as exc:  # noqa: BLE001 - one broken backend must not hide the others
            fix = f'reinstall it: pip install --force-reinstall "{backend.install}"'
            problem = f"{type(exc).__name__}: {exc}"
            findings.append(Finding(backend.name, problem, ok=False, fix=fix))
    return findings


def version_of(distribution: str) -> Finding:
    """Return a finding: the installed version of a distribution, or that it is not installed."""
    try:
        return Finding(distribution, metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(distribution, "not installed", ok=False, fix=f"pip install {distribution}")


def _arrow() -> Finding:
    finding = version_of("pyarrow")
    if not finding.ok:
        # pyarrow is an extra: an installation without it needs no fix.
        missing = 'not installed; pip install "aiovec[arrow]" brings it'
        return Finding("pyarrow", f"{missing}, for Arrow data, data frames and files")
    try:
        import pyarrow as pa  # noqa: F401 - only to check that it works
    except Exception as exc:  # noqa: BLE001 - the report shows every error
        value = f"{finding.value}: {type(exc).__name__}: {exc}"
        return Finding("pyarrow", value, ok=False, fix=REINSTALL_ARROW)
    return finding


def room_at(folder: Path, why: str) -> Iterator[Finding]:
    """Yield findings about the free space and write access of a folder, which need not exist yet.

    ``why`` says which part of aiovec writes there.
    """
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        fix = f"give this user the right to write there: {why}"
        yield Finding("folder", f"{folder}: this user cannot write here", ok=False, fix=fix)
    free = shutil.disk_usage(folder).free
    low = f"make room on the volume of {folder}" if free < _LEAST_ROOM else None
    yield Finding("free space", size_text(free), ok=low is None, fix=low)
