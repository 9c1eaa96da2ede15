"""FAISS beside a docstore, as LangChain's ``FAISS.save_local`` writes them.

The docstore is a pickle, which could run any code. This one is read without importing a class: the
few names that it may hold stand for plain objects here, and any other refuses the file.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aiovec.backend import Field
from aiovec.errors import ConfigError

from .common import Collection, CollectionSource, Point, Vectors, client

# The indexes that hold each vector as it was given.
_EXACT = ("IndexFlat", "IndexFlatL2", "IndexFlatIP", "IndexHNSWFlat", "IndexIVFFlat")


class FaissSource(CollectionSource):
    layout = "FAISS index"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return any(one.with_suffix(".pkl").is_file() for one in path.glob("*.faiss"))

    def open(self, place: str) -> None:
        self._faiss = client("faiss", "faiss-cpu")
        self._path = Path(place)

    def collections(self) -> Iterable[Collection]:
        for file in sorted(self._path.glob("*.faiss")):
            index = self._faiss.read_index(str(file))
            kind = type(index).__name__
            if kind not in _EXACT:
                raise ConfigError(
                    f"{file} is an {kind}, which keeps no exact vectors; embed the texts again"
                )
            if hasattr(index, "make_direct_map"):
                index.make_direct_map()
            metric = "l2" if index.metric_type == self._faiss.METRIC_L2 else "dot"
            name = self._path.resolve().name if file.stem == "index" else file.stem
            fields = {"text": Field(str, text=True)}
            vectors = [Vectors("embedding", index.d, metric)]
            yield Collection(name, vectors, index.ntotal, (file, index), fields)

    def points(self, found: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        file, index = found.handle
        with file.with_suffix(".pkl").open("rb") as pickled:
            docstore, ids = _Unpickler(pickled).load()
        documents = docstore.state["_dict"]
        for start in range(0, index.ntotal, size):
            vectors = index.reconstruct_n(start, min(size, index.ntotal - start))
            yield [_point(ids.get(start + i), one, documents) for i, one in enumerate(vectors)]


def _point(id: Any, vector: Any, documents: dict[str, Any]) -> Point:
    document = documents.get(id)
    state = {} if document is None else document.state
    state = state.get("__dict__", state)
    return Point(id, vector, {"text": state.get("page_content")}, state.get("metadata") or {})


class _Plain:
    """Stands for an object of LangChain's, and holds what was in it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if module.startswith("langchain") and name in ("InMemoryDocstore", "Document"):
            return _Plain
        raise ConfigError(f"the docstore names {module}.{name}, which is not read")
