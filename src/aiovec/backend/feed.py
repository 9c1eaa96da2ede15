"""A source that ``aiovec.watch`` follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Feed(ABC):
    """A source that is followed, and the table into which its changes go.

    ``source`` names the source in messages, without secrets. The feed deletes rows from ``table``
    that the source no longer has, but only those that belong to its ``base`` and, if set, its
    ``document``. ``refused`` has the reasons for rows or documents that were set aside.
    """

    source: str
    table: str
    base: str
    document: str = ""
    refused: Mapping[str, str]

    @abstractmethod
    async def take_turn(self) -> bool:
        """Return whether this process follows the source now; False while another process does."""

    @abstractmethod
    async def step(self) -> bool:
        """Apply some of the waiting changes; return False if none are left.

        If the step fails or the process is killed, some changes may be applied; the next step
        continues from there.
        """

    @abstractmethod
    async def changed(self) -> bool:
        """Return True as soon as a step may find changes, or False if none is seen for a second or
        longer."""

    @abstractmethod
    async def last(self) -> int:
        """Return a mark for the newest change committed in the source."""

    @abstractmethod
    async def waiting(self, mark: int | None = None) -> int | None:
        """Return the number of waiting changes, up to a mark; None if the number is not known now.

        Raises LookupError if the source no longer knows the mark: get a new one from ``last``.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release the source."""
