"""Databases of programs that aiovec knows by their tables and does not read yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..layout import quoted
from .catalog import Catalog

_PAGE = "docs/VECTOR_SEARCH.md shows how"
_CHROMA = frozenset({
    "collection_metadata", "collections", "databases", "embedding_fulltext",
    "embedding_fulltext_search", "embedding_metadata", "embedding_metadata_array", "embeddings",
    "embeddings_queue", "embeddings_queue_config", "maintenance_log", "max_seq_id", "migrations",
    "segment_metadata", "segments", "tenants",
})  # fmt: skip

CURES: Mapping[str, str] = MappingProxyType(
    {
        "Chroma": "its vectors lie in index files beside it, and its table embeddings_queue is a "
        "log that holds some of them only. Write each collection to a JSON Lines file with "
        "chromadb's collection.get, and import that file",
        "Qdrant (local mode)": "its points are pickled, and unpickling a file can run any code. "
        "Write each collection to a JSON Lines file with qdrant_client's scroll, and import that "
        "file",
        "llm": "its ids are unique within a collection only, and each collection has a model of "
        "its own. Make a view of each collection in a copy of the file, and import that",
    }
)


@dataclass(frozen=True, slots=True)
class Program:
    """Another program's tables in a database: its name, their names, and its rows."""

    name: str
    tables: frozenset[str]
    rows: int

    @property
    def reason(self) -> str:
        return reason_of(self.name)


def reason_of(program: str) -> str:
    """Why a program's database is not imported, and what to do."""
    return f"this is a database of {program}, which aiovec does not read: {CURES[program]}; {_PAGE}"


def programs(db: sqlite3.Connection, catalog: Catalog) -> list[Program]:
    """The known programs whose tables the database holds."""
    found: list[tuple[str, frozenset[str] | None, str]] = [
        ("Chroma", _chroma(catalog), "embeddings"),
        ("llm", _llm(catalog), "embeddings"),
        ("Qdrant (local mode)", _qdrant(db, catalog), "points"),
    ]
    return [
        Program(name, tables, catalog.count(counted) if counted in catalog else 0)
        for name, tables, counted in found
        if tables is not None
    ]


def _chroma(catalog: Catalog) -> frozenset[str] | None:
    names = {*catalog.ordinary, *catalog.modules}
    return _CHROMA if {"embeddings_queue", "collections", "segments"} <= names else None


def _llm(catalog: Catalog) -> frozenset[str] | None:
    if not {"embeddings", "collections"} <= set(catalog.ordinary):
        return None
    keys = {column.name for column in catalog.columns("embeddings") if column.in_key}
    names = {column.name for column in catalog.columns("embeddings")}
    held = {column.name for column in catalog.columns("collections")}
    ours = keys == {"collection_id", "id"} and "embedding" in names and {"name", "model"} <= held
    return frozenset({"embeddings", "collections"}) if ours else None


def _qdrant(db: sqlite3.Connection, catalog: Catalog) -> frozenset[str] | None:
    if "points" not in catalog.ordinary:
        return None
    if [column.name for column in catalog.columns("points")] != ["id", "point"]:
        return None
    row = db.execute(f"SELECT point FROM {quoted('points')} LIMIT 1").fetchone()
    pickled = row is None or (isinstance(row[0], bytes) and row[0][:1] == b"\x80")
    return frozenset({"points"}) if pickled else None


def _holds_chroma(folder: Path) -> bool:
    return (folder / "chroma.sqlite3").is_file()


def _holds_qdrant(folder: Path) -> bool:
    return next(folder.glob("collection/*/storage.sqlite"), None) is not None


_FOLDERS: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("Chroma", _holds_chroma),
    ("Qdrant (local mode)", _holds_qdrant),
)


def program_of_folder(folder: Path) -> str | None:
    """The known program whose data a folder holds."""
    return next((name for name, holds in _FOLDERS if holds(folder)), None)
