"""With this folder in PYTHONPATH, Python's sqlite3 loads no extensions, like that of many Pythons.

Stores then use sqlcipher3.
"""

import sqlite3
from functools import partial


class Plain(sqlite3.Connection):
    enable_load_extension = property()  # type: ignore[assignment]  # raises AttributeError


sqlite3.connect = partial(sqlite3.connect, factory=Plain)
