"""Hooks for PyInstaller, which bundles apps that use aiovec."""

from __future__ import annotations


def hook_dirs() -> list[str]:
    """Return the folders with our hooks. The entry point ``pyinstaller40`` names this function."""
    return [*__path__]
