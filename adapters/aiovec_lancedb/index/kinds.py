"""The kinds of vector index, their options, and the kind that "auto" chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiovec.backend import Schema
from aiovec.errors import InvalidArgumentError

from ..driver import indexing

AUTO = "auto"
NONE = "none"
_RECALL = "recall"

# The training vectors per partition, and the rounds of the training. Lance's defaults, 256 and 50,
# take ten times as long and do not improve the recall (``python -m bench lancedb``).
_SAMPLE_RATE = 64
_ROUNDS = 20
# Bits per dimension of a rotated code. With 4 bits, a search reads few candidates' vectors;
# with 1 bit, about ten times as many.
_BITS = 4
# An index has about as many partitions as the square root of the number of rows, but no more than
# ``_MOST_PARTITIONS``, and at least ``_LEAST_ROWS`` rows in each.
_LEAST_ROWS = 64
_MOST_PARTITIONS = 16_384
# The most numbers in the vectors of a graph that "auto" builds: 260,000 rows of 384 dimensions take
# about four minutes on one core. A graph of 60,000 rows took 56 s, and codes of these rows 12 s. A
# settled table gets a graph of up to 1,040,000 rows, which takes 17 minutes on two cores.
_MOST_OF_A_GRAPH, _MOST_IF_SETTLED = 100_000_000, 400_000_000

_IVF = ("num_partitions", "target_partition_size", "max_iterations", "sample_rate")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of vector index: its name, its lancedb class, its type in Lance, and its options.

    ``refine`` is the number of candidates per hit that Lance ranks again by their vectors, because
    the codes rank candidates too roughly. ``refine`` is None if the codes suffice.
    """

    name: str
    config: str
    type: str
    options: tuple[str, ...]
    refine: int | None = None

    @property
    def graph(self) -> bool:
        """True if each partition has a graph, which is searched with ``ef``."""
        return "m" in self.options

    @property
    def fine(self) -> bool:
        """True if the contents of the index rank rows nearly correctly."""
        return self.graph or self.whole

    @property
    def whole(self) -> bool:
        """True if the index contains whole vectors, not codes."""
        return self.name == "ivf_flat"


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("hnsw_sq", "HnswSq", "IvfHnswSq", (*_IVF, "m", "ef_construction")),
        Kind("ivf_pq", "IvfPq", "IvfPq", (*_IVF, "num_sub_vectors", "num_bits"), refine=10),
        Kind("ivf_flat", "IvfFlat", "IvfFlat", _IVF),
        Kind("ivf_rq", "IvfRq", "IvfRq", (*_IVF, "num_bits")),
    )
}
BY_TYPE = {kind.type: kind for kind in KINDS.values()}


def named(kind: object) -> str:
    """Return the kind's name, or "auto"; otherwise raise InvalidArgumentError."""
    if kind == "hnsw":  # its usual name
        return "hnsw_sq"
    if kind != AUTO and (not isinstance(kind, str) or kind not in KINDS):
        raise InvalidArgumentError("kind", kind, "one of " + ", ".join([AUTO, *KINDS]))
    return kind


def checked_options(
    kind: str, options: Mapping[str, Any], schema: Schema
) -> tuple[float | None, dict[str, int]]:
    """Return the requested recall and the kind's options, or raise InvalidArgumentError."""
    known = () if kind == AUTO else KINDS[kind].options
    for name in options:
        if name != _RECALL and name not in known:
            accepted = "one of " + ", ".join([_RECALL, *known]) + f" for the kind {kind!r}"
            raise InvalidArgumentError("an option", name, accepted)
    recall = options.get(_RECALL)
    is_number = isinstance(recall, (int, float)) and not isinstance(recall, bool)
    if recall is not None and not (is_number and 0 < recall < 1):
        raise InvalidArgumentError(_RECALL, recall, "a number above 0 and below 1")
    if kind == "ivf_rq" and schema.dim % 8:
        raise InvalidArgumentError(
            "kind", kind, f"another kind, because {schema.dim} dimensions are not a multiple of 8"
        )
    chosen = {name: value for name, value in options.items() if name != _RECALL}
    for name, value in chosen.items():
        _check_option(kind, name, value, schema.dim)
    return (None if recall is None else float(recall)), chosen


def _check_option(kind: str, name: str, value: object, dim: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgumentError(name, value, "a whole number of at least 1")
    if name == "num_sub_vectors" and dim % value:
        raise InvalidArgumentError(name, value, f"a divisor of the vectors' length {dim}")
    if name == "num_bits":
        allowed = range(1, 9) if kind == "ivf_rq" else (4, 8)
        if value not in allowed:
            listed = "from 1 to 8" if kind == "ivf_rq" else "4 or 8"
            raise InvalidArgumentError(name, value, listed)
    if name == "num_partitions" and value > 2**20:
        raise InvalidArgumentError(name, value, "at most 1048576")


def chosen_kind(schema: Schema, rows: int, *, graph: bool, settled: bool) -> str:
    """Return the kind that "auto" builds.

    With ``graph``, "auto" builds a graph if the build takes only a few minutes, or longer if the
    table is ``settled``. Otherwise, "auto" builds partitions of rotated codes: searches cost more,
    but the build takes a fifth of the time. Rotated codes need a number of dimensions that is a
    multiple of 8; for other vectors, the partitions contain whole vectors.
    """
    if graph and rows * schema.dim <= (_MOST_IF_SETTLED if settled else _MOST_OF_A_GRAPH):
        return "hnsw_sq"
    return "ivf_flat" if schema.dim % 8 else "ivf_rq"


def plan_of(kind: str, options: Mapping[str, int], rows: int, dim: int) -> dict[str, int]:
    """Return the options of a build, with defaults for the options that the user left out."""
    plan = dict(options)
    if not (KINDS[kind].graph or "target_partition_size" in plan):
        partitions = min(math.isqrt(rows), rows // _LEAST_ROWS, _MOST_PARTITIONS)
        plan.setdefault("num_partitions", max(1, partitions))
    plan.setdefault("sample_rate", _SAMPLE_RATE)
    plan.setdefault("max_iterations", _ROUNDS)
    if kind == "ivf_rq":
        plan.setdefault("num_bits", _BITS)
    if kind == "ivf_pq":
        # One part per 8 dimensions, or the next smaller number that divides ``dim``.
        parts = (count for count in range(1, max(1, dim // 8) + 1) if dim % count == 0)
        plan.setdefault("num_sub_vectors", max(parts))
    return plan


def config_of(kind: str, plan: Mapping[str, int], rows: int, metric: str) -> Any:
    """Return lancedb's configuration for a build.

    Lance gets the size of partitions instead of their number: it stores the size with the index and
    applies it in each ``optimize``. Without the size, the first ``optimize`` joined 343 partitions
    into 8.
    """
    options = dict(plan)
    if (number := options.pop("num_partitions", None)) is not None:
        options["target_partition_size"] = max(1, rows // number)
    return getattr(indexing, KINDS[kind].config)(distance_type=metric, **options)
