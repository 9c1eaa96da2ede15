"""The settings: a TOML file, and the environment over it.

The models of the sections give each key's default, bounds and meaning, once.
``scripts/settings.py`` writes the sample, the JSON Schema and the tables of the docs from them.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ValidationError, create_model
from pydantic import Field as PydanticField

from .._model.redaction import names_secret
from .._model.schema import MAX_DIM
from ..errors import ConfigError, did_you_mean, shown
from .embedders import EmbedderName, EmbedderSettings
from .paths import local_path
from .plugin import BackendPlugin, backend_names, backends
from .server import ServerSettings
from .settings import AnySettings, Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# Parts of variable names, in lower case, since their case does not matter.
_PREFIX, _ROOT, _LIKE_ROOT, _DELIMITER = "aiovec_", "aiovec_retrieval", "aiovec_retr", "__"
_OF_CHOICES = ("literal_error", "value_error")  # errors of a value from a fixed list
# By the prefix of pydantic's error type, since its own words are for programmers.
_ACCEPTED = {
    "int_": "a whole number", "float_": "a number", "bool_": "true or false",
    "string_type": "text", "list_type": "a list",
}  # fmt: skip
_ADDRESS = "an address that begins with http:// or https://"

_Model = TypeVar("_Model", bound=BaseModel)


def _known_backend(value: object) -> object:
    if value not in backend_names():
        raise ValueError(f"one of {', '.join(backend_names())}")
    return value


class RetrievalSettings(Section):
    """The backend in use, and for each installed backend where it stores and its section.

    ``retrieval_model`` adds the keys of the installed backends.
    """

    backend: Annotated[str, BeforeValidator(_known_backend)] = "sqlite"
    """The name of the backend in use; it must be installed.

    Change it to use another backend; it takes effect when a store is opened from this file."""

    dim: int = PydanticField(default=768, ge=1, le=MAX_DIM)
    """Length of the vectors in tables that are created without a schema."""

    server: ServerSettings = PydanticField(
        default_factory=ServerSettings.defaults, description=ServerSettings.__doc__
    )
    embedders: dict[EmbedderName, EmbedderSettings] = PydanticField(
        default_factory=dict,
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
    """Embedders make the vectors of the tables whose schema has embed. Each is a section by the
    name that schemas use; docs/reference/configuration.md lists its keys.
    For example, with Ollama:"""


def retrieval_model() -> type[RetrievalSettings]:
    """Return the model of ``[retrieval]`` with the keys of the installed backends."""
    return document_model().model_fields["retrieval"].annotation  # type: ignore[return-value]


def document_model() -> type[Section]:
    """Return the model of a TOML file."""
    return _document_model(backends())


@lru_cache(maxsize=16)
def _document_model(plugins: tuple[BackendPlugin, ...]) -> type[Section]:
    fields: dict[str, Any] = {}
    sections = {}
    for plugin in plugins:
        if plugin.address_key:
            fields[plugin.address_key] = (str, plugin.address_field)
        if plugin.settings is not AnySettings or not plugin.address_key:  # else no section
            sections[plugin.name] = plugin.settings
    for name, model in sections.items():
        field = PydanticField(default_factory=model.defaults, description=model.__doc__)
        fields[name] = (model, field)
    retrieval = create_model("RetrievalSettings", __base__=RetrievalSettings, **fields)
    retrieval.__doc__ = RetrievalSettings.__doc__
    return create_model(
        "Document",
        __base__=Section,
        retrieval=(retrieval, PydanticField(default_factory=retrieval.defaults)),
    )


def load_settings(config: Path | None, *, environment: bool = True) -> RetrievalSettings:
    """Return the settings of a TOML file, if any, overridden by the ``environment`` if true.

    Addresses of backends are not resolved. Raises ConfigError if a key or a value is wrong. With
    neither file nor variables, the backends' sections are missing: their defaults hold.
    """
    variables = _variables() if environment else {}
    if config is None and not variables:
        return RetrievalSettings.defaults()
    document: dict[str, Any] = {}
    model = document_model()
    if config is not None:
        document = _read(config)
        # Strict, since TOML has types; only texts of the environment are converted.
        settings = _validated(model, document, strict=True, place=str(config))
    if variables:
        settings = _validated(model, _merged(document, variables), strict=False)
    retrieval: RetrievalSettings = settings.retrieval  # type: ignore[attr-defined]
    server = retrieval.server
    if config is not None and server.api_keys_file:
        keys = local_path(server.api_keys_file, Path(os.path.abspath(config)).parent)
        server = server.model_copy(update={"api_keys_file": keys})
        retrieval = retrieval.model_copy(update={"server": server})
    return retrieval


def embedder_section(name: str, given: Mapping[str, object], place: str) -> EmbedderSettings:
    """Return the section of an embedder with keys from a ``place``, such as a file or an argument.

    The keys are those of ``[retrieval.embedders.<name>]``. Raises ConfigError if one is wrong.
    """
    within = ("retrieval", "embedders", name)
    return _validated(EmbedderSettings, dict(given), strict=True, place=place, within=within)


def _variables() -> dict[str, Any]:
    """Return the settings of the environment as nested mappings; sections and lists are JSON.

    A key's own variable takes precedence over that of its section. Raises ConfigError for an almost
    correct name, which would be ignored; other variables, such as an app's own, are accepted.
    """
    values: dict[str, Any] = {}
    for name in sorted(filter(os.environ.get, os.environ), key=lambda name: name.count(_DELIMITER)):
        root, *path = name.lower().split(_DELIMITER)
        if root != _ROOT:
            if root.startswith(_LIKE_ROOT):
                right = f"{_ROOT.upper()}{_DELIMITER}..."
                raise ConfigError(
                    f"environment: {name} is unknown; the variables are {right}, with two "
                    "underscores between sections and keys",
                    key=name, accepted=right,
                )  # fmt: skip
            continue
        path.insert(0, root.removeprefix(_PREFIX))
        value: Any = os.environ[name]
        if value.lstrip().startswith(("{", "[")) and _type_of(document_model(), path) is not str:
            with suppress(ValueError, RecursionError):  # the validation refuses the text
                value = json.loads(value)
        for part in reversed(path):
            value = {part: value}
        values = _merged(values, value)
    return values


def _type_of(model: type[BaseModel], path: Sequence[str]) -> Any:
    """Return the type of a key; None if no model declares it."""
    kind: Any = model
    for part in path:
        fields = getattr(kind, "model_fields", None)
        if fields is None:  # a mapping of names, or of no type at all
            kind = next(reversed(get_args(kind)), None)
        else:
            kind = fields[part].annotation if part in fields else None
    return kind


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _validated(
    model: type[_Model],
    values: Mapping[str, Any],
    *,
    strict: bool,
    place: str = "environment",
    within: Sequence[str] = (),
) -> _Model:
    """Return the model of values that come from a ``place``: a file, or the environment.

    ``within`` is the path of the section with the values.
    """
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as exc:
        faults = exc.errors(include_url=False)
    # Raised outside the handler: pydantic's error holds every value, so it must not be the context.
    fault = faults[0]
    inner = [str(part) for part in fault["loc"] if part != "[key]"]
    path = [*within, *inner]
    key = ".".join(path)
    accepted = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "extra_forbidden":
        accepted, message = _unknown_key(model, inner)
    else:
        accepted = next((_ACCEPTED[kind] for kind in _ACCEPTED if fault["type"].startswith(kind)),
                        accepted)  # fmt: skip
        if _is_of_address(fault):
            accepted = _ADDRESS
        if fault["type"] in ("model_type", "dict_type"):
            accepted = "a section" + (", or { key = value }" if strict else " as a JSON object")
        message = accepted if accepted.startswith("String ") else f"must be {accepted}"
        value = _shown(path, fault)
        message += value
        if value and fault["type"] == "list_type" and isinstance(fault["input"], str):
            message += f"; write {json.dumps([fault['input']])}"
    if place == "environment":
        key = _DELIMITER.join([_ROOT, *path[1:]]).upper()
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    file = place if strict and not within else None
    raise ConfigError(f"{place}: {key}: {message}{more}", file=file, key=key, accepted=accepted)


def _unknown_key(model: type[BaseModel], path: Sequence[str]) -> tuple[str, str]:
    """Return the known keys, and a message with them and the most similar one."""
    kind = _type_of(model, path[:-1])
    known = list(kind.model_fields)
    homes = " or ".join(
        f"[retrieval.{name}]"
        for name, field in kind.model_fields.items()
        if path[-1] in getattr(field.annotation, "model_fields", ())
    )
    if homes and issubclass(kind, RetrievalSettings):
        return homes, f"is not a key of [retrieval]; it belongs to {homes}"
    hint = did_you_mean(path[-1].lower(), known)
    accepted = ", ".join(known)
    if cure := getattr(kind, "former", {}).get(path[-1].lower()):
        return accepted, f"is no longer a key; {cure}"
    return accepted, f"is not a known key{hint} (the known keys: {accepted})"


def _shown(path: Sequence[str], fault: ErrorDetails) -> str:
    """Return the wrong value for a message, unless it may be or contain a secret."""
    value = fault["input"]
    plain = isinstance(value, (bool, int, float)) or fault["type"] in _OF_CHOICES
    plain |= fault["type"].startswith(("int_", "float_", "bool_", "list_"))
    plain |= _is_of_address(fault) and not set("@?#") & set(str(value))
    if not plain or "storage_options" in path or names_secret(path[-1]):
        return ""
    return f", not {str(value).lower() if isinstance(value, bool) else shown(value, 80)}"


def _is_of_address(fault: ErrorDetails) -> bool:
    """Return whether a text is not an HTTP address, which its key needs."""
    return str(fault.get("ctx", {}).get("pattern")).startswith("^https?:")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        if isinstance(exc, PermissionError) and file.is_dir():  # as Windows reports it
            reason = "is a directory"
        raise ConfigError(f"{file}: cannot be read: {reason}", file=str(file)) from exc
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
