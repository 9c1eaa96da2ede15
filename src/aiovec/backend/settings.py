"""Sections of the TOML file: their keys, and checks of the users' values.

The checks do not use pydantic: importing pydantic and building its models takes 0.15 s of CPU time,
a third of the time that a process takes to open a store and search once (``python -m bench
start``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self, TypeVar, cast

from .._tools.messages import did_you_mean, shown
from .._tools.redaction import names_secret
from ..errors import ConfigError

ENVIRONMENT = "environment"
"""The ``source`` of values that come from environment variables; these values are strings."""

DELIMITER = "__"
"""The characters between the parts of a variable's name."""

_T = TypeVar("_T")
_Path = tuple[str, ...]

_NAMES = {bool: "true or false", int: "a whole number", float: "a number"}
_NAMES |= {str: "text", list: "a list"}
_TRUTH = dict.fromkeys(("true", "1", "yes", "on"), True)
_TRUTH |= dict.fromkeys(("false", "0", "no", "off"), False)


class Section:
    """A section of the TOML file. Its annotated attributes are its keys, each with its default.

    A default is a plain value, or ``key(default, ...)`` if not all values of its type are accepted.
    An instance holds only values that were set. They may be secrets, so its repr shows none.
    """

    keys: ClassVar[Mapping[str, Key]] = {}
    any_key = False  # True: unknown keys are kept, not refused

    def __init_subclass__(cls) -> None:
        new = {name: getattr(cls, name) for name in cls.__annotations__}
        new = {name: each if isinstance(each, Key) else Key(each) for name, each in new.items()}
        cls.keys = {**cls.keys, **new}
        for name, each in new.items():
            if not isinstance(each.default, (*_NAMES, dict, Section)):
                kinds = ", ".join(kind.__name__ for kind in _NAMES)
                raise TypeError(
                    f"the default of {cls.__name__}.{name} gives the key its type: one of {kinds}, "
                    f"a dict or a section, not {each.default!r}"
                )
            setattr(cls, name, each.default)

    def __init__(self, **values: Any) -> None:
        """Create a section from checked values."""
        unknown = values.keys() - self.keys.keys()
        if unknown and not self.any_key:
            raise TypeError(f"{type(self).__name__} has no key {', '.join(sorted(unknown))}")
        vars(self).update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {', '.join(vars(self)) or 'the defaults'}>"

    @classmethod
    def extended(cls, **keys: Any) -> type[Self]:
        """Return a subclass with more keys, each given with its default."""
        body = {"__doc__": cls.__doc__, "__annotations__": keys, **keys}
        return type(cls.__name__, (cls,), body)

    def changed(self, **values: Any) -> Self:
        """Return a copy of this section with these values changed."""
        return type(self)(**{**vars(self), **values})


class BackendSettings(Section):
    """The section ``[retrieval.<name>]`` of a backend."""


class AnySettings(BackendSettings):
    """The section of a backend whose package declares no keys; values are kept unchanged."""

    any_key = True


_Fault = tuple[_Path, str]
"""The path of a wrong key, and what is wrong with it."""


