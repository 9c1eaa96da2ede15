"""Messages for usage errors, with a fix where one is known."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from .._tools.hints import meant_by
from .._tools.messages import did_you_mean
from .._tools.redaction import without_secrets

_STORE = re.compile(r".+\.(db|sqlite3?|lance)/?|[a-z][\w+.-]*://.+", re.IGNORECASE)
_NAMING = ("--store", "-s", "--from", "--to")  # options that take a store
# Commands that take paths as arguments.
_OF_PATHS = {"backup", "export", "import", "restore", "update", "watch"}


def clear_message(error: Any) -> str:
    """Return the message for a usage error, with a fix if one is known."""
    message: str = error.message
    context: Any = getattr(error, "ctx", None)
    if context is None:
        return message
    if message.startswith("No such command") and context.parent is None:
        known = context.command.list_commands(context)
        return message.rstrip(".") + _command_fix(message, known)
    if message.startswith("No such option") and hasattr(context.command, "commands"):
        error.possibilities = None
        example = f"{context.command_path} COMMAND {error.option_name}"
        return f"{message}; write it after the command, as in {example}"
    if message.startswith("No such option"):
        options = {parameter.name: parameter.opts for parameter in context.command.params}
        if meant := meant_by(error.option_name.lstrip("-").replace("-", "_"), [*options]):
            error.possibilities = None
            return f"{message}; did you mean {options[meant][0]}?"
    if "unexpected extra argument" in message and context.command.name == "search":
        return f"{message}; several words need quotes, as in aiovec search 'two words'"
    if "unexpected extra argument" in message:
        known = {option for parameter in context.command.params for option in parameter.opts}
        return message + store_fix(message, [name for name in _NAMING[1:] if name in known])
    return message


def store_fix(message: str = "", options: Sequence[str] = ("-s",)) -> str:
    """Return a hint to pass the stores on the command line with these options, or "".

    The stores are the arguments that the message names or, if it names none and the command takes
    no paths, all arguments that look like a store.
    """
    pairs = zip(sys.argv, sys.argv[1:], strict=False)
    stores = [word for before, word in pairs if before not in _NAMING and _STORE.fullmatch(word)]
    named = [word for word in stores if word in message]
    if not named and _OF_PATHS.isdisjoint(sys.argv[1:2]):
        named = stores
    fix = " ".join(map(" ".join, zip(options, named, strict=False)))
    return f"; a store needs an option: write {without_secrets(fix)}" if fix else ""


def _command_fix(message: str, known: Sequence[str]) -> str:
    word = next((word for word in sys.argv[1:] if repr(word) in message), "")
    if word in ("help", "version"):
        return f"; write aiovec --{word}"
    if _STORE.fullmatch(word):
        return f"; write aiovec tables -s {word}"
    return did_you_mean(word, known)
