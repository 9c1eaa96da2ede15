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
        value, cure = _value_and_cure(name, settings)
        yield Finding(f"embedder {name}", value, ok=cure is None, cure=cure)


def _value_and_cure(name: str, settings: EmbedderSettings) -> tuple[str, str | None]:
    try:
        embedder = made(name, settings)
    except Exception as exc:  # noqa: BLE001 - an app's module may raise anything when imported
        cure = f"correct [retrieval.embedders.{name}] in the TOML file, or the module it names"
        return f"{settings.kind}: {redacted(str(exc))}", cure
    value = f"{settings.kind}, {embedder.model}, {embedder.dim} dimensions"
    package = _PACKAGES.get(settings.kind)
    if package is not None and not _is_installed(package):
        install = f'pip install "aiovec[{settings.kind}]"'
        return f"{value}: the package {package} is not installed", install
    if settings.kind != "openai":
        return value, None
    value += f", at {redacted(settings.base_url)}"
    key = key_name_of(settings)
    if not key:
        return f"{value}, without a key", None
    if os.environ.get(key):
        return f"{value}, {key} is set", None
    fault = f"{value}: the environment variable {key} holds no key"
    return fault, f"set {key}, or name another api_key_env"


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it stands in sys.modules as one that must not be imported
        return False
