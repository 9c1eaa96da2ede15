"""Errors of a TOML file or the environment, in words that name the cure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._model.redaction import MASK, names_secret, redacted
from ..errors import ConfigError
from .plugins import backend_names
from .settings import ACCEPTED

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_CONFIG = "AIOVEC_CONFIG"  # read by ``connect``

_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def config_error(
    error: ValidationError,
    schema: Mapping[str, Any],
    *,
    file: Path | None = None,
    prefix: str | None = None,
    place: str = "environment",
) -> ConfigError:
    """The first fault that was found, as an error that names its place and what may stand there.

    ``schema`` is the JSON Schema of the settings. The values come from a ``file``, or from the
    environment, whose variables begin with ``prefix``, or from another ``place``.
    """
    faults = error.errors(include_url=False)
    fault = faults[0]
    loc = [str(part) for part in fault["loc"]]
    key = ".".join(loc) if prefix is None else environment_name(prefix, loc)
    within = ""
    if prefix is not None and key.upper() != _variable(prefix, loc):
        within = f" ({'.'.join(loc)})"  # the variable holds a whole section as JSON
    problem, accepted = _problem(fault, loc, schema)
    place = place if file is None else str(file)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return ConfigError(
        f"{place}: {key}{within}: {problem}{more}",
        file=None if file is None else str(file),
        key=key,
        accepted=accepted,
    )


def check_environment(prefix: str, known: Sequence[str]) -> None:
    """Refuse a variable that is spelled almost like one that is read; it would be ignored.

    Variables that are like none, such as an app's own, are let be.
    """
    by_letters = {_letters(name): name for name in [*known, _CONFIG]}
    # Those that are misspelt inside ``AIOVEC_RETRIEVAL__`` are found as unknown keys.
    section = f"{known[0]}__"
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(prefix) or not os.environ[name]:
            continue
        if upper in known or upper.startswith(section) or upper == _CONFIG:
            continue
        letters = _letters(upper)
        right = by_letters.get(letters) or by_letters.get(
            _letters(section) + letters.removeprefix(_letters(prefix))
        )
        if right is None:
            near = get_close_matches(letters, by_letters, 1, cutoff=0.9)
            right = by_letters[near[0]] if near else None
        if right is not None:
            raise ConfigError(
                f"environment: {name} is unknown; did you mean {right}? Two underscores join "
                "sections and keys",
                key=name, accepted=right,
            )  # fmt: skip


def _letters(name: str) -> str:
    return name.replace("_", "")


def environment_name(prefix: str, loc: Sequence[str]) -> str:
    """The variable that gives the key, as it is spelled, or the one of a section around it."""
    present = {name.upper(): name for name in os.environ}
    for length in range(len(loc), 0, -1):
        name = _variable(prefix, loc[:length])
        if name in present:
            return present[name]
    return _variable(prefix, loc)


def _variable(prefix: str, loc: Sequence[str]) -> str:
    return prefix + "__".join(loc).upper()


def _problem(fault: ErrorDetails, loc: Sequence[str], schema: Mapping[str, Any]) -> tuple[str, str]:
    if fault["type"] == "extra_forbidden":
        known = list(_node(schema, loc[:-1]).get("properties", {}))
        accepted = ", ".join(known) or "no keys"
        near = get_close_matches(loc[-1].lower(), known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"is not a known key{hint}; the known ones are: {accepted}", accepted
    if loc == ["retrieval", "backend"]:
        accepted = "one of " + ", ".join(backend_names())
    else:
        accepted = _accepted(schema, loc)
    return f"must be {accepted}, not {_shown(loc, fault['input'], accepted)}", accepted


def _node(schema: Mapping[str, Any], loc: Sequence[str]) -> Mapping[str, Any]:
    """The part of the JSON Schema that describes a key."""
    node: Mapping[str, Any] = schema
    for part in ["", *loc]:
        if part:
            found = node.get("properties", {}).get(part)
            if found is None and part.isdecimal():  # the place in a list
                found = node.get("items")
            if found is None:  # a section whose keys are names, such as those of the embedders
                named = node.get("patternProperties", {}).values()
                found = next(iter(named), node.get("additionalProperties"))
            node = found if isinstance(found, Mapping) else {}
        if "$ref" in node:
            node = schema["$defs"][str(node["$ref"]).rpartition("/")[2]]
    return node


def _accepted(schema: Mapping[str, Any], loc: Sequence[str]) -> str:
    node = _node(schema, loc)
    if "enum" in node:
        *most, last = [repr(value) for value in node["enum"]]
        return f"{', '.join(most)} or {last}" if most else last
    if ACCEPTED in node:
        return str(node[ACCEPTED])
    words = _TYPES.get(str(node.get("type")), "a section")
    if "pattern" in node:
        words += f" like {node['default']!r}"
    elif "minLength" in node:
        words += " that is not empty"
    bounds = range_words(node)
    return f"{words} {bounds}" if bounds else words


def range_words(node: Mapping[str, Any]) -> str:
    """Return the bounds of a number, by their names in JSON Schema, as in "from 1 to 64"."""
    words = []
    if "minimum" in node and "maximum" in node:
        words.append(f"from {node['minimum']:_} to {node['maximum']:_}")
    else:
        for name, word in _BOUNDS.items():
            if name in node:
                words.append(f"{word} {node[name]:_}")
    text = " and ".join(words)
    if "multipleOf" in node:
        text += f", a multiple of {node['multipleOf']}"
    return text


def _shown(loc: Sequence[str], value: object, accepted: str) -> str:
    """The wrong value, unless it may be a secret."""
    if isinstance(value, (Mapping, list)):
        return f"a {'section' if isinstance(value, Mapping) else 'list'}"
    if isinstance(value, bool):
        return str(value).lower()
    # A text in the place of a section may be a whole section with its secrets.
    section = accepted == _TYPES["object"]
    if "storage_options" in loc or names_secret(loc[-1]) or (section and isinstance(value, str)):
        return f"this {type(value).__name__}"
    text = repr(_without_user(redacted(value)) if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def _without_user(text: str) -> str:
    """Also where the scheme of an address is missing."""
    if "://" in text or "@" not in text:
        return text
    return redacted(f"url://{MASK}{text[text.rindex('@') :]}").removeprefix("url://")
