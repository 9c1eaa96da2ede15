"""The two ends of a migration."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aiovec.backend import Backend

from .model import Identity

PathText = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Place:
    """A store that a migration reads or writes.

    ``configured`` is its name in the TOML, empty where it was named by a target. Of a store that is
    ``missing`` the backend is not open, for that would make it.
    """

    backend: Backend
    configured: str = ""
    missing: bool = False

    @property
    def identity(self) -> Identity:
        return Identity(self.backend.name, self.backend.target)

    def __str__(self) -> str:
        return str(self.identity)
