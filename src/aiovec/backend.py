"""The interface for backends: all that an adapter needs of aiovec.

``Backend`` is the contract, with the rules that every method keeps; the classes beside it are the
abilities that not every engine has. The rest helps to keep the rules: threads and limits, locks on
memory, marks of a move, checked Arrow data and filters. docs/BACKENDS.md shows how to write one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._arrays import BoolArray, Float32Array, Float64Array, Int64Array, UInt64Array
from ._core.clock import Clock
from ._core.conditions import Conditions, TableChangedError, under, write_key
from ._core.connect import CONFIG_FILE, CONFIG_VARIABLE, Origin
from ._core.contract import (
    AdviceFacts,
    Advises,
    Backend,
    Backups,
    BulkLoad,
    BulkLoads,
    ChangeFeed,
    Changes,
    ChangesPrunedError,
    Columns,
    Found,
    IndexInfo,
    IndexOptions,
    MemoryNeed,
    Moves,
    Order,
    ReadOnly,
    Restores,
    Snapshots,
    StaleTableError,
    StoredRows,
    TableHandle,
    TableStats,
    TextClause,
    TextQuery,
    TextSearch,
    Tuning,
    VectorIndexes,
    VectorQuery,
    moves_of,
)
from ._core.doctor import Finding, room_at, version_of
from ._core.files import flush_folder, look_at, remove_abandoned
from ._core.group_commit import Committer, GroupCommit, Held, WriteCall, copy_of_error
from ._core.keys import Kept, WriteKey
from ._core.memory import (
    bound_allocator,
    default_budget,
    give_back,
    resident_memory,
    size_text,
    total_memory,
)
from ._core.moving import (
    FINISHED,
    MOVED,
    OPEN,
    PAUSED,
    Destination,
    MoveMark,
    MoveRecord,
    mark_of,
    unreadable_mark,
)
from ._core.once import once
from ._core.patch import PayloadPatch
from ._core.plugin import AddressKey, BackendPlugin, Location
from ._core.pool import in_thread, off_loop, thread_limiter
from ._core.redaction import MASK, cleaned, redacted, secrets_in, without_secrets
from ._core.schema import (
    MAX_DIM,
    Field,
    FieldIndex,
    Kind,
    Metric,
    Schema,
    check_field_name,
    check_table_name,
)
from ._core.threads import (
    FORKED,
    Background,
    PerLoop,
    Unstoppable,
    in_idle_thread,
    is_over,
    start_thread,
    to_its_end,
    wait_out,
)
from ._core.waiting import Admission, Patience, Pauses, Share, one_call, write_admission
from ._embed.making import load as load_embedder
from ._embed.registry import configured_embedder
from ._filters import bind
from ._filters.patterns import ANY_CHARACTER, ANY_TEXT, fold_case, same_letter
from ._filters.terms import NEGATED_OPERATOR, Word, merged, terms_of, word_of
from ._filters.tree import (
    And,
    Compare,
    Const,
    Contains,
    EqualsList,
    Expr,
    In,
    IsNull,
    IsTrue,
    Like,
    Not,
    Or,
    Ref,
    StartsWith,
    Value,
)
from ._http.problems import Problem, error_of, problem_of
from ._locate import (
    is_url,
    local_path,
    locate,
    path_of_url,
    scheme_of,
)
from ._plugins import backend_names, claimed, create_backend, plugin_of
from ._telemetry.events import Place, watch_memory, watch_searches
from ._transfer.sources import (
    Chunk,
    ForeignTable,
    Hints,
    Reject,
    Skipped,
    Source,
    legal_table_name,
)

if TYPE_CHECKING:
    from ._arrow import (
        from_matrix,
        one_array,
        payload_array,
        payload_texts,
        to_matrix,
        without_vector,
    )
    from ._core.distance import distances, is_extreme, nearest_first
    from ._core.ranking import order_of
    from ._input.columns import python_values
    from ._input.rows import last_of_each_id
    from ._settings.load import RetrievalSettings, load_settings
    from ._settings.sections import (
        AnySettings,
        BackendSettings,
        Duration,
        MemorySize,
        bytes_of,
        timedelta_of,
    )
    from ._settings.server import ServerSettings
else:
    # They bring NumPy, pyarrow or pydantic, so they are loaded when one of them is asked for.
    _LATER = {
        "from_matrix": "._arrow",
        "one_array": "._arrow",
        "payload_array": "._arrow",
        "payload_texts": "._arrow",
        "to_matrix": "._arrow",
        "without_vector": "._arrow",
        "distances": "._core.distance",
        "is_extreme": "._core.distance",
        "nearest_first": "._core.distance",
        "python_values": "._input.columns",
        "last_of_each_id": "._input.rows",
        "order_of": "._core.ranking",
        "RetrievalSettings": "._settings.load",
        "load_settings": "._settings.load",
        "AnySettings": "._settings.sections",
        "BackendSettings": "._settings.sections",
        "Duration": "._settings.sections",
        "MemorySize": "._settings.sections",
        "bytes_of": "._settings.sections",
        "timedelta_of": "._settings.sections",
        "ServerSettings": "._settings.server",
    }

    def __getattr__(name):
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_LATER[name], __package__), name)

    def __dir__():
        return sorted({*globals(), *_LATER})


__all__ = [
    "ANY_CHARACTER",
    "ANY_TEXT",
    "CONFIG_FILE",
    "CONFIG_VARIABLE",
    "FINISHED",
    "FORKED",
    "MASK",
    "MAX_DIM",
    "MOVED",
    "NEGATED_OPERATOR",
    "OPEN",
    "PAUSED",
    "AddressKey",
    "Admission",
    "AdviceFacts",
    "Advises",
    "And",
    "AnySettings",
    "Backend",
    "BackendPlugin",
    "BackendSettings",
    "Background",
    "Backups",
    "BoolArray",
    "BulkLoad",
    "BulkLoads",
    "ChangeFeed",
    "Changes",
    "ChangesPrunedError",
    "Chunk",
    "Clock",
    "Columns",
    "Committer",
    "Compare",
    "Conditions",
    "Const",
    "Contains",
    "Destination",
    "Duration",
    "EqualsList",
    "Expr",
    "Field",
    "FieldIndex",
    "Finding",
    "Float32Array",
    "Float64Array",
    "ForeignTable",
    "Found",
    "GroupCommit",
    "Held",
    "Hints",
    "In",
    "IndexInfo",
    "IndexOptions",
    "Int64Array",
    "IsNull",
    "IsTrue",
    "Kept",
    "Kind",
    "Like",
    "Location",
    "MemoryNeed",
    "MemorySize",
    "Metric",
    "MoveMark",
    "MoveRecord",
    "Moves",
    "Not",
    "Or",
    "Order",
    "Origin",
    "Patience",
    "Pauses",
    "PayloadPatch",
    "PerLoop",
    "Place",
    "Problem",
    "ReadOnly",
    "Ref",
    "Reject",
    "Restores",
    "RetrievalSettings",
    "Schema",
    "ServerSettings",
    "Share",
    "Skipped",
    "Snapshots",
    "Source",
    "StaleTableError",
    "StartsWith",
    "StoredRows",
    "TableChangedError",
    "TableHandle",
    "TableStats",
    "TextClause",
    "TextQuery",
    "TextSearch",
    "Tuning",
    "UInt64Array",
    "Unstoppable",
    "Value",
    "VectorIndexes",
    "VectorQuery",
    "Word",
    "WriteCall",
    "WriteKey",
    "backend_names",
    "bind",
    "bound_allocator",
    "bytes_of",
    "check_field_name",
    "check_table_name",
    "claimed",
    "cleaned",
    "configured_embedder",
    "copy_of_error",
    "create_backend",
    "default_budget",
    "distances",
    "error_of",
    "flush_folder",
    "fold_case",
    "from_matrix",
    "give_back",
    "in_idle_thread",
    "in_thread",
    "is_extreme",
    "is_over",
    "is_url",
    "last_of_each_id",
    "legal_table_name",
    "load_embedder",
    "load_settings",
    "local_path",
    "locate",
    "look_at",
    "mark_of",
    "merged",
    "moves_of",
    "nearest_first",
    "off_loop",
    "once",
    "one_array",
    "one_call",
    "order_of",
    "path_of_url",
    "payload_array",
    "payload_texts",
    "plugin_of",
    "problem_of",
    "python_values",
    "redacted",
    "remove_abandoned",
    "resident_memory",
    "room_at",
    "same_letter",
    "scheme_of",
    "secrets_in",
    "size_text",
    "start_thread",
    "terms_of",
    "thread_limiter",
    "timedelta_of",
    "to_its_end",
    "to_matrix",
    "total_memory",
    "under",
    "unreadable_mark",
    "version_of",
    "wait_out",
    "watch_memory",
    "watch_searches",
    "without_secrets",
    "without_vector",
    "word_of",
    "write_admission",
    "write_key",
]
