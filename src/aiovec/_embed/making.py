"""From a section of the TOML file to an embedder. Imports only what that embedder needs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConfigError, shown
from .batcher import Limits
from .checks import check_embedder
from .protocol import AnyEmbedder

if TYPE_CHECKING:
    from ..backend.embedders import EmbedderSettings

_MIB = 1024 * 1024


def made(name: str, settings: EmbedderSettings) -> tuple[AnyEmbedder, Limits]:
    """Return the embedder that a section describes, and the bounds of its requests.

    ConfigError where the section does not suit its kind, or its callable cannot be imported. May
    import the app's code, so it belongs into a thread.
    """
    limits = Limits(
        batch_size=settings.batch_size,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        total_timeout=settings.total_timeout,
        retries=settings.retries,
        cache_bytes=settings.cache_mb * _MIB,
        query_prefix=settings.query_prefix,
        document_prefix=settings.document_prefix,
    )
    if settings.kind == "demo":
        from .demo import DemoEmbedder

        return check_embedder(name, DemoEmbedder()), replace(limits, concurrency=1)
    if ":" in settings.kind:
        embedder = named(load(settings.kind), settings.model, settings.dim)
        return check_embedder(name, embedder), limits
    for key in ("model", "dim"):
        if not getattr(settings, key):
            place = f"retrieval.embedders.{name}.{key}"
            raise ConfigError(
                f"{place}: the kind {settings.kind!r} needs it", key=place,
                accepted="the model's name" if key == "model" else "the length of its vectors",
            )  # fmt: skip
    if settings.kind == "openai":
        from .openai import OpenAIEmbedder

        return OpenAIEmbedder(settings), limits
    limits = replace(limits, concurrency=1)
    if settings.kind == "fastembed":
        from .fastembed import FastEmbedEmbedder

        return FastEmbedEmbedder(settings), limits
    from .sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(settings), limits


class _Named:
    """A function with the name and length of its model."""

    def __init__(self, function: Callable[..., Any], model: object, dim: object) -> None:
        self._function = function
        self.model = model
        self.dim = dim
        self.__wrapped__ = function  # its parameters, for ``inspect.signature``

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function(*args, **options)


def named(function: Any, model: str | None, dim: int | None) -> Any:
    """Return an embedder with this model and dim, where they are given."""
    if not model and not dim:
        return function
    model = model or getattr(function, "model", None)
    dim = dim or getattr(function, "dim", None)
    return _Named(function, model, dim)


def load(path: str) -> Callable[..., Any]:
    """Return the callable that ``package.module:name`` names, also one in the current folder.

    A class is called without arguments. ConfigError where there is no such callable.
    """
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise ConfigError(
            f"{shown(path)} names no callable", key="kind", accepted="package.module:callable"
        )
    with _current_folder_first():
        try:
            found: Any = importlib.import_module(module_name)
        except ImportError as exc:
            raise ConfigError(
                f"the module {module_name!r} cannot be imported: {exc}", key="kind"
            ) from exc
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            raise ConfigError(f"the module {module_name!r} has no {name!r}", key="kind") from exc
    if isinstance(found, type):
        found = found()
    if not callable(found):
        raise ConfigError(f"{path} is not callable", key="kind", accepted="a callable")
    return cast("Callable[..., Any]", found)


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """As ``python -m`` does, for a console script has its own folder there instead."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
