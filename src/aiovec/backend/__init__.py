"""The interface to backends: docs/internals/writing-a-backend.md shows how to write one.

The modules are the interface. A backend implements ``contract``; ``commit`` groups its writes, and
``limits`` limits its calls; ``sql`` compiles its filters; ``threads`` and ``files`` do its work off
the event loop; ``marks`` defines a migration's marks; ``plugin``, ``config`` and ``place`` find a
backend and its settings. This module re-exports names from the layers below: schemas, Arrow data,
filters, snippets and redaction.
"""

from __future__ import annotations

from .._filters import bind as bind
from .._filters.patterns import ANY_CHARACTER as ANY_CHARACTER
from .._filters.patterns import ANY_TEXT as ANY_TEXT
from .._filters.patterns import fold_case as fold_case
from .._filters.patterns import same_letter as same_letter
from .._filters.tree import And as And
from .._filters.tree import Compare as Compare
from .._filters.tree import Const as Const
from .._filters.tree import Contains as Contains
from .._filters.tree import EqualsList as EqualsList
from .._filters.tree import Expr as Expr
from .._filters.tree import In as In
from .._filters.tree import IsNull as IsNull
from .._filters.tree import IsTrue as IsTrue
from .._filters.tree import Like as Like
from .._filters.tree import Not as Not
from .._filters.tree import Or as Or
from .._filters.tree import Ref as Ref
from .._filters.tree import StartsWith as StartsWith
from .._filters.tree import Value as Value
from .._model.arrays import BoolArray as BoolArray
from .._model.arrays import Float32Array as Float32Array
from .._model.arrays import Float64Array as Float64Array
from .._model.arrays import Int64Array as Int64Array
from .._model.arrays import UInt64Array as UInt64Array
from .._model.arrow import from_matrix as from_matrix
from .._model.arrow import one_array as one_array
from .._model.arrow import payload_array as payload_array
from .._model.arrow import payload_texts as payload_texts
from .._model.arrow import python_values as python_values
from .._model.arrow import to_matrix as to_matrix
from .._model.arrow import unstorable as unstorable
from .._model.arrow import without_vector as without_vector
from .._model.json_text import LossyJsonError as LossyJsonError
from .._model.json_text import read_json as read_json
from .._model.kinds import Kind as Kind
from .._model.patch import PayloadPatch as PayloadPatch
from .._model.records import Rank as Rank
from .._model.schema import ANALYZERS as ANALYZERS
from .._model.schema import LANGUAGES as LANGUAGES
from .._model.schema import MAX_DIM as MAX_DIM
from .._model.schema import Field as Field
from .._model.schema import FieldIndex as FieldIndex
from .._model.schema import Metric as Metric
from .._model.schema import Schema as Schema
from .._model.schema import check_field_name as check_field_name
from .._model.schema import check_table_name as check_table_name
from .._model.schema import may_lack_vectors as may_lack_vectors
from .._search.accents import accented as accented
from .._search.accents import spellings as spellings
from .._search.accents import unaccented as unaccented
from .._search.distance import distances as distances
from .._search.distance import nearest_first as nearest_first
from .._search.fusion import FusedHit as FusedHit
from .._search.fusion import all_words_first as all_words_first
from .._search.fusion import least as least
from .._search.letters import ends_in_letter as ends_in_letter
from .._search.letters import in_pairs as in_pairs
from .._search.letters import pattern_of as pattern_of
from .._search.letters import runs_of as runs_of
from .._search.letters import script_of as script_of
from .._search.letters import unified as unified
from .._search.letters import variants as variants
from .._search.query import TextClause as TextClause
from .._search.snippets import Texts as Texts
from .._search.snippets import part_snippets as part_snippets
from .._search.snippets import word_snippets as word_snippets
from .._telemetry.spans import called_by as called_by
from .._tools.lazy_arrow import is_array as is_array
from .._tools.lazy_arrow import is_list as is_list
from .._tools.lazy_arrow import needs_arrow as needs_arrow
from .._tools.lazy_arrow import pa as pa
from .._tools.lazy_arrow import pc as pc
from .._tools.messages import shown as shown
from .._tools.packages import installed as installed
from .._tools.redaction import cleaned as cleaned
from .._tools.redaction import redacted as redacted
from .._tools.redaction import secrets_in as secrets_in
from .._tools.redaction import without_secrets as without_secrets
