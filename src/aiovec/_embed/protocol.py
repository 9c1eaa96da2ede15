"""The protocol of an embedder, as an app writes it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from .._input.types import Vectors

Purpose = Literal["document", "query"]
"""A text is embedded to be stored, or to be searched with; some models differ between them."""


class Embedder(Protocol):
    """A callable that makes a vector of each text, in their order.

    An asynchronous one is awaited on the event loop; a plain one runs in a thread, one call at a
    time. It gets at most 64 texts in a call, or ``batch_size`` if it has such an attribute. If it
    has a parameter ``kind``, that is ``"document"`` or ``"query"``. An exception other than
    TypeError, ValueError and the like counts as passing, and the call is repeated.
    """

    @property
    def model(self) -> str:
        """The name of the model, which a table of its vectors keeps."""
        ...

    @property
    def dim(self) -> int | None:
        """The length of its vectors; None if the store shall find it by a call with a text."""
        ...

    def __call__(self, texts: list[str], /) -> Awaitable[Vectors] | Vectors:
        """Return or await one vector for each text."""
        ...


EmbedderOption = Embedder | Mapping[str, object] | str
"""An embedder, the keys of one as in ``[retrieval.embedders.<name>]``, or a kind that needs no
others, such as "demo"."""
