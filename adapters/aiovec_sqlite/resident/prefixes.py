"""Values of rows by the codes of their first components alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numkong
import numpy as np

from aiovec.backend import Metric

from .codes import Float32Array, encode_queries
from .segments import Segment, State
from .workspace import Workspace

# Prefix lengths that are kept; for others the rows' lengths are computed again each time.
_MOST_KEPT = 1
# Rows whose lengths are computed at once.
_BLOCK = 2048


class Prefixes:
    """The lengths of the prefixes of one copy's codes, for each prefix that is searched.

    They take four bytes a row, and are kept by segment as masks are: rows that came since stand
    behind the others.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, dict[object, Float32Array]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(part.nbytes for kept in self._kept.values() for part in kept.values())

    def of(self, state: State, dims: int) -> dict[object, Float32Array]:
        """The lengths by segment's mark, for the segments of a state; kept for the next search."""
        with self._lock:
            known = dict(self._kept.get(dims, ()))
        found = {}
        for segment in state.segments:
            done = known.get(segment.mark)
            if done is None or len(done) < segment.count:
                start = 0 if done is None else len(done)
                more = lengths(segment, dims, start)
                done = more if done is None else np.concatenate([done, more])
            found[segment.mark] = done
        with self._lock:
            self._kept[dims] = found
            self._kept.move_to_end(dims)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return found


def lengths(segment: Segment, dims: int, start: int = 0) -> Float32Array:
    """The lengths of prefixes of codes, from a row on."""
    parts = [
        np.sqrt(np.square(segment.codes[first : first + _BLOCK, :dims], dtype=np.float32).sum(1))
        for first in range(start, segment.count, _BLOCK)
    ]
    # The last block may reach into room for more.
    whole: Float32Array = np.concatenate(parts)[: segment.count - start]
    return whole


class PrefixValues:
    """For a batch of queries the values of rows by their first ``dims`` components."""

    def __init__(
        self,
        queries: Sequence[Float32Array],
        dims: int,
        metric: Metric,
        kept: dict[object, Float32Array],
        workspace: Workspace,
    ) -> None:
        # As for dot products: a length of zero divides nothing.
        codes = encode_queries(np.stack([query[:dims] for query in queries]), "dot")
        self._codes = np.stack([one.codes for one in codes])
        self._scales = np.array([one.scale for one in codes], dtype=np.float32)
        self._packed = numkong.dots_pack(self._codes) if len(codes) > 1 else None
        # A lone query reads whole rows: memory that is read through comes faster than parts of it,
        # up to twice as fast (``python -m bench search``). A batch reads the parts.
        self._padded = np.pad(self._codes, ((0, 0), (0, len(queries[0]) - dims)))
        self._dims = dims
        self._metric = metric
        self._kept = kept
        self._workspace = workspace

    def __call__(self, segment: Segment) -> Float32Array:
        """The values, which are overwritten by the thread's next ones."""
        count, queries = segment.count, len(self._codes)
        values = self._workspace.values(count, queries)
        np.copyto(
            values, np.asarray(self._products(segment)).reshape(count, queries), casting="unsafe"
        )
        scale = segment.scale[: segment.count]
        if self._metric == "dot":
            values *= scale[:, None]
            return values
        length = self._kept.get(segment.mark)
        if length is None:
            length = lengths(segment, self._dims)
        length = length[: segment.count]
        if self._metric == "cosine":
            # The scale stands for the whole vector and falls out.
            values /= np.where(length > 0, length, np.float32(1.0))[:, None]
            return values
        values *= scale[:, None] * self._scales
        values -= (np.square(scale * length) / 2)[:, None]
        return values

    def _products(self, segment: Segment) -> Any:
        if self._packed is None:
            rows = segment.codes[: segment.count]
            return numkong.cdist(rows, self._padded, "dot", out_dtype="float32")
        # The kernel does not copy the rows, though they are parts of longer ones.
        rows = segment.codes[: segment.count, : self._dims]
        room = self._workspace.products(len(rows), len(self._codes))
        return numkong.dots_packed(rows, self._packed, out=room)
