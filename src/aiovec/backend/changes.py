"""Changes to a table, as objects: changes to rows for ``Backend.write``, and changes to the schema
for ``Backend.alter``."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._filters.tree import Expr
from .._model.arrays import Float32Array
from .._model.patch import PayloadPatch
from .._model.schema import Field, FieldIndex, Schema, check_field_name
from .._tools.messages import did_you_mean, listed, shown
from ..errors import InvalidArgumentError, InvalidRowError
from .rows import Batch

# Rows


@dataclass(frozen=True, slots=True, eq=False)
class Insert:
    """Add rows with distinct ids; the result is the number of added rows.

    Raises DuplicateIdError if one of the ids exists; with ``skip_existing``, skips that row.
    """

    rows: Batch
    skip_existing: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Upsert:
    """Add rows with distinct ids; each row completely replaces a stored row that has the same id.

    The result is the number of rows. Raises InvalidRowError, and writes nothing, if a row differs
    from the stored row in a partition field. With ``moves``, as in a migration, the row is moved to
    its new partition.
    """

    rows: Batch
    moves: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Set fields and change the payload in the rows that both ``ids`` and ``where`` select.

    ``ids`` are distinct. If ``ids`` or ``where`` is None, it selects every row. With ``vector``,
    each row gets this vector; in tables with ``vector_nullable``, a vector of NaN removes the
    stored one. If ``payload.apply`` raises for a row, nothing is changed. The result is the number
    of rows.
    """

    values: Mapping[str, Any]
    payload: PayloadPatch
    ids: Sequence[str] | None
    where: Expr | None = None
    vector: Float32Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class UpdateRows:
    """Give each row its own values, by its id; the result is the number of rows that existed.

    The ids are distinct across all ``parts``. A part has the fields to set, and the vectors unless
    they stay unchanged; a vector of NaN removes a row's vector. ``payloads`` changes the payloads
    of all rows of a part, or of none. Missing ids are skipped; with ``strict``, they raise
    InvalidRowError, and nothing is changed.
    """

    parts: Sequence[Batch]
    payloads: Mapping[str, PayloadPatch] = field(default_factory=dict)
    strict: bool = False

    @property
    def ids(self) -> list[str]:
        return [id for part in self.parts for id in part.ids]

    def patches(self, part: Batch) -> bool:
        """Return whether the update changes the payloads of this part's rows."""
        return len(part) > 0 and part.ids[0] in self.payloads

    def check(self, existing: Container[str]) -> None:
        """Raise InvalidRowError if ``strict`` is set and some of the ids are not in
        ``existing``."""
        if self.strict and (missing := [id for id in self.ids if id not in existing]):
            names = listed(missing, most=12, show=shown)
            raise InvalidRowError(
                f"these ids do not exist: {names}; nothing was changed. Without strict, the other "
                "rows are changed"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Delete:
    """Delete the rows that both ``ids`` and ``where`` select; if either is None, it selects every
    row. The result is the number of deleted rows."""

    ids: Sequence[str] | None
    where: Expr | None = None


RowChange = Insert | Upsert | Update | UpdateRows | Delete

# The schema. ``apply`` returns the changed schema, or raises if the schema forbids the change.


@dataclass(frozen=True, slots=True)
class AddField:
    """Add a field that is null in existing rows."""

    name: str
    field: Field

    def apply(self, schema: Schema) -> Schema:
        check_field_name(self.name)
        if not self.field.nullable or self.field.partition:
            reason = (
                f"the new field {self.name!r} must be nullable and cannot be a partition key, "
                "since the table may have rows; create a new table with such a field"
            )
            raise InvalidArgumentError("field", self.field, reason=reason)
        return schema.with_field(self.name, self.field)


@dataclass(frozen=True, slots=True)
class DropField:
    """Drop a field with its values and indexes."""

    name: str

    def apply(self, schema: Schema) -> Schema:
        existing_field(schema, self.name)
        return schema.without_field(self.name)


@dataclass(frozen=True, slots=True)
class RenameField:
    """Rename a field, keeping its values and indexes."""

    name: str
    new: str

    def apply(self, schema: Schema) -> Schema:
        check_field_name(self.new)
        existing_field(schema, self.name)
        return schema.with_renamed_field(self.name, self.new)


@dataclass(frozen=True, slots=True)
class IndexField:
    """Build an index over a field, record it in the schema, and return once the index is in use.

    "btree" and "bitmap" replace each other; "text" is independent of them. If the same index
    exists, only an interrupted build is completed. Reads continue during the build. A payload key,
    ``payload.<key>``, needs the ability "payload-indexes".
    """

    name: str
    kind: FieldIndex

    def apply(self, schema: Schema) -> Schema:
        if is_payload_key(schema, self.name, self.kind):
            return schema.with_payload_index(self.name)
        field = indexable_field(schema, self.name, self.kind)
        return schema.with_changed_field(self.name, field.with_index(self.kind))


@dataclass(frozen=True, slots=True)
class UnindexField:
    """Drop a field's index of this kind, if any, or all of its indexes if ``kind`` is None.

    The schema then no longer lists the index, so upkeep does not rebuild it.
    """

    name: str
    kind: FieldIndex | None

    def apply(self, schema: Schema) -> Schema:
        if is_payload_key(schema, self.name, self.kind):
            return schema.without_payload_index(self.name)
        field = indexable_field(schema, self.name, "btree" if self.kind is None else self.kind)
        return schema.with_changed_field(self.name, field.without_index(self.kind))


SchemaChange = AddField | DropField | RenameField | IndexField | UnindexField


def changes_text(change: SchemaChange, schema: Schema) -> bool:
    """Return whether the change builds a keyword index, or removes a field from one."""
    match change:
        case AddField():
            return change.field.text
        case IndexField():
            return change.kind == "text"
        case RenameField():
            return False
        case UnindexField() if change.kind not in (None, "text"):
            return False
        case UnindexField() if change.name not in schema.fields:  # a payload key
            return False
    return schema.fields[change.name].text


def is_payload_key(schema: Schema, name: object, kind: object = None) -> bool:
    """Return whether ``name`` has the form ``payload.<key>``, and the table has a payload.

    Raises InvalidArgumentError if a payload key cannot have an index of this kind.
    """
    if not (isinstance(name, str) and name.startswith("payload.") and schema.payload):
        return False
    if kind not in (None, "btree"):
        reason = f"a payload key can only have a 'btree' index; add a field for {shown(kind)}"
        raise InvalidArgumentError("kind", kind, reason=reason)
    return True


def existing_field(schema: Schema, name: object, argument: str = "field") -> Field:
    """Return the field of this name, or raise InvalidArgumentError."""
    if not isinstance(name, str) or name not in schema.fields:
        expected = f"the name of a field ({listed([*schema.fields]) or 'the table has none'})"
        like = did_you_mean(name, [*schema.fields])
        reason = f"{argument} must be {expected}, not {shown(name)}{like}"
        raise InvalidArgumentError(argument, name, reason=reason)
    return schema.fields[name]


def indexable_field(schema: Schema, name: object, kind: object, argument: str = "field") -> Field:
    """Return the field of this name, or raise InvalidArgumentError if it cannot have an index of
    this kind."""
    if not isinstance(kind, str) or kind not in ("btree", "bitmap", "text"):
        raise InvalidArgumentError("kind", kind, "'btree', 'bitmap' or 'text'")
    field = existing_field(schema, name, argument)
    if field.is_list:
        expected = f"a field without lists (this one is {field.kind})"
        raise InvalidArgumentError(argument, name, expected)
    if kind == "text" and field.kind != "text":
        raise InvalidArgumentError(argument, name, f"a text field (this one is {field.kind})")
    return field
