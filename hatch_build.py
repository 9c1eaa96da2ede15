"""The build's own step: compile the native scan into the wheel, where there is a compiler.

Without one the wheel holds Python alone, and searches do without the scan. In the environment,
``AIOVEC_NATIVE=require`` makes that an error, as releases want it, and ``AIOVEC_NATIVE=off`` leaves
the scan out.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNEL = Path("adapters", "aiovec_sqlite", "copies", "kernel")


class NativeScan(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wish = os.environ.get("AIOVEC_NATIVE", "")
        if self.target_name != "wheel" or wish == "off":
            return
        builder = _load(Path(self.root, KERNEL, "build.py"))
        try:
            library = builder.build()
        except builder.NoCompilerError as exc:
            if wish == "require":
                raise
            self.app.display_warning(f"aiovec is built without its native scan: {exc}")
            return
        if version == "editable":  # it lies where it is looked for
            return
        # A shared library without Python's API: one for all Pythons of a platform.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        for made in (library, builder.DIGEST):
            to = Path("aiovec_sqlite", "copies", "kernel", made.name)
            build_data["force_include"][str(made)] = to.as_posix()


def _load(path: Path) -> Any:
    """The module at a path: the package itself may not be importable while it is built."""
    spec = importlib.util.spec_from_file_location("aiovec_kernel_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
