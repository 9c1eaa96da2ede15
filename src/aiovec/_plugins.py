"""What other packages bring by entry points, the backends above all (``aiovec.backends``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ._core.contract import Backend, Claims, ReadOnly
from .errors import BackendNotInstalledError, ConfigError, UnsupportedError

if TYPE_CHECKING:
    from importlib import metadata

    from ._settings.load import RetrievalSettings

GROUP = "aiovec.backends"

# What to install for the backends that this project brings.
EXTRAS: Mapping[str, str] = MappingProxyType(
    {"sqlite": "aiovec", "lancedb": "aiovec[lancedb]", "remote": "aiovec[remote]"}
)


def installed(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of a group, in the order of their names.

    Of two with one name the first on the path counts, as it does for modules.
    """
    from importlib import metadata  # reads slowly, so not where aiovec is imported

    found: dict[str, metadata.EntryPoint] = {}
    for entry_point in metadata.entry_points(group=group):
        found.setdefault(entry_point.name, entry_point)
    return dict(sorted(found.items()))


def installed_backends() -> dict[str, metadata.EntryPoint]:
    """The entry point of each installed backend."""
    return installed(GROUP)


def other_backends() -> list[str]:
    """The names of the backends that other packages bring."""
    return sorted(installed_backends().keys() - EXTRAS.keys())


def backend_names() -> list[str]:
    """Every name that is accepted: our own backends first, then the others that are installed."""
    return [*EXTRAS, *other_backends()]


def create_backend(
    name: str, target: str, settings: RetrievalSettings, *, read_only: bool = False
) -> Backend:
    """The backend of this name for a target, not open yet.

    BackendNotInstalledError where it, or a module that it needs, is missing; ConfigError where
    nothing has this name or what has it is no backend; UnsupportedError where ``read_only`` is
    wanted and it cannot promise that.
    """
    entry_point = installed_backends().get(name)
    if entry_point is None:
        if name in EXTRAS:
            raise BackendNotInstalledError(name, EXTRAS[name])
        accepted = ", ".join(backend_names())
        raise ConfigError(
            f"there is no backend {name!r}; the backends are: {accepted}", accepted=accepted
        )
    try:
        backend = entry_point.load()(target, settings)
    except ModuleNotFoundError as exc:
        raise BackendNotInstalledError(name, _what_brings(name, entry_point)) from exc
    except (ImportError, AttributeError, TypeError) as exc:
        raise ConfigError(f"the backend {name!r} ({entry_point.value}) is unusable: {exc}") from exc
    if not isinstance(backend, Backend):
        raise ConfigError(
            f"the backend {name!r} ({entry_point.value}) is unusable: "
            f"it gives {type(backend).__name__}, not a Backend"
        )
    if read_only:
        _hold_to_reading(backend)
    return backend


def _hold_to_reading(backend: Backend) -> None:
    if not isinstance(backend, ReadOnly):
        raise UnsupportedError("read-only", backend.name, "open it without read_only=True")
    backend.read_only = True


def claimed(folder: Path) -> tuple[str, str] | None:
    """The backend that says that a folder is its own, and the target by which it opens it."""
    for name, entry_point in installed_backends().items():
        try:
            claims: Claims | None = getattr(entry_point.load(), "claims", None)
        except (ImportError, AttributeError):
            continue  # unusable, which whoever wants to use it is told
        target = None if claims is None else claims(folder)
        if target is not None:
            return name, target
    return None


def _what_brings(name: str, entry_point: metadata.EntryPoint) -> str:
    if name in EXTRAS:
        return EXTRAS[name]
    return entry_point.dist.name if entry_point.dist is not None else name
