"""A third-party backend without the abilities "moves" and "changes", based on a SQLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiovec.backend.contract import Backend
from aiovec.backend.place import find_place
from aiovec.backend.plugin import plugin_of
from aiovec.backend.settings import not_empty

_Backend: Any = type(find_place(":memory:").create())
_Plugin: Any = type(plugin_of("sqlite"))


class Plain(_Backend):
    name = "plain"

    def supports(self, ability: str) -> bool:
        return ability not in ("moves", "changes") and super().supports(ability)


class PlainPlugin(_Plugin):
    name = "plain"
    address_key = "plain_path"
    address_field = not_empty("plain.db", description="The file.")

    def locate(self, target: str, base: Path | None = None) -> str:
        address: str = super().locate(target.removeprefix("plain://"), base)
        return address

    def create(self, address: str, settings: Any) -> Backend:
        backend: Backend = Plain(address, settings)
        return backend
