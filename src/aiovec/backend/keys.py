"""The keys of writes: a write that is repeated under its key is done once.

A caller who got no answer does not know whether the write was done, and repeats it under the same
key. A backend that promises "once" commits the key with the write.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class WriteKey:
    """The name that a caller gave to one write, to repeat it without doing it twice.

    ``digest`` is that of the write itself: the same key with another digest is another write, which
    is refused.
    """

    name: str
    digest: bytes

    def check(self, digest: bytes) -> None:
        """Raise InvalidArgumentError unless the write that had this key before was the same."""
        if digest != self.digest:
            raise InvalidArgumentError(
                "the idempotency key", self.name, "a new one: another write was done under it"
            )


@dataclass(frozen=True, slots=True)
class Kept:
    """The trace that a write has left under its key.

    ``outcome`` is the number of rows that the write returned, None of one that returns nothing.
    Where ``done`` is false the write was begun, and nobody knows whether it was done.
    """

    outcome: int | None = None
    done: bool = True
