"""The settings: a TOML file, and the environment over it.

The models of the sections say each key's default, bounds and meaning, once. The files that explain
them to people and to editors are written from the models: see ``generate``.
"""

from __future__ import annotations

import inspect
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic import Field as PydanticField
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .._model.redaction import without_secrets
from .._model.schema import MAX_DIM
from ..errors import ConfigError
from .embedders import EmbedderName, EmbedderSettings
from .explain import check_environment, config_error, environment_name
from .locate import local_path
from .plugins import backend_names, backends, plugins
from .server import ServerSettings
from .settings import AnySettings, BackendSettings, Quiet, Section

if TYPE_CHECKING:
    from .plugin import BackendPlugin

ENV_PREFIX = "AIOVEC_"
ENV_DELIMITER = "__"


def _known_backend(value: str) -> str:
    if value not in backend_names():
        raise PydanticCustomError("backend", "no backend has this name")
    return value


class RetrievalSettings(Quiet):
    """The backend in use, and for each installed backend where it stores and its section.

    ``retrieval_model`` adds the keys of the installed backends.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Any] = PydanticField(init=False)

    backend: Annotated[str, AfterValidator(_known_backend)] = PydanticField(
        default="sqlite",
        description="The name of the backend in use; it must be installed.\n"
        "Changing this line is the whole switch: stores opened from this file follow it.",
    )
    dim: int = PydanticField(
        default=768,
        ge=1,
        le=MAX_DIM,
        description="Length of the vectors in tables that are created without a schema.",
    )
    server: ServerSettings = PydanticField(
        default_factory=ServerSettings, description=ServerSettings.__doc__
    )
    embedders: dict[EmbedderName, EmbedderSettings] = PydanticField(
        default_factory=dict,
        description="Embedders make the vectors of the tables whose schema has embed. Each is a "
        "section by the name that schemas use; docs/CONFIGURATION.md lists its keys. For example, "
        "with Ollama:",
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

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        # The section of a backend that cannot be loaded is kept: another one may be in use.
        unknown = sorted(set(value) - set(cls.model_fields), key=str)
        if unknown:
            kept = {backend.name for backend in backends() if backend.plugin is None}
            unknown = [name for name in unknown if name not in kept]
        if unknown:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(type="extra_forbidden", loc=(name,), input=value[name])
                    for name in unknown
                ],
            )
        return value

    def section(self, backend: str) -> Mapping[str, Any]:
        """Return the keys of ``[retrieval.<backend>]``; empty if there is no such section."""
        found = getattr(self, backend, None)
        if isinstance(found, BaseModel):
            return found.model_dump()
        return found if isinstance(found, dict) else {}

    def of(self, plugin: BackendPlugin) -> BackendSettings:
        """Return the settings of a backend."""
        model = settings_model(plugin)
        found = getattr(self, plugin.name, None)
        return found if isinstance(found, model) else model.model_validate(found or {})

    def address(self, plugin: BackendPlugin) -> str:
        """Return where the backend stores, as it is written in the TOML."""
        key = plugin.address_key
        if key is not None:
            return str(getattr(self, key.name, key.default))
        return str(self.section(plugin.name).get("url", ""))


def settings_model(plugin: BackendPlugin) -> type[BackendSettings]:
    """Return the model of a backend's section; one that accepts every key if it has none."""
    return getattr(plugin, "settings", AnySettings)


def retrieval_model() -> type[RetrievalSettings]:
    """Return the model of ``[retrieval]`` with the keys of the installed backends."""
    return _retrieval_model(tuple(plugins()))


@lru_cache(maxsize=16)
def _retrieval_model(installed: tuple[BackendPlugin, ...]) -> type[RetrievalSettings]:
    fields: dict[str, Any] = {}
    for plugin in installed:
        key = plugin.address_key
        if key is not None:
            about = {"min_length": 1} if key.pattern is None else {"pattern": key.pattern}
            fields[key.name] = (
                str,
                PydanticField(default=key.default, description=key.description, **about),
            )
    for plugin in installed:
        model = settings_model(plugin)
        if model is AnySettings and plugin.address_key is not None:
            continue  # it has no section
        fields[plugin.name] = (
            model,
            PydanticField(default_factory=model, description=model.__doc__),
        )
    made = create_model("RetrievalSettings", __base__=RetrievalSettings, **fields)
    made.__doc__ = RetrievalSettings.__doc__
    return made


@lru_cache(maxsize=16)
def _document_model(retrieval: type[RetrievalSettings]) -> type[Section]:
    """Return the model of a TOML file."""
    return create_model(
        "Document",
        __base__=Section,
        retrieval=(retrieval, PydanticField(default_factory=retrieval)),
    )


class Settings(BaseSettings):
    """All settings. Built without arguments, they are what the environment says."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    retrieval: RetrievalSettings = PydanticField(default_factory=RetrievalSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # What is passed in comes from the TOML file, and the environment overrides that.
        return env_settings, init_settings


@lru_cache(maxsize=16)
def _settings_model(retrieval: type[RetrievalSettings]) -> type[Settings]:
    return create_model(
        "Settings",
        __base__=Settings,
        retrieval=(retrieval, PydanticField(default_factory=retrieval)),
    )


Stamp = tuple[int, int, int, int]
"""Figures that change when a file is written or replaced."""


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def stamp_of(file: Path) -> Stamp | None:
    """The stamp of a file as it is now; None where it cannot be reached."""
    try:
        return _stamp(file.stat())
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, the file they came from, and its stamp when it was read."""

    settings: Settings
    file: Path | None
    stamp: Stamp | None


