"""Tables into files and out of them: Parquet, Arrow IPC, JSON Lines, CSV.

Brings pyarrow, so it is imported where it is needed, off the event loop. Readers and writers work
without an event loop; ``load`` and ``save`` run them in threads.
"""

from __future__ import annotations

from .files import schema_in
from .loading import Load, Loaded, Loading, load
from .reading import Input, open_input
from .rejects import Reason, RejectsFile
from .saving import Saved, save
from .streams import InputStream, OutputStream

__all__ = [
    "Input",
    "InputStream",
    "Load",
    "Loaded",
    "Loading",
    "OutputStream",
    "Reason",
    "RejectsFile",
    "Saved",
    "load",
    "open_input",
    "save",
    "schema_in",
]
