"""Globs in ``.gitignore`` syntax that include files in an import, or exclude them from it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

_TOKEN = re.compile(
    r"(?P<folders>(?:^|(?<=/))\*\*/)|(?P<below>(?<=/)\*\*$)|(?P<some>\*+)|(?P<one>\?)"
    r"|\[(?P<no>[!^]?)(?P<set>\]?(?:\\.|[^]\\])*)\]|\\?(?P<plain>.)",
    re.DOTALL,
)
_STAR = "\0"
_MEANINGS = {"folders": "(?:.*/)?", "below": ".+", "some": _STAR, "one": "[^/]"}


class Globs:
    """A list of globs: the last one that matches a path decides; ``!`` negates a glob."""

    def __init__(self, globs: Iterable[str]) -> None:
        # The first alternative that matches wins; its number identifies the glob.
        self._says: list[bool] = []
        parts = []
        for glob in [*globs][::-1]:
            glob = re.sub(r"(?<!\\)[ \t\r]+$", "", glob)
            says = not glob.startswith("!")
            if part := _translated(glob if says else glob[1:]):
                self._says.append(says)
                parts.append(f"({part})")
        self._all = re.compile("|".join(parts), re.DOTALL)

    def say(self, path: str) -> bool | None:
        """Return True if a glob matches a path, False if a "!" glob does, None if no glob does.

        The path of a folder ends in "/".
        """
        found = self._all.fullmatch(path)
        return self._says[found.lastindex - 1] if found and found.lastindex else None

    def name(self, path: str) -> bool:
        """Return whether a file matches.

        If no glob matches the file itself, its nearest folder that a glob matches decides.
        """
        names = accumulate(re.findall("[^/]*/|[^/]+", path))
        said = (self.say(name) for name in reversed([*names]))
        return next((bool(each) for each in said if each is not None), False)


def _translated(glob: str) -> str | None:
    """Convert a glob to a regular expression; return None for a comment or an invalid glob."""
    name = glob.removesuffix("/")
    if not name or glob.startswith("#"):
        return None
    begin = "" if "/" in name else "(?:.*/)?"  # a glob without a slash matches in all folders
    first, *others = "".join(map(_meaning, _TOKEN.finditer(name.removeprefix("/")))).split(_STAR)
    # All stars except the last match as little as possible and do not backtrack, which keeps
    # matching fast.
    least = [f"(?>[^/]*?{each})" if "(" not in each else f"[^/]*{each}" for each in others[:-1]]
    words = "".join([first, *least, *(f"[^/]*{each}" for each in others[-1:])])
    with suppress(re.error):
        return re.compile(f"{begin}{words}/{'' if name != glob else '?'}").pattern
    return None


def _meaning(token: re.Match[str]) -> str:
    if token.lastgroup == "plain":
        return re.escape(token["plain"])
    if token.lastgroup == "set":
        members = re.sub(
            r"\\(.)|([\[&~|])", lambda each: re.escape(each[1] or each[2]), token["set"]
        )
        return f"(?!/)[{'^' * bool(token['no'])}{members}]"
    return _MEANINGS[str(token.lastgroup)]


Rules = list[tuple[Globs, str, int]]
"""The globs of each ``.gitignore``, and how to make a path relative to its folder: a prefix to add,
and the number of characters to remove."""


def rules_in(folder: Path, before: str = "", skip: int = 0) -> Rules:
    """Return the globs of the ``.gitignore`` in a folder, if it has one."""
    path = folder / ".gitignore"
    with suppress(OSError):
        if path.is_file():  # opening a pipe would block
            text = path.read_text("utf-8-sig", "surrogateescape")
            return [(Globs(text.split("\n")), before, skip)]
    return []


def rules_above(top: Path) -> Rules:
    """Return the globs of the folders above a folder, up to the root of its repository.

    Return no globs outside a repository, or if they exclude the folder itself: a user who imports
    an excluded folder wants its files.
    """
    rules: Rules = []
    here = Path(os.path.abspath(top))
    for folder in () if (here / ".git").exists() else here.parents:
        names = [*accumulate(f"{name}/" for name in here.relative_to(folder).parts)]
        below = rules_in(folder, names[-1])
        if any(globs.say(name) for globs, *_ in below for name in names):
            return []
        rules = below + rules
        if (folder / ".git").exists():
            return rules
    return []


def is_ignored(path: str, rules: Rules) -> bool:
    """Return whether rules exclude a path. The rules of the nearest folder have priority."""
    says = (globs.say(before + path[skip:]) for globs, before, skip in reversed(rules))
    return next((said for said in says if said is not None), False)
