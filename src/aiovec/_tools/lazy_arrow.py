"""pyarrow, imported at its first use: a SQLite store works without it.

Modules of a store import ``pa`` and ``pc`` from here. The functions that test values do not import
pyarrow: a caller that passes a pyarrow object has already imported pyarrow.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import AiovecError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

__all__ = ["pa", "pc"]  # for type checkers: other modules import these from here

REINSTALL_ARROW = 'pip install --force-reinstall "aiovec[arrow]"'


def needs_arrow(exc: ImportError) -> AiovecError | None:
    """Return the error for a call that needs pyarrow; None if ``exc`` is about another package.

    pyarrow 26 cannot be imported together with NumPy 1, and its metadata does not say so.
    """
    needs = "Arrow tables, data frames, exports, migrations and files need pyarrow"
    if isinstance(exc, ModuleNotFoundError) and exc.name == "pyarrow":
        return AiovecError(f'{needs}, which is not installed; run: pip install "aiovec[arrow]"')
    if "pyarrow" not in f"{exc.name} {exc}":
        return None
    return AiovecError(f"{needs}, which cannot be imported: {exc}; {REINSTALL_ARROW}")


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            module = import_module(self.__name__)
        except ImportError as exc:
            raise needs_arrow(exc) or exc from exc
        value = getattr(module, name)
        setattr(self, name, value)  # later uses find it without this method
        return value


if not TYPE_CHECKING:
    pa, pc = _Lazy("pyarrow"), _Lazy("pyarrow.compute")


def is_of(value: object, library: str, *names: str) -> bool:
    """Return whether a value is an instance of one of the named classes of a library.

    Does not import the library.
    """
    if (module := sys.modules.get(library)) is None:
        return False
    for name in names:  # some classes are missing while another thread imports the library
        kind = getattr(module, name, None)
        if isinstance(kind, type) and isinstance(value, kind):
            return True
    return False


def is_array(value: object) -> bool:
    """Return whether a value is a pyarrow array, chunked or not."""
    return type(value) is not list and is_of(value, "pyarrow", "Array", "ChunkedArray")


def is_table(value: object) -> bool:
    """Return whether a value is a pyarrow table or record batch."""
    return is_of(value, "pyarrow", "Table", "RecordBatch")


def is_text(kind: pa.DataType) -> bool:
    """Return whether a pyarrow type is text, of any width."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Return whether a pyarrow type is a list, of any size and item type."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def arrow_errors() -> tuple[type[Exception], ...]:
    """Return the base class of pyarrow's exceptions, or () if pyarrow was not imported."""
    kind = getattr(sys.modules.get("pyarrow"), "ArrowException", None)
    return () if kind is None else (kind,)
