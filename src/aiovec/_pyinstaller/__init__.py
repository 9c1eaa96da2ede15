"""The hook by which PyInstaller bundles an app that uses aiovec."""

from __future__ import annotations


def hook_dirs() -> list[str]:
    """Return the folders with our hooks; the entry point ``pyinstaller40`` names this function."""
    return [*__path__]
