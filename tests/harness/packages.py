"""Install a third-party package for one test: its entry points and its modules."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, name: str, entry_points: str, **modules: str) -> Path:
    """Write the files of an installed package into a folder, as pip does; return the folder.

    The folder must be on the path of the process. ``entry_points`` is the text of
    ``entry_points.txt``, and ``modules`` has the source of each module by name.
    """
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"{entry_points}\n")
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source, encoding="utf-8")
    return site
