"""The settings: a TOML file, overridden by the environment.

The sections define each key once: its default, its bounds and its meaning. ``scripts/settings.py``
writes the sample and the JSON Schema from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from .._model.schema import EMBEDDER_NAME, MAX_DIM
from ..errors import ConfigError
from .embedders import EmbedderSettings
from .paths import local_path
from .plugin import KEYS, BackendPlugin, backends
from .server import ServerSettings
from .settings import DELIMITER, ENVIRONMENT, Key, Section, checked, key

# Parts of variable names, in lower case, since their case does not matter.
_PREFIX, _ROOT, _LIKE_ROOT = "aiovec_", "aiovec_retrieval", "aiovec_retr"


class RetrievalSettings(Section):
    """The backend in use, and the address and section of each installed backend.

    ``retrieval_settings`` adds the keys of the installed backends.
    """

    backend: str = "sqlite"
    """The name of the backend in use, which must be installed.

    Change the name to use another backend; stores opened from this file afterwards use that
    backend."""

    dim: int = key(768, at_least=1, at_most=MAX_DIM)
    """Length of the vectors in tables that are created without a schema."""

    server: ServerSettings = ServerSettings()
    embedders: Mapping[str, EmbedderSettings] = key(
        {},
        of=Key(EmbedderSettings()),
        names=EMBEDDER_NAME,
        examples=[
            {
                "default": {
                    "kind": "openai",
                    "base_url": "http://127.0.0.1:11434/v1",
                    "model": "nomic-embed-text",
                    "dim": 768,
                    "query_prefix": "search_query: ",
                    "document_prefix": "search_document: ",
                }
            }
        ],
    )
    """Each embedder has a section with its name, and makes the vectors of the tables whose schema
    names it. For example, with Ollama:"""


def retrieval_settings() -> type[RetrievalSettings]:
    """Return the settings class of ``[retrieval]``, with the keys of the installed backends."""
    return _retrieval_settings(backends())


@lru_cache(maxsize=16)
def _retrieval_settings(plugins: tuple[BackendPlugin, ...]) -> type[RetrievalSettings]:
    names = [plugin.name for plugin in plugins]
    backend = key("sqlite", choices=names, accepted=f"one of {', '.join(names)}")
    addresses = {plugin.address_key: plugin.address_field for plugin in plugins}
    taken = {*KEYS, *addresses}  # a backend with the name of a key has no section
    sections = {plugin.name: plugin.settings() for plugin in plugins if plugin.name not in taken}
    return RetrievalSettings.extended(backend=backend, **addresses, **sections)


def load_settings(config: Path | None, *, environment: bool = True) -> RetrievalSettings:
    """Return the settings of a TOML file, if any; with ``environment``, variables override them.

    Addresses of backends are not resolved. Raises ConfigError if a key or a value is wrong. Without
    a file or variables, the backends' sections are left out, so their defaults apply.
    """
    variables = _variables() if environment else {}
    if config is None and not variables:
        return RetrievalSettings()
    document = {} if config is None else _read(config)
    whole = _document()
    if config is not None:  # without conversions, since TOML has types
        settings = checked(whole, document, (), str(config), str(config))
    if variables:
        settings = checked(whole, _merged(document, variables), (), ENVIRONMENT)
    retrieval: RetrievalSettings = settings.retrieval
    if config is None:
        return retrieval
    folder, server = Path(os.path.abspath(config)).parent, retrieval.server
    if server.api_keys_file:
        keys = local_path(server.api_keys_file, folder)
        retrieval = retrieval.changed(server=server.changed(api_keys_file=keys))
    embedders = {**retrieval.embedders}
    for name, section in embedders.items():
        if section.kind == "onnx" and section.model and not section.model.startswith("package:"):
            embedders[name] = section.changed(model=local_path(section.model, folder))
    return retrieval.changed(embedders=embedders)


def embedder_section(name: str, given: Mapping[str, object], source: str) -> EmbedderSettings:
    """Return the section of an embedder with keys from a ``source``, such as a file or an argument.

    The keys are the same as in ``[retrieval.embedders.<name>]``. Raises ConfigError if one is
    wrong.
    """
    path = ("retrieval", "embedders", name)
    section: EmbedderSettings = checked(Key(EmbedderSettings()), given, path, source)
    return section


def _document() -> Key:
    """Return the key that describes the whole TOML file."""
    return Key(Section.extended(retrieval=retrieval_settings()())())


def _variables() -> dict[str, Any]:
    """Return the environment's settings as nested mappings; sections and lists are JSON.

    A key's own variable takes precedence over its section's variable. Raises ConfigError for an
    almost correct name; ignores other variables, such as the app's.
    """
    values: dict[str, Any] = {}
    for name in sorted(filter(os.environ.get, os.environ), key=lambda name: name.count(DELIMITER)):
        root, *path = name.lower().split(DELIMITER)
        if root != _ROOT:
            if root.startswith(_LIKE_ROOT):
                raise ConfigError(
                    f"environment: {name} is unknown; the variables are {_ROOT.upper()}"
                    f"{DELIMITER}..., with two underscores between sections and keys",
                    key=name,
                )
            continue
        path.insert(0, root.removeprefix(_PREFIX))
        value: Any = os.environ[name]
        if value.lstrip().startswith(("{", "[")) and not _is_text(path):
            with suppress(ValueError, RecursionError):  # the check refuses the text
                value = json.loads(value)
        for part in reversed(path):
            value = {part: value}
        values = _merged(values, value)
    return values


def _is_text(path: list[str]) -> bool:
    """Return whether the key with this path holds text."""
    key: Key | None = _document()
    for part in path:
        key = key and key.inner(part)
    return key is not None and isinstance(key.default, str)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = _merged(below, value)
        merged[name] = value
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        if isinstance(exc, PermissionError) and file.is_dir():  # as Windows reports it
            reason = "is a directory"
        raise ConfigError(f"{file}: cannot be read: {reason}", file=str(file)) from exc
    import tomllib  # only in processes that read a file

    try:
        # Some Windows editors write a byte order mark, which TOML does not allow.
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        problem = f"is not UTF-8 text (line {line})"
    except ValueError as exc:
        problem = f"is not TOML: {exc}"
        problem += "; a text needs quotes" if "Invalid value" in problem else ""
    except RecursionError:
        problem = "is nested too deeply"
    # Raised outside the handlers, so that no error that holds the text is its cause or context.
    raise ConfigError(f"{file}: {problem}", file=str(file))
