"""Where a payload key's type and value are found in SQL.

``json_type(payload, ?)`` with a JSON path serves most keys. A key that JSON text may hold escaped
(quotes, backslashes, control characters, anything beyond ASCII) is looked up among the keys that
``json_each`` gives, which are unescaped on every version of SQLite.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_PLAIN_KEY = re.compile(r"[ !#-\[\]-~]*\Z")  # printable ASCII but for " and \


@dataclass(frozen=True, slots=True)
class Location:
    """SQL for the ``type``, the ``value`` and the ``items`` of one key.

    Each use of one of the three binds ``each`` anew. They stand in ``before`` … ``after``, which
    binds ``around`` at its end.
    """

    type: str
    value: str
    items: str
    each: tuple[Any, ...]
    before: str = ""
    after: str = ""
    around: tuple[Any, ...] = ()


def locate(path: tuple[str, ...]) -> Location:
    """Where the key at ``path`` is."""
    if all(_PLAIN_KEY.match(key) for key in path):
        return Location(
            type="json_type(payload, ?)",
            value="json_extract(payload, ?)",
            items="json_each(payload, ?)",
            each=("$" + "".join(f'."{key}"' for key in path),),
        )
    levels = ["json_each(payload) AS k1"]
    levels += [
        f"json_each(CASE WHEN k{i}.type = 'object' THEN k{i}.value END) AS k{i + 1}"
        for i in range(1, len(path))
    ]
    keys = " AND ".join(f"k{i}.key = ?" for i in range(1, len(path) + 1))
    last = f"k{len(path)}"
    return Location(
        type=f"{last}.type",
        value=f"{last}.value",
        items=f"json_each({last}.value)",
        each=(),
        before="(SELECT ",
        after=f" FROM {', '.join(levels)} WHERE {keys})",
        around=path,
    )
