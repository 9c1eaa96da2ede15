"""The settings: a TOML file, and the environment over it.

Each key's default, bounds and meaning stand once, here. ``config/aiovec.toml`` explains them to
people and ``config/aiovec.schema.json`` to editors; tests hold both to these models.
``python -m aiovec._settings.load`` writes the latter.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .._core.redaction import shown_value, without_secrets
from .._core.schema import MAX_DIM
from .._locate import local_path
from .._plugins import backend_names, other_backends
from ..errors import ConfigError
from .explain import check_environment, config_error, environment_name

ENV_PREFIX = "AIOVEC_"
ENV_DELIMITER = "__"

_PAGE_SIZES = tuple(512 << n for n in range(8))  # those that SQLite knows


def _page_size(value: int) -> int:
    if value not in _PAGE_SIZES:
        raise PydanticCustomError("page_size", "not a page size that SQLite knows")
    return value


def _known_backend(value: str) -> str:
    if value not in backend_names():
        raise PydanticCustomError("backend", "no backend has this name")
    return value


class _Quiet(BaseModel):
    """Settings hold secrets, which neither a ``repr`` nor an error of pydantic's shall show."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown_value(name or "", value)


class _Section(_Quiet):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


_MEMORY = re.compile(r"^(auto|[0-9]+ ?([KMG]i?B)?)$")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _memory(text: str) -> str:
    if not _MEMORY.match(text):
        raise ValueError("must be 'auto' or a size, as in '512 MiB' or '2 GiB'")
    return text


_MemorySize = Annotated[
    str, AfterValidator(_memory), WithJsonSchema({"type": "string", "pattern": _MEMORY.pattern})
]


def _bytes_of(text: str) -> int | None:
    if text == "auto":
        return None
    digits = text.rstrip("KMGiB ")
    return int(digits) * _UNITS[text[len(digits) :].strip()]


class SqliteSettings(_Section):
    """How a SQLite store writes, reads and waits."""

    durability: Literal["full", "normal"] = Field(
        default="full",
        description="What a write survives once its call has returned. full: power loss too. "
        "normal: the end of the process only, at the price of fewer waits for the disk.",
    )
    busy_timeout: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="Seconds that a call waits for its turn, behind other calls and other "
        "processes, before it fails with StoreBusyError.",
    )
    readers: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Connections that read at once. Readers never wait for writers.",
    )
    page_size: Annotated[
        int,
        AfterValidator(_page_size),
        WithJsonSchema({"type": "integer", "enum": list(_PAGE_SIZES)}),
    ] = Field(
        default=16_384, description="Bytes of a page of a new file. A file keeps the size it has."
    )
    chunk_size: int = Field(
        default=256,
        ge=8,
        le=4096,
        multiple_of=8,
        description="Vectors that a new table stores side by side. A table keeps the size it has.",
    )
    cache_mb: int = Field(
        default=64,
        ge=1,
        le=65_536,
        description="MiB of pages that the writing connection keeps in memory.",
    )
    reader_cache_mb: int = Field(
        default=2,
        ge=1,
        le=65_536,
        description="MiB of pages that each reading connection keeps in memory.",
    )
    write_queue: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Writing calls that may be under way at once, with 64 MiB of rows together; "
        "further ones wait for a place, up to busy_timeout.",
    )
    keep_deletes: int = Field(
        default=1_000_000,
        ge=0,
        le=1_000_000_000,
        description="Deletions that each table remembers for readers of its change feed. A reader "
        "that is further behind has to read the whole table anew.",
    )
    scan: Literal["auto", "bit", "disk"] = Field(
        default="auto",
        description="auto: tables that are searched are scanned in memory, as far as scan_memory "
        "goes, with the same exact results. bit: the same, but tables that keep bit codes are "
        "searched by these: approximately, in about a sixth of the memory. disk: every search "
        "reads the file.",
    )
    scan_memory: _MemorySize = Field(
        default="auto",
        description="What the tables in memory may take together, as in '512 MiB' or '2 GiB'. "
        "auto: a quarter of the machine's memory, at most 4 GiB.",
    )
    preload: list[str] = Field(
        default=[],
        description="Tables that are brought into memory when the store opens, not when they are "
        "first searched.",
    )

    def scan_bytes(self) -> int | None:
        """``scan_memory`` in bytes; None for auto."""
        return _bytes_of(self.scan_memory)


