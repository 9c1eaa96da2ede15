"""A source that ``aiovec.watch`` follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Feed(ABC):
    """A source that is followed.

    ``source`` names it in messages, without secrets; ``table`` is the store's. The feed deletes
    rows of its ``base`` in that table which the source lacks, or only those of its ``document``.
    ``refused`` has the reasons for rows or documents that were set aside.
    """

    source: str
    table: str
    base: str
    document: str = ""
    refused: Mapping[str, str]

    @abstractmethod
    async def take_turn(self) -> bool:
        """Return whether this process follows now; False while another one does."""

    @abstractmethod
    async def step(self) -> bool:
        """Apply some changes, so that a killed process can continue; False if none is left.

        An error has applied only a part, and the next step begins where it was.
        """

    @abstractmethod
    async def changed(self) -> bool:
        """Wait for a second or longer, and return early and True if a step may find changes."""

    @abstractmethod
    async def last(self) -> int:
        """Return a mark for all that is committed in the source now."""

    @abstractmethod
    async def waiting(self, mark: int | None = None) -> int | None:
        """Return how many changes wait, up to a mark; None if that is not known now.

        Raises LookupError if the source has lost what the mark stands for: make another one.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let the source go."""
