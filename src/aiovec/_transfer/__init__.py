"""Tables into files and out of them: Parquet, Arrow IPC, JSON Lines, NumPy with JSON Lines.

Brings pyarrow, so it is imported where it is needed, off the event loop. Readers and writers work
without an event loop; ``load`` and ``save`` run them in threads.
"""

from __future__ import annotations

from .loading import Load, Loaded, Loading, load
from .reading import Input, open_input
from .rejects import Reason, RejectsFile
from .saving import Saved, save

__all__ = [
    "Input",
    "Load",
    "Loaded",
    "Loading",
    "Reason",
    "RejectsFile",
    "Saved",
    "load",
    "open_input",
    "save",
]
