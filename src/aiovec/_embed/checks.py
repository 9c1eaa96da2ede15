"""Checks of the embedders that an app gives to ``connect``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from .._model.schema import MAX_DIM, check_table_name
from ..errors import ConfigError, shown
from .protocol import Embedder, EmbedderOption


def check_embedders(given: object) -> dict[str, EmbedderOption]:
    """Return the argument ``embedders`` as a dict of its own, or raise ConfigError.

    The keys of an embedder that is described by a mapping are checked when the store opens.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"embedders must be a mapping of names to embedders, not {shown(given)}",
            key="embedders", accepted="a mapping",
        )  # fmt: skip
    checked: dict[str, EmbedderOption] = {}
    for name, embedder in given.items():
        name = check_table_name(name, "embedder")
        if isinstance(embedder, Mapping):
            checked[name] = dict(embedder)
        else:
            checked[name] = check_embedder(name, embedder)
    return checked


def check_embedder(name: str, embedder: object) -> Embedder:
    """Return an embedder that has all it needs, or raise ConfigError."""
    model, dim = getattr(embedder, "model", None), getattr(embedder, "dim", None)
    fault = ""
    if not callable(embedder):
        fault = "is not callable"
    elif not isinstance(model, str) or not model:
        fault = f"has no attribute model with the model's name, but {shown(model)}"
    elif isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= MAX_DIM:
        fault = f"has no attribute dim with a length from 1 to {MAX_DIM}, but {shown(dim)}"
    if fault:
        raise ConfigError(
            f"the embedder {name!r} {fault}; an embedder is a callable that takes a list of texts "
            "and has the attributes model and dim, or a mapping such as {'kind': 'demo'}",
            key=f"embedders.{name}", accepted="an aiovec.Embedder",
        )  # fmt: skip
    return cast("Embedder", embedder)
