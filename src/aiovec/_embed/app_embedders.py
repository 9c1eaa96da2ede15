"""The embedders that an app gives to ``connect``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from .._model.schema import MAX_DIM, check_table_name
from ..errors import ConfigError, shown
from .protocol import Embedder

DEFAULT = "default"
"""The name of the embedder that schemas use where they name none."""


def embedder(function: Callable[..., Any], /, *, model: str, dim: int | None = None) -> Embedder:
    """Make an embedder of a plain or async function that takes a list of texts.

    ``model`` is the name that tables keep. ``dim`` is the length of the vectors; without it, a
    store asks the function once for the vector of a short text, when it first needs the length.
    """
    if not callable(function):
        raise ConfigError(f"an embedder is made of a function, not of {shown(function)}")
    named: Any = partial(function)  # an object of its own, which can have attributes
    named.model, named.dim = model, dim
    return check_embedder(DEFAULT, named)


def check_embedders(one: object, several: object) -> dict[str, Embedder | Mapping[str, object]]:
    """Return the arguments ``embedder`` and ``embedders`` by names, or raise ConfigError.

    The keys of an embedder that is described by a mapping are checked when the store opens.
    """
    if several is not None and not isinstance(several, Mapping):
        raise _wrong(f"embedders maps names to embedders, and is not {shown(several)}", "embedders")
    given: dict[Any, Any] = dict(several or {})
    if one is not None and DEFAULT in given:
        raise _wrong("pass embedder= or embedders={'default': ...}, not both", "embedder")
    if one is not None:
        given[DEFAULT] = one
    if isinstance(given.get("kind"), str):
        raise _wrong(
            f"embedders maps names to embedders: {{'default': {shown(dict(given))}}}, or pass one "
            "as embedder=", "embedders",
        )  # fmt: skip
    checked: dict[str, Embedder | Mapping[str, object]] = {}
    for name, option in given.items():
        if isinstance(option, str):
            option = {"kind": option}
        is_described = isinstance(option, Mapping)
        name = check_table_name(name, "embedder")
        checked[name] = dict(option) if is_described else check_embedder(name, option)
    return checked


def check_embedder(name: str, given: object) -> Embedder:
    """Return an embedder that has all it needs, or raise ConfigError."""
    model, dim = getattr(given, "model", None), getattr(given, "dim", None)
    if not callable(given):
        raise _wrong(
            f"the embedder {name!r} must be a kind such as 'demo', a mapping such as "
            f"{{'kind': 'demo'}}, or an aiovec.Embedder, not {shown(given)}", f"embedders.{name}",
        )  # fmt: skip
    wrap = "wrap a function: aiovec.embedder(fn, model='my-model', dim=384)"
    if not isinstance(model, str) or not model:
        raise _wrong(
            f"the embedder {name!r} needs an attribute model, the name of its model; {wrap}",
            f"embedders.{name}.model",
        )  # fmt: skip
    if dim is not None and (
        isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= MAX_DIM
    ):
        raise _wrong(
            f"the embedder {name!r} has the attribute dim {shown(dim)}, which must be a length "
            f"from 1 to {MAX_DIM}, or None; {wrap}", f"embedders.{name}.dim",
        )  # fmt: skip
    return cast("Embedder", given)


def _wrong(message: str, key: str) -> ConfigError:
    return ConfigError(message, key=key, accepted="an aiovec.Embedder")
