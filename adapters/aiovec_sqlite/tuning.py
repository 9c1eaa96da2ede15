"""What a search may leave out: only what its caller, or the settings, asked for."""

from __future__ import annotations

import math

from aiovec.backend import VectorQuery

# Rows measured with whole vectors, for each one wanted, where a prefix ranks the others
# (``python -m bench search``).
PREFIX_OVERSAMPLE = 4.0


def prefix_of(query: VectorQuery, dim: int) -> int | None:
    """How many components rank the rows; None where all of them do."""
    dims = None if query.tuning is None else query.tuning.dims
    return None if query.exact or dims is None or dims >= dim else dims


def oversampled(query: VectorQuery, default: float, rows: int) -> int:
    """How many of some rows are measured with whole vectors."""
    told = None if query.tuning is None else query.tuning.oversample
    factor = default if told is None else told
    return min(rows, max(query.limit, math.ceil(query.limit * factor)))
