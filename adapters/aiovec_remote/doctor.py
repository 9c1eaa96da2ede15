"""The findings of ``aiovec doctor`` about the remote backend: its package, and one server."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from aiovec._http.autostart import SharedFolder
from aiovec.backend.doctor import Finding, version_of

from .settings import SCHEME

_CURE = 'pip install "aiovec[remote]"'
# Seconds until the server has to answer.
_PATIENCE = 5.0
_LONGEST = 10_000


def findings(address: str | None) -> list[Finding]:
    """Return the facts about the package and, where an address is given, about its server."""
    package = version_of("aiohttp")
    if address is None:
        return [package] if package.ok else []
    if not package.ok:
        return [Finding(package.subject, package.value, ok=False, cure=_CURE)]
    if address.startswith(f"{SCHEME}://"):
        return [package, _of_autostart(Path(address.removeprefix(f"{SCHEME}://")))]
    return [package, _of_server(address)]


def _of_autostart(config: Path) -> Finding:
    """Tell whether the server of a TOML file runs. None is started by the question."""
    folder = SharedFolder(config)
    if folder.address() is not None:
        return Finding("server", f"it runs in {folder.path}, log {folder.log}")
    return Finding("server", "the first connect starts one")


def _of_server(address: str) -> Finding:
    try:
        told = _health(address)
    except (OSError, ValueError) as exc:
        return Finding(
            "server", f"{address}: {exc}"[:300], ok=False,
            cure="start it with: aiovec serve; or correct the address",
        )  # fmt: skip
    facts = (f"{name} {told[name]}" for name in ("status", "backend", "version") if name in told)
    words = ", ".join(facts) or "no aiovec server"
    return Finding("server", f"{address}: {words:.100}", ok=told.get("status") == "ok")


def _health(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/health", timeout=_PATIENCE) as answer:
        told = json.loads(answer.read(_LONGEST))
    if type(told) is not dict:
        raise ValueError("it answers, but is no aiovec server")
    return told
