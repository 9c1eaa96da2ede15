"""aiovec: the vector store that asynchronous web apps can await."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors
from ._embed.app_embedders import embedder
from ._embed.protocol import Embedder
from ._model.ids import new_id
from ._model.patch import REMOVE
from ._model.schema import Embed, Field, Fields, Schema
from ._store.connect import connect, restore
from .errors import *  # noqa: F403 - __all__ has them

if TYPE_CHECKING:
    from ._filters import F, where
    from ._input.types import JsonValue, Rows, Vector, Vectors, Where
    from ._model.records import Hit, Record
    from ._model.results import Counts, Results, ResultsList
    from ._search.fusion import RRF, Weighted
    from ._store.rank import Decay, Factor
    from ._store.store import Table, VectorStore
    from ._store.watch import watch
    from ._store.watch_task import Watching, WatchState
    from .backend.contract import IndexInfo, TableStats, Tuning
else:
    # connect() loads these modules off the event loop; before that, their first use loads them.
    _LATER = (
        "_filters _search.fusion _model.records _model.results backend.contract _input.types "
        "_store.rank _store.store _store.watch _store.watch_task"
    ).split()

    def __getattr__(name):
        from importlib import import_module

        for module in _LATER if name in __all__ else ():
            loaded = import_module(f".{module}", __name__)
            if hasattr(loaded, name):
                return getattr(loaded, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "REMOVE",
    "RRF",
    "Counts",
    "Decay",
    "Embed",
    "Embedder",
    "F",
    "Factor",
    "Field",
    "Fields",
    "Hit",
    "IndexInfo",
    "JsonValue",
    "Record",
    "Results",
    "ResultsList",
    "Rows",
    "Schema",
    "Table",
    "TableStats",
    "Tuning",
    "Vector",
    "VectorStore",
    "Vectors",
    "WatchState",
    "Watching",
    "Weighted",
    "Where",
    "connect",
    "embedder",
    "new_id",
    "restore",
    "watch",
    "where",
]
__all__ += errors.__all__
