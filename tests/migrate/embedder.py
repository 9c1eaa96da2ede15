"""Embedders that a TOML file names as ``kind = "tests.migrate.embedder:NAME"``."""

from __future__ import annotations

failing = False
"""True if the service of ``new`` fails after the first texts."""
seen: list[str] = []
"""The texts that ``new`` was asked to embed."""


async def old(texts: list[str]) -> list[list[float]]:
    return [old_vector(text) for text in texts]


def old_vector(text: str) -> list[float]:
    return [1.0, float(len(text)), 2.0, 3.0]


async def new(texts: list[str]) -> list[list[float]]:
    if failing and len(seen) > 40:
        raise ValueError("the service is gone")
    seen.extend(texts)
    return [vector(text) for text in texts]


def vector(text: str) -> list[float]:
    return [1.0 + len(text), float(sum(map(ord, text))), 1.0]


async def wrong(texts: list[str]) -> list[list[float]]:
    return [[1.0, 2.0] for _ in texts]