@dataclass(eq=False, repr=False)
class Key:
    """A key's default, which gives its values their type, and the rules for its values."""

    default: Any
    description: str = ""
    """The meaning of the key. Default: the text below the key in the section's source code."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    choices: Sequence[str] = ()
    pattern: str = ""
    """The regular expression that a string must match. ``accepted`` describes it for users."""
    accepted: str = ""
    of: Key | None = None
    """The rules for the items of a list or mapping. Default: any text."""
    names: str = ""
    """The regular expression that the names in a mapping must match."""
    secret: bool = False
    """True if no message may show the key's values, whatever the key is called."""
    examples: Sequence[Any] = ()

    @property
    def section(self) -> type[Section] | None:
        """The section's class; None if the key is not a section."""
        return type(self.default) if isinstance(self.default, Section) else None

    def inner(self, name: str) -> Key | None:
        """Return the key of this name in a section or mapping; None if it is not declared."""
        if self.section is not None:
            return self.section.keys.get(name)
        return (self.of or Key("")) if isinstance(self.default, dict) else None

    def bounds(self) -> str:
        """Return the bounds of a number in words, such as "from 1 to 64"."""
        if self.at_least is not None and self.at_most is not None:
            words = [f"from {self.at_least:_} to {self.at_most:_}"]
        else:
            limits = {"at least": self.at_least, "above": self.above}
            limits |= {"at most": self.at_most, "below": self.below}
            words = [f"{word} {limit:_}" for word, limit in limits.items() if limit is not None]
        multiple = f", a multiple of {self.multiple_of}" if self.multiple_of else ""
        return " and ".join(words) + multiple

    def read(self, value: Any, path: _Path, texts: bool, faults: list[_Fault]) -> Any:
        """Return a value in the form that the section stores, and add its faults to ``faults``.

        With ``texts``, numbers and booleans may also be strings.
        """
        if isinstance(self.default, (Section, dict)):
            return self._read_section(value, path, texts, faults)
        if isinstance(self.default, list) and isinstance(value, list):
            of, items = self.of or Key(""), enumerate(value)
            return [of.read(item, (*path, str(n)), texts, faults) for n, item in items]
        value = self._converted(value, texts)
        if self._admits(value):
            return value
        message = f"must be {self.accepted or self._accepted()}{self._shown(path, value)}"
        if isinstance(self.default, list) and isinstance(value, str):
            message += f"; write {json.dumps([value])}"
        faults.append((path, message))
        return None

    def _read_section(self, value: Any, path: _Path, texts: bool, faults: list[_Fault]) -> Any:
        if not isinstance(value, Mapping):
            form = " as a JSON object" if texts else ", or { key = value }"
            faults.append((path, f"must be a section{form}"))
            return None
        values = {}
        for name, item in value.items():
            key, within = self.inner(str(name)), (*path, str(name))
            if key is not None and (not self.names or re.fullmatch(self.names, str(name))):
                values[name] = key.read(item, within, texts, faults)
            elif self.section is not None and self.section.any_key:
                values[name] = item
            else:
                faults.append(self._unknown(within))
        return values if self.section is None else self.section(**values)

    def _unknown(self, path: _Path) -> _Fault:
        """Return the fault for an unknown name. The fault lists the known keys, or the section that
        has the key."""
        name = path[-1]
        if self.section is None:
            return (path, f"must have a name of the form {self.names}")
        known = self.section.keys
        sections = {key: each.section for key, each in known.items() if each.section}
        having = [key for key, section in sections.items() if name in section.keys]
        homes = [f"[{'.'.join((*path[:-1], key))}]" for key in having]
        if homes and len(path) > 1:
            at = ".".join(path[:-1])
            return (path, f"is not a key of [{at}]; it belongs to {' or '.join(homes)}")
        hint, listed = did_you_mean(name.lower(), list(known)), ", ".join(homes or known)
        return (path, f"is not a known key{hint} (the known keys: {listed})")

    def _converted(self, value: Any, texts: bool) -> Any:
        kind = type(self.default)
        text = texts and isinstance(value, str)
        if text and kind is bool:
            return _TRUTH.get(value.lower(), value)
        # The value of a float key may be a whole number.
        if (text and kind in (int, float)) or (kind is float and type(value) is int):
            with suppress(ValueError, OverflowError):
                return kind(value)
        return value

    def _admits(self, value: Any) -> bool:
        kind = type(self.default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return False
        if isinstance(value, str):
            of_choices = not self.choices or value in self.choices
            return of_choices and (not self.pattern or bool(re.fullmatch(self.pattern, value)))
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (self.multiple_of is None or value % self.multiple_of == 0)
            and (not isinstance(value, float) or math.isfinite(value))
        )

    def _accepted(self) -> str:
        if self.choices:
            return "one of " + ", ".join(map(json.dumps, self.choices))
        return f"{_NAMES[type(self.default)]} {self.bounds()}".rstrip()

    def _shown(self, path: _Path, value: object) -> str:
        """Return a wrong value for a message, unless it may be or contain a secret."""
        plain = isinstance(value, (bool, int, float))
        if isinstance(value, str):
            # A text with a known form is a word or an address. An address may have a user or a
            # query.
            known = self.choices or self.accepted or not isinstance(self.default, str)
            plain = bool(known) and not set("@?#") & set(value)
        if self.secret or not plain or names_secret(path[-1]):
            return ""
        return f", not {str(value).lower() if isinstance(value, bool) else shown(value, 80)}"


def key(default: _T, **rules: Any) -> _T:
    """Declare a key of a section with its default and the rules of ``Key``."""
    return cast("_T", Key(default, **rules))


def checked(key: Key, value: object, path: _Path, source: str, file: str | None = None) -> Any:
    """Check and return the value of the key at ``path``, or raise ConfigError.

    ``source`` is where the value comes from: a file, an argument, or the environment.
    """
    faults: list[_Fault] = []
    texts = source == ENVIRONMENT
    result = key.read(value, path, texts, faults)
    if not faults:
        return result
    wrong, message = faults[0]
    name = f"AIOVEC_{DELIMITER.join(wrong)}".upper() if texts else ".".join(wrong)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    raise ConfigError(f"{source}: {name}: {message}{more}", file=file, key=name)


# Types of values

_MEMORY = r"^(auto|[0-9]+ ?([KMG]i?B)?)$"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def not_empty(default: str, **rules: Any) -> str:
    """Declare a key that holds text of at least one character."""
    return key(default, pattern=r"^[\s\S]+$", accepted="text that is not empty", **rules)


def memory_size(default: str) -> str:
    """Declare a key that holds ``"auto"`` or a size, such as "512 MiB"."""
    return key(default, pattern=_MEMORY, accepted="'auto' or a size such as '512 MiB'")


def parsed_size(size: str) -> int | None:
    """Return a ``memory_size`` in bytes; None for "auto"."""
    if size == "auto":
        return None
    digits = size.rstrip("KMGiB ")
    return int(digits) * _UNITS[size[len(digits) :].strip()]
