"""The embedders that an app passes to ``connect``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from .._model.schema import MAX_DIM, check_table_name, is_share
from .._tools.messages import shown
from ..errors import ConfigError
from .protocol import WEIGHT, Embedder

_WITH_MODEL = ("openai", "fastembed", "sentence-transformers")
_KINDS = (*_WITH_MODEL, "local", "onnx", "demo")
DEFAULT = "default"
"""The default name of an embedder in schemas."""


def embedder(function: Callable[..., Any], /, *, model: str, dim: int | None = None) -> Embedder:
    """Make an embedder from a plain or async function that takes a list of texts.

    ``model`` is the name that tables store. ``dim`` is the length of the vectors; without it, a
    store calls the function once with a short text when it needs the length.
    """
    if not callable(function):
        raise ConfigError(f"an embedder must be made from a function, not from {shown(function)}")
    named: Any = partial(function)  # a separate object, which can have attributes
    named.model, named.dim = model, dim
    return check_embedder(DEFAULT, named)


def check_embedders(single: object, several: object) -> dict[str, Embedder | Mapping[str, object]]:
    """Return the embedders in ``single`` and ``several`` by name, or raise ConfigError.

    If an embedder is a mapping of settings, its keys are checked when the store opens.
    """
    if several is not None and not isinstance(several, Mapping):
        raise ConfigError(
            f"embedders must map names to embedders, not be {shown(several)}", key="embedders"
        )
    options: dict[Any, Any] = dict(several or {})
    if single is not None and DEFAULT in options:
        raise ConfigError("pass embedder= or embedders={'default': ...}, not both", key="embedder")
    if single is not None:
        options[DEFAULT] = single
    if isinstance(options.get("kind"), str):
        raise ConfigError(
            f"embedders must map names to embedders: {{'default': {shown(options)}}}; pass a "
            "single one as embedder=",
            key="embedders",
        )
    checked: dict[str, Embedder | Mapping[str, object]] = {}
    for name, option in options.items():
        if isinstance(option, str):
            option = _kind(option)
        is_described = isinstance(option, Mapping)
        name = check_table_name(name, "embedder")
        checked[name] = dict(option) if is_described else check_embedder(name, option)
    return checked


def _kind(option: str) -> Mapping[str, object]:
    """Return the settings of an embedder that was passed as a string, such as "demo"."""
    service, colon, model = option.partition(":")
    if service == "onnx" and model:
        return {"kind": service, "model": model}
    if option.startswith("text-embedding-") or (colon and service in _WITH_MODEL):
        kind = service if colon else "openai"
        raise ConfigError(
            f"{option!r} names a model: pass {{'kind': {kind!r}, 'model': {model or option!r}, "
            "'dim': <the length of its vectors>}",
            key="embedder",
        )
    if not colon and option not in _KINDS:
        raise ConfigError(
            f"{option!r} is not a kind of embedder ({', '.join(_KINDS)}); a model comes after its "
            "kind: {'kind': 'fastembed', 'model': 'BAAI/bge-small-en-v1.5', 'dim': 384}, or for "
            "Ollama and other services {'kind': 'openai', 'base_url': 'http://localhost:11434/v1', "
            "'model': 'nomic-embed-text', 'dim': 768}",
            key="embedder",
        )
    return {"kind": option}


def check_embedder(name: str, option: object) -> Embedder:
    """Return the embedder if it has the required attributes, or raise ConfigError."""

    def refuse(fault: str, attribute: str = "") -> ConfigError:
        return ConfigError(f"the embedder {name!r} {fault}", key=f"embedders.{name}{attribute}")

    model, dim = getattr(option, "model", None), getattr(option, "dim", None)
    if isinstance(option, type):
        raise refuse(f"is the class {option.__name__}; pass an object, such as {option.__name__}()")
    if not callable(option):
        expected = (
            "a kind such as 'demo', a mapping such as {'kind': 'demo'}, or an aiovec.Embedder"
        )
        raise refuse(f"must be {expected}, not {shown(option)}")
    wrap = "wrap a function: aiovec.embedder(fn, model='my-model', dim=384)"
    if not isinstance(model, str) or not model:
        raise refuse(f"needs an attribute model, the name of its model; {wrap}", ".model")
    if dim is not None and (
        isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= MAX_DIM
    ):
        expected = f"a length from 1 to {MAX_DIM}, or None"
        raise refuse(f"has the dim {shown(dim)}, which must be {expected}; {wrap}", ".dim")
    if not is_share(weight := getattr(option, "weight", WEIGHT)):
        fault = f"has the weight {shown(weight)}, which must be a number from 0 to 1"
        raise refuse(fault, ".weight")
    return cast("Embedder", option)