_DURATION = re.compile(r"^[0-9]+ (second|minute|hour|day)s?$")


def _duration(text: str) -> str:
    if not _DURATION.match(text):
        raise ValueError("must be a time, as in '30 minutes' or '1 day'")
    return text


def _timedelta_of(text: str) -> timedelta:
    number, unit = text.split()
    return timedelta(**{unit.rstrip("s") + "s": int(number)})


class LancedbSettings(_Section):
    """How a LanceDB store reaches its place, writes, and keeps itself small."""

    storage_options: dict[str, str] = Field(
        default={},
        repr=False,  # they hold secrets
        description="What the object storage of an s3://, gs:// or az:// place needs, by LanceDB's "
        "names: credentials, region, endpoint.",
    )
    region: str = Field(
        default="us-east-1",
        min_length=1,
        description="The region of a db:// place. Its key comes from the variable LANCEDB_API_KEY.",
    )
    host: str = Field(
        default="",
        description="The address of the service behind a db:// place. Empty: LanceDB's own.",
    )
    bucket_lock: bool = Field(
        default=True,
        description="Whether writers to object storage take turns by a lock object beside the "
        "tables, so that ids stay unique when several processes write. Only where one process "
        "writes may it be false, which saves two requests a write.",
    )
    busy_timeout: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="Seconds that a call waits for its turn, behind other calls and other "
        "processes, before it fails with StoreBusyError.",
    )
    write_queue: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Writing calls that may be under way at once, with 64 MiB of rows together; "
        "further ones wait for a place, up to busy_timeout.",
    )
    keep_versions: Annotated[
        str,
        AfterValidator(_duration),
        WithJsonSchema({"type": "string", "pattern": _DURATION.pattern}),
    ] = Field(
        default="1 day",
        description="How long the earlier versions of a table are kept, as in '30 minutes' or "
        "'2 days'. A restore goes back no further.",
    )
    max_versions: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Versions of a table that are kept at most, however young they are: of many "
        "small writes in a short time, the oldest versions go first.",
    )
    close_timeout: float = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="Seconds that close() may take for the index builds and compactions that are "
        "due of tables that the store wrote to. The next store that opens such a table does the "
        "rest. 0: close() leaves all of it to the next.",
    )
    search_memory: _MemorySize = Field(
        default="auto",
        description="What searches that scan, exports and other large reads may take together, as "
        "in '512 MiB' or '2 GiB'; further ones wait. auto: a quarter of the machine's memory, at "
        "most 4 GiB.",
    )
    index: Literal[
        "auto", "none", "ivf_flat", "ivf_pq", "ivf_sq", "ivf_rq", "hnsw", "hnsw_sq", "hnsw_pq"
    ] = Field(
        default="auto",
        description="The vector index that a table gets by itself, in the background, once it has "
        "index_from rows. auto: the kind that suits the table. none: only create_index builds one.",
    )
    index_from: int = Field(
        default=20_000,
        ge=256,
        le=1_000_000_000,
        description="Rows from which a table gets an index by itself. With fewer, a search that "
        "looks at every row is fast enough.",
    )
    recall_target: float = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="The part of the true nearest rows that a search with an index finds. The "
        "smallest effort that does so is found by measuring. A table or a search may say another.",
    )
    build_memory: _MemorySize = Field(
        default="auto",
        description="What building an index may take, as in '512 MiB' or '2 GiB'. One that would "
        "need more is refused. auto: half of the machine's memory.",
    )

    def build_bytes(self) -> int | None:
        """``build_memory`` in bytes; None for auto."""
        return _bytes_of(self.build_memory)

    def search_bytes(self) -> int | None:
        """``search_memory`` in bytes; None for auto."""
        return _bytes_of(self.search_memory)

    def kept_versions(self) -> timedelta:
        """``keep_versions`` as a time."""
        return _timedelta_of(self.keep_versions)


class ServerSettings(_Section):
    """How ``aiovec serve`` listens. It has no keys yet."""


