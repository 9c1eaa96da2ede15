"""A load in parts: workers write files that no version refers to yet, and one commit adds them.

These functions do not use Ray. ``lance_ray.write_lance`` is not used: it retries a failed write
with a half-consumed reader, and so loses rows without an error. A load in parts adds no row if
a worker fails.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import write_fragments

from aiovec.backend import Schema, UInt64Array
from aiovec.backend.engine import ReadSource
from aiovec.errors import AiovecError
from aiovec_lancedb.engines import TablePlace, stored_form

_HASH_BYTES = 8
# The minimum age of versions that a cleanup removes. No version is that old, so all are kept.
_NEVER = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class Written:
    """The result of loading one source: its fragments as JSON, its number of rows, and its ids'
    hashes."""

    fragments: Sequence[str]
    rows: int
    hashes: UInt64Array


def write_source(source: str, place: TablePlace, schema: Schema, read: ReadSource) -> Written:
    """Write the rows of a source as files of the table, and check the number of rows."""
    layout = dataset_of(place).schema
    hashed: list[UInt64Array] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in read(source, schema):
            hashed.append(hashes_of(rows.column("id").to_pylist()))
            stored = stored_form(rows, schema).select(layout.names)
            for batch in stored.to_batches():
                yield pa.RecordBatch.from_arrays(batch.columns, schema=layout)

    reader = pa.RecordBatchReader.from_batches(layout, batches())
    fragments = write_fragments(
        reader, place.uri, schema=layout, mode="append", storage_options=dict(place.options)
    )
    hashes = np.concatenate([np.empty(0, np.uint64), *hashed])
    written = sum(fragment.physical_rows for fragment in fragments)
    if written != len(hashes):
        raise AiovecError(f"{source}: {written:,} rows were written of {len(hashes):,}")
    texts = [json.dumps(fragment.to_json()) for fragment in fragments]
    return Written(texts, written, hashes)


def ids_of(source: str, schema: Schema, read: ReadSource, hashes: UInt64Array) -> list[str]:
    """Return a source's ids whose hashes are among these hashes."""
    matches: list[str] = []
    for rows in read(source, schema):
        ids = rows.column("id").to_pylist()
        matches += [ids[at] for at in np.flatnonzero(np.isin(hashes_of(ids), hashes)).tolist()]
    return matches


def groups_of(place: TablePlace, version: int, count: int) -> list[list[int]]:
    """Return the numbers of a version's fragments, divided into at most ``count`` groups."""
    dataset = dataset_of(place, version)
    numbers = [fragment.fragment_id for fragment in dataset.get_fragments()]
    return [numbers[first::count] for first in range(min(count, len(numbers)))]


def ids_among(
    place: TablePlace, version: int, numbers: Sequence[int], hashes: UInt64Array, most: int
) -> list[str]:
    """Return up to ``most`` ids in these fragments whose hashes are in the sorted ``hashes``."""
    dataset = dataset_of(place, version)
    matches: list[str] = []
    for number in numbers:
        for batch in dataset.get_fragment(number).to_batches(columns=["id"]):
            ids = batch.column(0).to_pylist()
            hashed = hashes_of(ids)
            at = np.searchsorted(hashes, hashed).clip(max=len(hashes) - 1)
            matches += [ids[place] for place in np.flatnonzero(hashes[at] == hashed).tolist()]
            if len(matches) >= most:
                return matches[:most]
    return matches


def dataset_of(place: TablePlace, version: int | None = None) -> lance.LanceDataset:
    """Return a version of a table as a Lance dataset, by default the newest version."""
    return lance.dataset(place.uri, version=version, storage_options=dict(place.options))


def all_hashes(parts: Iterable[UInt64Array]) -> UInt64Array:
    """Return the hashes of all parts, sorted."""
    return np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))


def repeated(parts: Iterable[UInt64Array]) -> UInt64Array:
    """Return the hashes that occur more than once."""
    ordered = all_hashes(parts)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def commit(place: TablePlace, fragments: Iterable[str], version: int, run: str) -> None:
    """Add files to the table in one commit, which fails if the table has been restored to an older
    version since ``version``."""
    metadata = [lance.FragmentMetadata.from_json(text) for text in fragments]
    lance.LanceDataset.commit(
        place.uri,
        lance.LanceOperation.Append(metadata),
        read_version=version,
        storage_options=dict(place.options),
        commit_message=run,
    )


def sweep(place: TablePlace) -> None:
    """Remove files that no version of the table refers to; keep all versions."""
    dataset = dataset_of(place)
    dataset.cleanup_old_versions(older_than=_NEVER, delete_unverified=True)


def hashes_of(ids: Sequence[Any]) -> UInt64Array:
    digests = (hashlib.blake2b(id.encode(), digest_size=_HASH_BYTES).digest() for id in ids)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
