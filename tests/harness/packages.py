"""Packages of others, installed for one test: their entry points, and modules beside them."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, name: str, entry_points: str, **modules: str) -> Path:
    """Write into a folder what pip writes for a package; return the folder.

    The folder has to be on the path of the process. ``entry_points`` is as in ``entry_points.txt``,
    and ``modules`` are sources by the names of their modules.
    """
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"{entry_points}\n")
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source, encoding="utf-8")
    return site