class AdviseSettings(_Section):
    """When LanceDB would serve a table of a SQLite store better; for the advice that is given."""

    rows: int = Field(
        default=100_000,
        ge=0,
        le=1_000_000_000_000,
        description="Rows beyond which a table may be too large for SQLite, if searches are slow "
        "as well.",
    )
    p95_ms: float = Field(
        default=200.0,
        gt=0,
        le=86_400_000,
        description="Milliseconds within which 95 of 100 searches should be answered.",
    )
    rows_a_day: float = Field(
        default=500.0,
        ge=0,
        le=1e12,
        description="Growth beyond which it is looked ahead whether a table will soon be too "
        "large.",
    )
    days: float = Field(
        default=30.0,
        gt=0,
        le=36_500,
        description="How many days it is looked ahead.",
    )


class RetrievalSettings(_Quiet):
    """Which backend is in use, where each stores, and a section for each.

    The name of any other installed backend may be a section too; it is kept as it stands.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    backend: Annotated[str, AfterValidator(_known_backend)] = Field(
        default="sqlite",
        description="The backend in use: sqlite, lancedb, remote, or the name of another that is "
        "installed. Changing this line is the whole switch.",
        examples=["sqlite", "lancedb", "remote"],
    )
    sqlite_path: str = Field(
        default="aiovec.db",
        min_length=1,
        description="The file of the sqlite backend. A directory, or a path without a suffix, "
        "holds vectors.sqlite. :memory: keeps nothing.",
    )
    lancedb_url: str = Field(
        default="aiovec.lance",
        min_length=1,
        description="Where the lancedb backend stores: a folder, s3://, gs://, az://, db://, or "
        "the http:// address of a server.",
    )
    remote_url: str = Field(
        default="http://127.0.0.1:4002",
        pattern=r"^https?://\S",
        description="The server that the remote backend speaks to.",
    )
    dim: int = Field(
        default=768,
        ge=1,
        le=MAX_DIM,
        description="The length of the vectors in tables that are created without a schema.",
    )
    sqlite: SqliteSettings = Field(
        default_factory=SqliteSettings, description=SqliteSettings.__doc__
    )
    lancedb: LancedbSettings = Field(
        default_factory=LancedbSettings, description=LancedbSettings.__doc__
    )
    server: ServerSettings = Field(
        default_factory=ServerSettings, description=ServerSettings.__doc__
    )
    advise: AdviseSettings = Field(
        default_factory=AdviseSettings, description=AdviseSettings.__doc__
    )

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        names = set(value) - set(cls.model_fields)
        unknown = sorted(names - set(other_backends()), key=str) if names else []
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
        """The keys of the section ``[retrieval.<backend>]``, empty where there is none."""
        found = getattr(self, backend, None)
        if isinstance(found, BaseModel):
            return found.model_dump()
        return found if isinstance(found, dict) else {}


class _Document(_Section):
    """What a TOML file holds."""

    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings)


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

    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings)

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


Stamp = tuple[int, int, int, int]
"""What changes when a file is written or replaced."""


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
        retrieval = retrieval.model_copy(
            update={
                "sqlite_path": local_path(retrieval.sqlite_path, base),
                "lancedb_url": local_path(retrieval.lancedb_url, base),
            }
        )
    return LoadedSettings(settings.model_copy(update={"retrieval": retrieval}), config, stamp)


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
    try:
        if config is not None:
            # Strictly, for TOML has types: only the environment's text is converted.
            _Document.model_validate(document, strict=True)
    except ValidationError as exc:
        fault = config_error(exc, json_schema(), file=config)
    else:
        try:
            return Settings(**document)
        except ValidationError as exc:
            fault = config_error(exc, json_schema(), prefix=ENV_PREFIX)
        except SettingsError as exc:
            fault = _not_json(exc)
    raise fault


def _variables() -> list[str]:
    """The environment variables that are read, those of whole sections too."""
    names = [["retrieval"]]
    for name, field in RetrievalSettings.model_fields.items():
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
        for name, field in RetrievalSettings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]
    for path in (["retrieval"], *(["retrieval", name] for name in sections)):
        key = environment_name(ENV_PREFIX, path)
        try:
            json.loads(os.environ.get(key) or "{}")
        except ValueError:
            return ConfigError(
                f"environment: {key}: names a section, so it must be {accepted}",
                key=key,
                accepted=accepted,
            )
    return ConfigError(f"environment: {without_secrets(str(error))}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the TOML file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "aiovec.toml",
        **_without_titles(_Document.model_json_schema()),
    }


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """The titles that pydantic makes of the names say nothing more than these."""
    return {
        key: _without_titles(value) if isinstance(value, dict) else value
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def main() -> None:
    """Write the JSON Schema to the standard output."""
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
