"""Index builds and compactions with ``lance_ray``."""

from __future__ import annotations

from functools import partial
from typing import Any

import lance_ray

from aiovec.backend.threads import in_thread
from aiovec_lancedb.engines import TablePlace

from .fragments import dataset_of

# The fewest and the most rows in a compacted file. Within these limits, each worker gets about two
# files. Upkeep makes no files with more rows than the maximum.
_LEAST_ROWS, _MOST_ROWS = 65_536, 1_048_576
# The kinds of index that workers build, by lancedb's names; LanceDB builds all other kinds.
_SCALAR = {"BTree": "BTREE", "Bitmap": "BITMAP"}
_VECTOR = {"IvfRq": "IVF_RQ", "IvfPq": "IVF_PQ", "IvfFlat": "IVF_FLAT"}
# The most parts of an index. Each search reads all parts, and upkeep rebuilds an index with more
# than 32 parts.
_MOST_SEGMENTS = 16
_WORDS = (
    "with_position", "base_tokenizer", "language", "max_token_length", "lower_case", "stem",
    "remove_stop_words", "ascii_folding",
)  # fmt: skip
_OPTIONS = ("num_bits", "num_sub_vectors", "sample_rate", "target_partition_size")


class RayMaker:
    """Builds the indexes of one store's tables."""

    def __init__(self, backend: Any, workers: int) -> None:
        self._backend = backend
        self._workers = workers

    async def make(self, table: str, column: str, config: Any, name: str) -> bool:
        """Build an index from a lancedb configuration; return False if the workers cannot build
        it."""
        place: TablePlace = self._backend.place_of(table)
        kind = type(config).__name__
        if kind in _SCALAR:
            build = partial(lance_ray.create_scalar_index, index_type=_SCALAR[kind])
        elif kind == "FTS":
            words = {option: getattr(config, option) for option in _WORDS}
            build = partial(lance_ray.create_scalar_index, index_type="INVERTED", **words)
        elif kind in _VECTOR:
            options = {
                option: value for option in _OPTIONS
                if (value := getattr(config, option, None)) is not None
            }  # fmt: skip
            build = partial(
                lance_ray.create_index, index_type=_VECTOR[kind], metric=config.distance_type,
                max_iters=config.max_iterations, num_segments=min(self._workers, _MOST_SEGMENTS),
                **options,
            )  # fmt: skip
            size = config.target_partition_size
            if size:
                rows = await in_thread(_rows, place)
                build.keywords["num_partitions"] = max(1, rows // size)
        else:
            return False
        build = partial(build, place.uri, column=column, name=name, num_workers=self._workers)
        await in_thread(partial(build, storage_options=dict(place.options)))
        return True


async def compact(place: TablePlace, workers: int) -> None:
    """Merge small files into larger ones before indexes are built, because indexes limit merges."""
    rows = await in_thread(_rows, place)
    target = min(max(rows // (2 * workers), _LEAST_ROWS), _MOST_ROWS)
    work = partial(lance_ray.compact_files, place.uri, num_workers=workers)
    options = {"target_rows_per_fragment": target}
    await in_thread(partial(work, compaction_options=options, storage_options=dict(place.options)))


def _rows(place: TablePlace) -> int:
    return int(dataset_of(place).count_rows())
