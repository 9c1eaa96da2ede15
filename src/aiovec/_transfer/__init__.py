"""Import and export: Parquet, Arrow IPC, JSON Lines and CSV.

Imports pyarrow, so import it off the event loop. ``load`` and ``save`` read and write in threads.
"""

from __future__ import annotations

from .bulk import SourceReader, files_of, load_files
from .files import schema_in
from .loading import Load, RejectsFile, load, rehearse
from .reading import Input, open_input, open_source
from .saving import Saved, save

__all__ = [
    "Input", "Load", "RejectsFile", "Saved", "SourceReader", "files_of", "load", "load_files",
    "open_input", "open_source", "rehearse", "save", "schema_in",
]  # fmt: skip
