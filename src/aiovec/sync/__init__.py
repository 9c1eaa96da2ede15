"""Stores without ``await``, for scripts and notebooks.

    from aiovec import sync

    with sync.connect("notes.db") as store:
        hits = store.search("notes", vector)

``VectorStore`` and ``Table`` have the methods of ``aiovec.VectorStore`` and ``aiovec.Table``. Every
call blocks its thread until it is done, so ``connect`` raises an error in async code. To use a
store there that was opened elsewhere, ``await aio(store, lambda s: s.search("notes", vector))``.
Several threads can share one store, and their calls overlap. Ctrl-C cancels the call that it
interrupts. A store does not survive ``fork``.
"""

from .store import Table, VectorStore, Watching, aio, connect, watch

__all__ = [
    "Table",
    "VectorStore",
    "Watching",
    "aio",
    "connect",
    "watch",
]
