"""The embedders of the TOML file in ``aiovec doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .._model.redaction import redacted
from ..backend.doctor import Finding
from .openai import key_name_of
from .registry import made

if TYPE_CHECKING:
    from ..backend.embedders import EmbedderSettings

_PACKAGES = {
    "openai": "aiohttp",
    "fastembed": "fastembed",
    "sentence-transformers": "sentence_transformers",
}


def findings_of_embedders(embedders: Mapping[str, EmbedderSettings]) -> Iterator[Finding]:
    """Yield a finding for each embedder. No text is embedded, and no key is shown."""
    for name, settings in sorted(embedders.items()):
        yield _finding(name, settings)


def _finding(name: str, settings: EmbedderSettings) -> Finding:
    subject = f"embedder {name}"
    try:
        embedder = made(name, settings)
    except Exception as exc:  # noqa: BLE001 - an app's module may raise anything when imported
        cure = f"correct [retrieval.embedders.{name}] in the TOML file, or the module it names"
        return Finding(subject, f"{settings.kind}: {redacted(str(exc))}", ok=False, cure=cure)
    value = f"{settings.kind}, {embedder.model}, {embedder.dim} dimensions"
    package = _PACKAGES.get(settings.kind)
    if package is not None and not _is_installed(package):
        return Finding(
            subject,
            f"{value}: the package {package} is not installed",
            ok=False,
            cure=f'pip install "aiovec[{settings.kind}]"',
        )
    if settings.kind == "openai":
        value += f", at {redacted(settings.base_url)}"
        key = key_name_of(settings)
        if not key:
            value += ", without a key"
        elif os.environ.get(key):
            value += f", {key} is set"
        else:
            fault = f"{value}: the environment variable {key} holds no key"
            return Finding(subject, fault, ok=False, cure=f"set {key}, or name another api_key_env")
    return Finding(subject, value)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it stands in sys.modules as one that must not be imported
        return False
