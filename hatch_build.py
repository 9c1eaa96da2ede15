"""Build steps: compile the native scan, and make the README's links absolute for the registry.

Without a compiler, the wheel has only Python, and searches work without the scan. The environment
variable ``AIOVEC_NATIVE=require``, which releases set, makes that an error, and
``AIOVEC_NATIVE=off`` leaves the scan out.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

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
        if version == "editable":  # the library is already in its place
            return
        # The shared library does not use Python's API, so it fits all Pythons of a platform.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        to = Path("aiovec_sqlite", "copies", "kernel", library.name)
        build_data["force_include"][str(library)] = to.as_posix()


class Addresses(MetadataHookInterface):
    """The project's URLs, and the README with links that work on the registry's page."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        project = tomllib.loads(Path(root, "pyproject.toml").read_text("utf-8"))
        repository = project["tool"]["aiovec"]["repository"]
        metadata["urls"] = urls(repository)
        text = Path(root, "README.md").read_text("utf-8")
        text = absolute(text, repository, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def urls(repository: str) -> dict[str, str]:
    """Return the URLs of a project on GitHub, with its documentation on GitHub Pages."""
    owner, name = repository.rsplit("/", 2)[1:]
    pages = f"https://{owner}.github.io/{name}/"
    return {
        "Homepage": repository,
        "Documentation": pages,
        "Source": repository,
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def absolute(text: str, repository: str, tag: str) -> str:
    """Return the Markdown with its relative links and pictures pointing to the files of a tag."""
    raw = repository.replace("//github.com/", "//raw.githubusercontent.com/")

    def link(match: re.Match[str]) -> str:
        base = f"{raw}/{tag}" if match["image"] else f"{repository}/blob/{tag}"
        return f"{match['image']}[{match['text']}]({base}/{match['target']})"

    relative = r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?![a-z]+:|#)(?P<target>[^)\s]+)\)"
    return re.sub(relative, link, text)


def _load(path: Path) -> Any:
    """Load the module at a path: the package itself may not be importable while it is built."""
    spec = importlib.util.spec_from_file_location("aiovec_kernel_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
