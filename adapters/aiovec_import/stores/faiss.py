"""Read a FAISS index and its docstore, as LangChain's ``FAISS.save_local`` writes them.

The docstore is a pickle, which could run any code. It is read without LangChain: the file may only
contain objects of two LangChain classes, which become plain objects, and a few types of values.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

from aiovec.backend import Field
from aiovec.errors import ConfigError

from .common import Collection, CollectionSource, Point, Vectors, client

# The indexes that store each vector unchanged.
_EXACT = ("IndexFlat", "IndexFlatL2", "IndexFlatIP", "IndexHNSWFlat", "IndexIVFFlat")


# Allowed types of values in metadata: their constructors only store their arguments.
_VALUES: dict[tuple[str, str], type] = {
    (cls.__module__, cls.__name__): cls for cls in (datetime, date, time, timezone, timedelta, UUID)
}


class FaissSource(CollectionSource):
    layout = "FAISS index"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return path.suffix == ".faiss" or any(path.glob("*.faiss"))

    def open(self, place: str) -> None:
        self._faiss = client("faiss", "faiss-cpu")
        path = Path(place)
        self._path = path.parent if path.suffix == ".faiss" and path.is_file() else path

    def names(self) -> Iterable[str]:
        name = self._path.resolve().name
        files = sorted(self._path.glob("*.faiss"))
        self._files = {file.stem: file for file in files}
        # LangChain's default name is "index", which says less than the folder's name.
        if "index" in self._files and name not in self._files:
            self._files[name] = self._files.pop("index")
        return self._files

    def collection(self, name: str) -> Collection:
        file = self._files[name]
        index = self._faiss.read_index(str(file))
        if not file.with_suffix(".pkl").is_file():
            raise self._foreign(file, index)
        kind = type(index).__name__
        if kind not in _EXACT:
            raise _inexact(file, kind)
        try:
            if hasattr(index, "make_direct_map"):
                index.make_direct_map()
        except RuntimeError as exc:  # the exception's text is a C++ assertion
            raise ConfigError(
                f"the vectors of {file} cannot be matched with their texts, because some were "
                f"removed from this {kind}; embed the texts again"
            ) from exc
        fields = {"text": Field(str, text=True)}
        vectors = [Vectors("embedding", index.d, self._metric(index))]
        return Collection(name, vectors, index.ntotal, (file, index), fields)

    def points(self, collection: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        file, index = collection.handle
        with file.with_suffix(".pkl").open("rb") as pickled:
            saved = _Unpickler(pickled).load()
        if not (isinstance(saved, tuple) and isinstance(saved[0], _Plain)):
            raise self._foreign(file, index)
        docstore, ids = saved
        documents = docstore.state["_dict"]
        for start in range(0, index.ntotal, size):
            vectors = index.reconstruct_n(start, min(size, index.ntotal - start))
            yield [_point(ids.get(start + i), row, documents) for i, row in enumerate(vectors)]

    def _metric(self, index: Any) -> str:
        faiss = self._faiss
        known = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "dot"}
        return known.get(index.metric_type, f"{index.metric_type} of faiss.MetricType")

    def _foreign(self, file: Path, index: Any) -> ConfigError:
        """Return the error for an index without a LangChain docstore.

        The error shows Python code that reads the index.
        """
        lines = [f"index = faiss.read_index({file.name!r})"]
        vectors, name = index, "index"
        # Only the inner index returns vectors, and only while the outer one exists.
        if isinstance(index, self._faiss.IndexIDMap):
            lines.append("ids = [str(id) for id in faiss.vector_to_array(index.id_map)]")
            lines.append("inner = faiss.downcast_index(index.index)")
            vectors, name = self._faiss.downcast_index(index.index), "inner"
        if (kind := type(vectors).__name__) not in _EXACT:
            return _inexact(file, kind)
        if hasattr(vectors, "make_direct_map"):
            lines.append(f"{name}.make_direct_map()")
        lines.append(
            "store.create_table_from('docs', {'id': ids, 'embedding': "
            f"{name}.reconstruct_n(0, index.ntotal)}}, metric={self._metric(index)!r})"
        )
        return ConfigError(
            f"{file} has no docstore of LangChain's FAISS.save_local next to it ({file.stem}.pkl), "
            f"and import reads no other; with your ids in Python: {'; '.join(lines)}"
        )


def _inexact(file: Path, kind: str) -> ConfigError:
    return ConfigError(
        f"{file} is an {kind}; the readable kinds are {', '.join(_EXACT)}. If it keeps no exact "
        "vectors, embed the texts again"
    )


def _point(id: Any, vector: Any, documents: dict[str, Any]) -> Point:
    document = documents.get(id)
    state = {} if document is None else document.state
    state = state.get("__dict__", state)
    return Point(id, vector, state.get("metadata") or {}, {"text": state.get("page_content")})


class _Plain:
    """Replaces a LangChain object, and keeps its attributes."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if module.startswith("langchain") and name in ("InMemoryDocstore", "Document"):
            return _Plain
        if (known := _VALUES.get((module, name))) is not None:
            return known
        raise ConfigError(f"the docstore needs {module}.{name}, which aiovec does not load")
