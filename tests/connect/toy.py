"""Backends of another package, installed for one test as pip would: found by their entry points."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.harness import packages

from aiovec.backend.contract import Backend
from aiovec.backend.plugin import BackendPlugin


def _unused(*_: Any, **__: Any) -> Any:
    raise LookupError("these tests open and close only")


class Toy(Backend):
    """Notes what was done with it."""

    name = "toy"

    def __init__(self, target: str, settings: Any = None) -> None:
        self.settings = settings
        self.done: list[str] = []
        self._target = target

    @property
    def target(self) -> str:
        return self._target

    async def open(self) -> None:
        self.done.append("open")
        if self._target == "toy://broken":
            raise OSError("it is broken")
        if self._target == "toy://slow":
            await asyncio.sleep(3600)

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.done.append("close")
        if self._target == "toy://stuck":
            raise OSError("it does not close")

    async def ping(self) -> None:
        self.done.append("ping")

    async def tables(self) -> list[str]:
        return [self._target]

    open_table = create_table = rename_table = drop_table = _unused
    write = alter = read = search = export = stats = optimize = _unused


created: list[Toy] = []
"""The backends that the plugins below made, until ``install`` is called again."""


class ToyPlugin(BackendPlugin):
    name = "toy"

    def create(self, address: str, settings: Any) -> Any:
        created.append(Toy(address, settings))
        return created[-1]


class GivesNoBackend(ToyPlugin):
    name = "unusable"

    def create(self, address: str, settings: Any) -> Any:
        return object()


class NeedsAModule(ToyPlugin):
    name = "missing"

    def create(self, address: str, settings: Any) -> Any:
        import aiovec_module_that_nobody_has

        return aiovec_module_that_nobody_has.Backend()


def no_plugin(address: str, settings: Any) -> Toy:
    return Toy(address, settings)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, **backends: str) -> None:
    """Make names of this module, or ``module:name``, installed backends until the test ends."""
    created.clear()
    lines = [
        f"{name} = {value if ':' in value else f'{__name__}:{value}'}"
        for name, value in backends.items()
    ]
    packages.install(folder, "toys", "\n".join(["[aiovec.backends]", *lines]))
    monkeypatch.syspath_prepend(str(folder))