def load_settings(config: Path | None) -> LoadedSettings:
    """The settings of a TOML file, or of none, with the environment over them.

    Relative paths count from the file's folder; without a file, from the current folder. So do
    those that the environment gives. A fault raises ConfigError.
    """
    check_environment(ENV_PREFIX, _variables())
    document: dict[str, Any] = {}
    stamp = None
    if config is not None:
        document, stamp = _read(config)
    settings = _validated(document, config)
    retrieval = settings.retrieval
    if config is not None or _has_current_folder():
        base = None if config is None else Path(os.path.abspath(config)).parent
        keys = [plugin.address_key.name for plugin in plugins() if plugin.address_key is not None]
        places: dict[str, object] = {key: local_path(getattr(retrieval, key), base) for key in keys}
        if key_file := retrieval.server.api_keys_file:
            places["server"] = retrieval.server.model_copy(
                update={"api_keys_file": local_path(key_file, base)}
            )
        given = set(retrieval.model_fields_set)
        retrieval = retrieval.model_copy(update=places)
        retrieval.model_fields_set.intersection_update(given)  # a default stays one
    return LoadedSettings(settings.model_copy(update={"retrieval": retrieval}), config, stamp)


def embedder_section(name: str, given: Mapping[str, object]) -> EmbedderSettings:
    """Return the section of an embedder whose keys an app gave. A fault raises ConfigError."""
    retrieval = retrieval_model()
    try:
        document = {"retrieval": {"embedders": {name: dict(given)}}}
        settings: Any = _document_model(retrieval).model_validate(document, strict=True)
    except ValidationError as exc:
        fault = config_error(exc, json_schema(), place="connect(embedders=...)")
    else:
        section: EmbedderSettings = settings.retrieval.embedders[name]
        return section
    raise fault


def _has_current_folder() -> bool:
    """Return False where it was removed: a store with an absolute path needs none."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _validated(document: dict[str, Any], config: Path | None) -> Settings:
    """The settings of a document. What pydantic raises holds every value, so it is no cause."""
    fault: ConfigError
    retrieval = retrieval_model()
    try:
        if config is not None:
            # Strictly, for TOML has types: only the environment's text is converted.
            _document_model(retrieval).model_validate(document, strict=True)
    except ValidationError as exc:
        fault = config_error(exc, json_schema(), file=config)
    else:
        try:
            return _settings_model(retrieval)(**document)
        except ValidationError as exc:
            fault = config_error(exc, json_schema(), prefix=ENV_PREFIX)
        except SettingsError as exc:
            fault = _not_json(exc)
    raise fault


def _variables() -> list[str]:
    """The environment variables that are read, those of whole sections too."""
    names = [["retrieval"]]
    for name, field in retrieval_model().model_fields.items():
        names.append(["retrieval", name])
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += [["retrieval", name, key] for key in kind.model_fields]
    return [ENV_PREFIX + ENV_DELIMITER.join(path).upper() for path in names]


def _read(file: Path) -> tuple[dict[str, Any], Stamp]:
    try:
        with file.open("rb") as stream:
            # Of the open file and before reading it, so that a change while it is read is seen.
            stamp = _stamp(os.fstat(stream.fileno()))
            content = stream.read()
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        if isinstance(exc, PermissionError) and file.is_dir():  # as Windows says it
            reason = "is a directory"
        raise ConfigError(f"{file}: cannot be read: {reason}", file=str(file)) from exc
    # Outside of the handlers, so that no error that holds the text is a cause or a context.
    fault: ConfigError
    try:
        # Some editors of Windows put a mark before the text, which TOML does not know.
        return tomllib.loads(content.decode("utf-8-sig")), stamp
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        fault = ConfigError(
            f"{file}: is not UTF-8 text (line {line})", file=str(file), accepted="UTF-8"
        )
    except ValueError as exc:
        fault = ConfigError(f"{file}: is not TOML: {exc}", file=str(file))
    except RecursionError:
        fault = ConfigError(f"{file}: is nested too deeply", file=str(file))
    raise fault


def _not_json(error: SettingsError) -> ConfigError:
    """A variable that names a whole section and does not hold it as JSON."""
    accepted = "a JSON object"
    sections = [
        name
        for name, field in retrieval_model().model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]
    for path in (["retrieval"], *(["retrieval", name] for name in sections)):
        key = environment_name(ENV_PREFIX, path)
        try:
            json.loads(os.environ.get(key) or "{}")
        except ValueError:
            return ConfigError(
                f"environment: {key}: is a section, so its value must be {accepted}",
                key=key,
                accepted=accepted,
            )
    return ConfigError(f"environment: {without_secrets(str(error))}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the TOML file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "aiovec.toml",
        **_tidied(_document_model(retrieval_model()).model_json_schema()),
    }


def _tidied(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without titles, which only repeat names, and with plain descriptions.

    Pydantic leaves the indentation in a docstring of which Python 3.13 has taken the first part.
    """
    tidied: dict[str, Any] = {}
    for key, value in schema.items():
        if isinstance(value, dict):
            tidied[key] = _tidied(value)
        elif isinstance(value, str) and key in ("title", "description"):
            if key == "description":
                tidied[key] = inspect.cleandoc(value)
        else:
            tidied[key] = value
    return tidied
