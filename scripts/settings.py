"""Generate the files that explain the settings from the sections in the code.

``python scripts/settings.py``, run in the repository, writes ``config/aiovec.toml``, which the docs
show, and ``config/aiovec.schema.json``. A test compares the files with this script's output.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from aiovec.backend.config import RetrievalSettings, retrieval_settings
from aiovec.backend.embedders import EmbedderSettings
from aiovec.backend.settings import Key, Section

# Narrow enough that the page with the file shows whole lines.
_WIDTH = 88

_HEAD = """\
#:schema ./aiovec.schema.json
# The settings of aiovec: every key with its default. Leave out the keys that you do not
# change.
#
# aiovec.connect(config="aiovec.toml") reads this file. Without arguments, connect() reads
# the file that AIOVEC_CONFIG names, else ./aiovec.toml.
#
# An environment variable overrides a key: AIOVEC_, then the path of the key in capitals,
# joined by two underscores, such as AIOVEC_RETRIEVAL__BACKEND=lancedb or
# AIOVEC_RETRIEVAL__SQLITE__READERS=8. An empty variable counts as unset.
#
# Relative paths start at the folder of this file, also those in environment variables. ~ is
# the home folder. An unknown key is an error."""

_TAIL = """\
# The backend of another package has a section by its name, [retrieval.<name>], with its
# keys; the key "url" is its address.
"""


def files(root: Path) -> dict[Path, str]:
    """Return the text of each file that explains the settings, by its path below ``root``."""
    return {
        root / "config" / "aiovec.toml": _sample(),
        root / "config" / "aiovec.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }


def _sample() -> str:
    values: list[str] = []
    sections: list[tuple[bool, str]] = []
    retrieval = retrieval_settings()
    for name, key in retrieval.keys.items():
        if key.section is None and not key.examples:
            values.append("\n".join(_key(retrieval, name)))
            continue
        head = [*_comment(_description(retrieval, name)), f"[retrieval.{name}]"]
        for example in key.examples:
            head += _commented(example, f"retrieval.{name}")
        if key.of and key.of.section:
            head += ["#", "# The keys of such a section, each with its default:"]
            for each in key.of.section.keys:
                head += ["#", *_key(key.of.section, each, "#   ")]
        section = key.section
        keys = ["\n".join(_key(section, each)) for each in section.keys] if section else []
        text = "\n".join(head) + "\n" + "\n\n".join(keys)
        sections.append((name in RetrievalSettings.keys, text.rstrip()))
    sections.sort(key=itemgetter(0))  # the backends' sections first
    first = "[retrieval]\n" + "\n\n".join(values)
    return "\n\n".join([_HEAD, first, *(text for _, text in sections), _TAIL])


def _key(section: type[Section], name: str, margin: str = "") -> list[str]:
    key = section.keys[name]
    bounds = key.bounds()
    bounds = bounds and f"{bounds[0].upper()}{bounds[1:]}."
    comment = _comment(_description(section, name), bounds, margin)
    return [*comment, f"{margin}{name} = {_toml(key.default)}"]


def _commented(sections: Mapping[str, Mapping[str, object]], path: str) -> Iterator[str]:
    """Yield the lines of an example as comments, because it is not part of the settings."""
    for name, values in sections.items():
        yield f"#   [{path}.{name}]"
        for key, value in values.items():
            yield f"#   {key} = {_toml(value)}"


def _comment(description: str, bounds: str = "", margin: str = "") -> Iterator[str]:
    """Yield a description as comments; lines that begin with a quoted value are indented."""
    *most, last = description.splitlines()
    if bounds:
        if last.startswith('"'):
            most, last = [*most, last], bounds
        else:
            last = f"{last} {bounds}"
    for line in [*most, last]:
        value = re.match(r'"[^"]*": ', line)
        first, later = ("#   ", "#     ") if value else ("# ", "# ")
        yield from textwrap.wrap(
            line, _WIDTH, initial_indent=margin + first, subsequent_indent=margin + later,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip


def _description(section: type[Section], name: str) -> str:
    key = section.keys[name]
    text = key.description or _docstrings(section).get(name) or key.section.__doc__ or ""
    return _unwrapped(text).replace("``", "`")


@lru_cache
def _docstrings(section: type[Section]) -> Mapping[str, str]:
    """Return the docstrings of a section's keys, which only its source contains."""
    if section.__name__ == RetrievalSettings.__name__:  # the one with backends' keys has no source
        section = RetrievalSettings
    (body,) = ast.parse(inspect.getsource(section)).body
    docstrings = {}
    for key, text in pairwise(ast.iter_child_nodes(body)):
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr):
            docstrings[ast.unparse(key.target)] = ast.literal_eval(text.value)
    return docstrings


def _unwrapped(text: str) -> str:
    """Return a docstring with each paragraph on one line."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n".join(" ".join(part.split("\n")) for part in paragraphs)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the TOML file."""
    retrieval = retrieval_settings()
    # The name of another package's backend is valid too.
    keys = {**retrieval.keys, "backend": RetrievalSettings.keys["backend"]}
    sections = [key.section for key in keys.values() if key.section]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "aiovec.toml",
        "$defs": {
            section.__name__: _schema_of_section(section, keys if section is retrieval else None)
            for section in sorted((retrieval, EmbedderSettings, *sections), key=_name)
        },
        "additionalProperties": False,
        "properties": {"retrieval": _reference(retrieval)},
        "type": "object",
    }


def _name(section: type[Section]) -> str:
    return section.__name__


def _reference(section: type[Section]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{section.__name__}"}


def _schema_of_section(
    section: type[Section], keys: Mapping[str, Key] | None = None
) -> dict[str, Any]:
    return {
        "additionalProperties": False,
        "description": _unwrapped(section.__doc__ or ""),
        "properties": {
            name: _schema_of_key(key, _description_in_schema(section, name, key))
            for name, key in (keys or section.keys).items()
        },
        "type": "object",
    }


def _description_in_schema(section: type[Section], name: str, key: Key) -> str:
    return _unwrapped(key.description or _docstrings(section).get(name, ""))


def _schema_of_key(key: Key, description: str = "") -> dict[str, Any]:
    if key.section is not None:
        return _reference(key.section)
    schema = {keyword: value for name, keyword in _KEYWORDS.items()
              if (value := getattr(key, name)) not in (None, "", ())}  # fmt: skip
    schema["type"] = _TYPES[type(key.default)]
    if description:
        schema |= {"description": description, "default": key.default}
    if isinstance(key.default, list):
        schema["items"] = _schema_of_key(key.of or Key(""))
    elif isinstance(key.default, dict) and key.names:
        schema["patternProperties"] = {key.names: _schema_of_key(key.of or Key(""))}
        del schema["default"]
    elif isinstance(key.default, dict):
        schema["additionalProperties"] = _schema_of_key(key.of or Key(""))
    return dict(sorted(schema.items()))


_TYPES = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array",
    dict: "object",
}  # fmt: skip
_KEYWORDS = {
    "at_least": "minimum", "above": "exclusiveMinimum", "at_most": "maximum",
    "below": "exclusiveMaximum", "multiple_of": "multipleOf", "choices": "enum",
    "pattern": "pattern", "examples": "examples",
}  # fmt: skip


def _toml(value: object) -> str:
    """Return a value as TOML, in which all values except floats are written as in JSON."""
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Write the files of the repository in the current folder."""
    for path, text in files(Path()).items():
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
