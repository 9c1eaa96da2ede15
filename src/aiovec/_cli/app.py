"""The commands of aiovec and of other packages.

A command's module is imported to run the command and to list all commands, so it should import
little itself. The entry-point group ``aiovec.commands`` names the ``typer.Typer`` objects of other
packages. A broken command is reported in one line and does not hide the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from .._tools.packages import installed
from .._tools.redaction import without_secrets
from .output import say_error, settle_streams
from .run import command_app
from .usage import clear_message

GROUP = "aiovec.commands"

# The module of each command, in the order of the help. Its function has the command's name.
_MODULES = {
    "doctor": "doctor", "info": "facts", "tables": "facts", "search": "search", "rows": "search",
    "get": "search", "count": "search", "distinct": "search", "delete": "tables",
    "create": "tables", "drop": "tables", "text-index": "tables", "index": "upkeep",
    "optimize": "upkeep", "backup": "upkeep", "restore": "upkeep", "advise": "advise",
    "tune": "tune",
}  # fmt: skip
# The commands in other packages of this distribution.
_APPS = {
    "export": "aiovec_import.export_command:app", "import": "aiovec_import.import_command:app",
    "mcp": "aiovec_mcp.command:app", "migrate": "aiovec_migrate.cli:app",
    "serve": "aiovec_server.command:app", "update": "aiovec_import.update_command:app",
    "watch": "aiovec_import.watch_command:app",
}  # fmt: skip


class Commands(TyperGroup):
    """The commands of this package, then those of other installed packages."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _quietly():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _quietly():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_MODULES, *_apps()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _MODULES:
            single = command_app(cmd_name, rich_markup_mode=None)
            single.command(cmd_name)(_function(cmd_name))
            return get_command(single)
        app = _APPS.get(cmd_name) or _apps().get(cmd_name)
        return None if app is None else _loaded(cmd_name, app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands. The help of our own commands comes from docstrings, because building
        their options is slow."""
        listed = [TyperCommand(name, help=_function(name).__doc__) for name in _MODULES]
        listed += filter(None, (_loaded(name, app) for name, app in _apps().items()))
        width = formatter.width - 6 - max(len(str(command.name)) for command in listed)
        with formatter.section("Commands"):
            lines = [(str(each.name), each.get_short_help_str(width)) for each in listed]
            formatter.write_dl(lines)


def _function(command: str) -> Callable[..., None]:
    module = import_module(f".{_MODULES[command]}", __package__)
    function: Callable[..., None] = getattr(module, command.replace("-", "_"))
    return function


def _apps() -> dict[str, str]:
    """Return the commands of other packages, sorted by name; they cannot replace our commands."""
    others = {name: entry_point.value for name, entry_point in installed(GROUP).items()}
    return {name: app for name, app in sorted({**others, **_APPS}.items()) if name not in _MODULES}


def _loaded(name: str, app: str) -> Any:
    """Return the command of another package. If it is broken, report that and return None."""
    try:
        command: Any = get_command(resolve_name(app.partition("[")[0].strip()))
    except Exception as exc:  # noqa: BLE001 - a broken command must not hide the others
        say_error(
            f"the command {name!r} ({app}) cannot be loaded: {type(exc).__name__}: {exc}; "
            "reinstall its package"
        )
        return None
    command.name = name
    command.rich_markup_mode = None
    for subcommand in getattr(command, "commands", {}).values():
        subcommand.rich_markup_mode = None
    return command


@contextmanager
def _quietly() -> Iterator[None]:
    """Exit quietly if the reader of the output has closed it. Add fixes to the messages for usage
    errors, and hide secrets in these messages."""
    try:
        yield
    except SystemExit as exc:
        # Rich prints this attribute.
        if not isinstance(exc.__context__, BrokenPipeError):
            raise
        raise typer.Exit from None
    except BrokenPipeError:
        raise typer.Exit from None
    except Exception as exc:
        if isinstance(getattr(exc, "message", None), str) and hasattr(exc, "format_message"):
            exc.message = without_secrets(clear_message(exc))  # type: ignore[attr-defined]
        raise


app = command_app(
    "aiovec",
    cls=Commands,
    help="A vector store in one file that async apps can await.",
    epilog=(
        "A command uses the store that --store names: a path or URL, or the name of a backend in "
        "the TOML file. Without it, the command uses the backend that the TOML file selects."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes half the time
)


def _print_version(value: bool) -> None:
    if value:
        from .. import __version__

        typer.echo(f"aiovec {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    settle_streams()
