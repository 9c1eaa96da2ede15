"""aiovec: the vector store that asynchronous web apps can await."""

from .backend import IndexInfo, TableStats, Tuning
from .connect import connect
from .errors import (
    AiovecError,
    BackendNotInstalledError,
    ConfigError,
    CorruptStoreError,
    DimensionMismatchError,
    DuplicateIdError,
    ExtensionUnavailableError,
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    InvalidVectorError,
    MigrationError,
    ModelMismatchError,
    SchemaMismatchError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreMovedError,
    TableExistsError,
    TableNotFoundError,
    UnsupportedError,
)
from .filters import F
from .ranking import RRF, Weighted
from .records import Hit, Record
from .schema import Field, Schema
from .store import VectorStore
from .table import Table

__version__ = "0.1.0"

__all__ = [
    "RRF",
    "AiovecError",
    "BackendNotInstalledError",
    "ConfigError",
    "CorruptStoreError",
    "DimensionMismatchError",
    "DuplicateIdError",
    "ExtensionUnavailableError",
    "F",
    "Field",
    "FilterError",
    "Hit",
    "IndexInfo",
    "InvalidArgumentError",
    "InvalidNameError",
    "InvalidRowError",
    "InvalidVectorError",
    "MigrationError",
    "ModelMismatchError",
    "Record",
    "Schema",
    "SchemaMismatchError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreFullError",
    "StoreMovedError",
    "Table",
    "TableExistsError",
    "TableNotFoundError",
    "TableStats",
    "Tuning",
    "UnsupportedError",
    "VectorStore",
    "Weighted",
    "connect",
]
