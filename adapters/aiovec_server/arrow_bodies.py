"""Arrow IPC streams in the bodies of requests.

What a client sends may be made to fill the memory: compressed buffers, dictionaries, run ends and
views can stand for gigabytes in a few bytes. So a body has plain columns, and only those.
"""

from __future__ import annotations

import pyarrow as pa

from aiovec._http.ipc import DamagedStreamError, read_stream

from .problems import RequestError


def read_table(data: bytes | bytearray) -> pa.Table:
    """Return the rows of an Arrow IPC stream, whose values are not validated yet."""
    try:
        table = read_stream(data)
    except DamagedStreamError as exc:
        raise RequestError(400, str(exc)) from exc
    for field in table.schema:
        if not _is_plain(field.type):
            raise RequestError(
                422,
                f"the column {field.name!r} is of the Arrow type {field.type}, which can be far "
                "larger than its bytes; cast it to a plain type",
            )
    return table


def _is_plain(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _is_plain(kind.storage_type)
    if (
        pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
        or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)
        or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
        or pa.types.is_union(kind)
    ):  # fmt: skip
        return False
    return all(_is_plain(kind.field(n).type) for n in range(kind.num_fields))
