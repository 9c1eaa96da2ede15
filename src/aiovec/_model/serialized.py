"""Rows, results and counts in pydantic: in FastAPI's responses, and as fields of models.

This module imports pydantic only when pydantic calls it, so ``import aiovec`` stays fast.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema, SchemaSerializer


class Serialized:
    """A class whose objects pydantic accepts unchanged, and writes as ``_plain`` returns them."""

    __slots__ = ()

    def _plain(self) -> Any:
        """Return the object as a dict with string keys, or as a list."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        written: CoreSchema = core_schema.dict_schema(core_schema.str_schema())
        if issubclass(cls, list):
            written = core_schema.list_schema(*map(handler.generate_schema, get_args(source)))
        writer = core_schema.plain_serializer_function_ser_schema(cls._plain, return_schema=written)
        return core_schema.is_instance_schema(cls, serialization=writer)

    @property
    def __pydantic_serializer__(self) -> SchemaSerializer:
        """The serializer for objects in fields annotated with ``Any``."""
        kind: Any = type(self)
        return _serializer(kind)


@cache
def _serializer(cls: Any) -> SchemaSerializer:
    from pydantic import TypeAdapter

    return TypeAdapter(cls).serializer
