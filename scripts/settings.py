"""Write the files that explain the settings from the models of the settings.

``python scripts/settings.py``, run in the repository, writes ``config/aiovec.toml``,
``config/aiovec.schema.json`` and the tables of
``docs/reference/configuration.md``. A test compares the files with what it writes. The first
paragraph of a docstring is the text in a table; the sample and the JSON Schema hold all of them.
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

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aiovec.backend.config import RetrievalSettings, document_model, retrieval_model
from aiovec.backend.embedders import EmbedderSettings
from aiovec.backend.settings import Section

_WIDTH = 100

_HEAD = """\
#:schema ./aiovec.schema.json
# The settings of aiovec: every key with its default. Leave out the keys that you do not change.
#
#   aiovec.connect(config="aiovec.toml")   reads this file. Without arguments, connect() reads the
#                                          file that AIOVEC_CONFIG names, else ./aiovec.toml.
#
# An environment variable overrides a key: AIOVEC_, then the path of the key in capitals, joined by
# two underscores, such as AIOVEC_RETRIEVAL__BACKEND=lancedb or
# AIOVEC_RETRIEVAL__SQLITE__READERS=8. An empty variable counts as unset.
#
# Relative paths start at the folder of this file, also those in environment variables. ~ is the
# home folder. An unknown key is an error."""

_TAIL = """\
# The backend of another package has a section by its name, [retrieval.<name>], with its own keys;
# the key "url" is its address.
"""


def files(root: Path) -> dict[Path, str]:
    """Return the text of each file that explains the settings, by its path below ``root``."""
    page = root / "docs" / "reference" / "configuration.md"
    text = page.read_text(encoding="utf-8")
    retrieval = retrieval_model()
    text = _with_table(text, "keys", _rows(retrieval, "retrieval."))
    text = _with_table(text, "keys of an embedder", _rows(EmbedderSettings, ""))
    return {
        root / "config" / "aiovec.toml": _sample(),
        root / "config" / "aiovec.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        page: text,
    }


def _sample() -> str:
    values: list[str] = []
    sections: list[tuple[bool, str]] = []
    retrieval = retrieval_model()
    for name, field in retrieval.model_fields.items():
        model = _section(field)
        if model is None and not field.examples:
            values.append("\n".join(_key(retrieval, name)))
            continue
        head = [*_comment(_description(retrieval, name)), f"[retrieval.{name}]"]
        for example in field.examples or ():
            head += _commented(example, f"retrieval.{name}")
        keys = ["\n".join(_key(model, key)) for key in model.model_fields] if model else []
        text = "\n".join(head) + "\n" + "\n\n".join(keys)
        sections.append((name in RetrievalSettings.model_fields, text.rstrip()))
    sections.sort(key=itemgetter(0))  # those of the backends first
    first = "[retrieval]\n" + "\n\n".join(values)
    return "\n\n".join([_HEAD, first, *(text for _, text in sections), _TAIL])


def _key(model: type[BaseModel], name: str) -> list[str]:
    field = model.model_fields[name]
    comment = _comment(_description(model, name), _range(field))
    return [*comment, f"{name} = {_toml(_default(field))}"]


def _commented(sections: Mapping[str, Mapping[str, object]], path: str) -> Iterator[str]:
    """Yield the lines of an example that is no part of the settings."""
    for name, values in sections.items():
        yield f"#   [{path}.{name}]"
        for key, value in values.items():
            yield f"#   {key} = {_toml(value)}"


def _comment(description: str, bounds: str = "") -> Iterator[str]:
    """Yield a description as comments; a line of it that begins with a value hangs below it."""
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
            line, _WIDTH, initial_indent=first, subsequent_indent=later,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the rows of the table of a model's keys, those of its sections last."""
    later = []
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is not None:
            later.append((section, f"{prefix}{name}."))
        elif not field.examples:
            meaning = _description(model, name).splitlines()[0].replace("|", r"\|")
            yield f"| `{prefix}{name}` | `{_toml(_default(field))}` | {meaning} |"
    for section, path in later:
        yield from _rows(section, path)


def _with_table(page: str, name: str, rows: Iterator[str]) -> str:
    start = f"<!-- {name}: written by scripts/settings.py -->\n"
    end = f"<!-- end of {name} -->"
    before, _, rest = page.partition(start)
    after = rest.partition(end)[2]
    table = "\n".join(["", "| key | default | meaning |", "| --- | --- | --- |", *rows])
    return f"{before}{start}{table}\n\n{end}{after}"


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _description(model: type[BaseModel], name: str) -> str:
    text = model.model_fields[name].description or _docstrings(model).get(name, "")
    return _unwrapped(text).replace("``", "`")


@lru_cache
def _docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the docstrings of a model's keys, which are only in its source."""
    (section,) = ast.parse(inspect.getsource(model)).body
    docstrings = {}
    for key, text in pairwise(ast.iter_child_nodes(section)):
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr):
            docstrings[ast.unparse(key.target)] = ast.literal_eval(text.value)
    return docstrings


def _unwrapped(text: str) -> str:
    """Return a docstring with a line for each of its paragraphs."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n".join(" ".join(part.split("\n")) for part in paragraphs)


def _default(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True, validated_data={})


def _range(field: FieldInfo) -> str:
    limits = {name: getattr(each, name) for each in field.metadata for name in _LIMITS
              if hasattr(each, name)}  # fmt: skip
    if {"ge", "le"} <= limits.keys():
        words = [f"from {limits.pop('ge'):_} to {limits.pop('le'):_}"]
    else:
        words = [f"{_LIMITS[name]} {limits.pop(name):_}" for name in _LIMITS if name in limits
                 and name != "multiple_of"]  # fmt: skip
    text = " and ".join(words)
    if "multiple_of" in limits:
        text += f", a multiple of {limits['multiple_of']}"
    return text and f"{text[0].upper()}{text[1:]}."


_LIMITS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "a multiple of",
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the TOML file."""
    schema = document_model().model_json_schema()
    retrieval = retrieval_model()
    sections = filter(None, map(_section, retrieval.model_fields.values()))
    for model in (retrieval, EmbedderSettings, *sections):
        properties = schema["$defs"][model.__name__]["properties"]
        for name, text in _docstrings(model).items():
            properties[name] = dict(sorted({**properties[name], "description": text}.items()))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "aiovec.toml",
        **_tidied(schema),
    }


def _tidied(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without titles, which only repeat names, and with plain descriptions.

    Pydantic keeps the indentation in a docstring of which Python 3.13 has removed the first part.
    """
    tidied: dict[str, Any] = {}
    for key, value in schema.items():
        if isinstance(value, dict):
            tidied[key] = _tidied(value)
        elif key == "description" and isinstance(value, str):
            tidied[key] = _unwrapped(value)
        elif key != "title" or not isinstance(value, str):
            tidied[key] = value
    return tidied


def _toml(value: object) -> str:
    """Return a value as TOML. Texts, whole numbers, true and false, and lists are as in JSON."""
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Write the files of the repository in the current folder."""
    for path, text in files(Path()).items():
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
