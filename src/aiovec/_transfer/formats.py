"""Find a file's format by its first bytes, its suffix, or the user's hint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ..errors import AiovecError, ConfigError

FORMATS = ("parquet", "arrow", "arrow-stream", "jsonl", "csv")
TEXTS = ("jsonl", "csv")
_STREAMED = (*TEXTS, "arrow")

_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        ".parquet": "parquet",
        ".pq": "parquet",
        ".arrow": "arrow",
        ".feather": "arrow",
        ".ipc": "arrow",
        ".arrows": "arrow-stream",
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".csv": "csv",
    }
)
# Of formats that cannot carry a schema.
SUFFIXES_WITHOUT_SCHEMA = (".jsonl", ".ndjson", ".csv")
_MAGIC = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"))


def check_format(name: str) -> str:
    if name not in FORMATS:
        raise ConfigError(
            f"there is no format {name!r}; the formats are: {', '.join(FORMATS)}",
            key="--format", accepted=", ".join(FORMATS),
        )  # fmt: skip
    return name


def format_of_stream(name: str | None) -> str:
    """The format of standard input or output, which cannot go back and has no suffix."""
    if name is None:
        raise ConfigError(
            f"a stream has no name that ends with its format; say --format {', '.join(_STREAMED)}",
            key="--format", accepted=", ".join(_STREAMED),
        )  # fmt: skip
    if check_format(name) not in (*_STREAMED, "arrow-stream"):
        raise ConfigError(
            f"{name} needs a file, because it is not read or written in one go; for a stream use "
            f"--format {', '.join(_STREAMED)}",
            key="--format", accepted=", ".join(_STREAMED),
        )  # fmt: skip
    return "arrow-stream" if name == "arrow" else name


def format_to_write(path: Path, name: str | None) -> str:
    if name is not None:
        return check_format(name)
    return _by_suffix(path)


def format_to_read(path: Path, name: str | None) -> str:
    """The format of a file that is there. Its own first bytes say more than its name."""
    if name is not None:
        return check_format(name)
    head = head_of(path)
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if head.startswith(b"FEA1"):
        raise ConfigError(
            f"{path} is a Feather file of version 1, which has no metadata; write it again as "
            "Arrow IPC, which is Feather version 2"
        )
    if head.startswith(b"\xff\xff\xff\xff") and path.suffix.lower() not in (".jsonl", ".ndjson"):
        return "arrow-stream"
    found = _by_suffix(path)
    # A suffix may stand for two formats; without its magic bytes it is the other one.
    return "arrow-stream" if found == "arrow" else found


def head_of(path: Path) -> bytes:
    """The first bytes of a file that must be there."""
    try:
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no file {path}") from exc
    except OSError as exc:
        raise AiovecError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _by_suffix(path: Path) -> str:
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigError(
            f"the name {path.name} does not show its format; pass --format "
            f"{', '.join(FORMATS)}, or use one of the suffixes {', '.join(_SUFFIXES)}",
            key="--format", accepted=", ".join(FORMATS),
        )  # fmt: skip
    return found


def sidecar_of(path: Path) -> Path:
    """Return where the schema of a file stands whose format cannot carry one."""
    return path.with_name(f"{path.stem}.schema.json")
