"""The commands of aiovec and of other packages.

The entry-point group ``aiovec.commands`` names their ``typer.Typer`` objects. Its module is
imported when its command, or the list of all commands, is asked for, so it should import little
itself. One that is broken says so in one line, and hides nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from .._model.redaction import without_secrets
from . import advise, demo, doctor, facts, search, tables, upkeep
from .output import say_error, settle_streams
from .run import command_app
from .usage import clear_message

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "aiovec.commands"


class Commands(TyperGroup):
    """The commands of this package, then of other installed packages."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _quietly():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _quietly():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        built_in = super().list_commands(ctx)
        return [*built_in, *(name for name in sorted(_installed()) if name not in built_in)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if (built_in := super().get_command(ctx, cmd_name)) is not None:
            return built_in
        if (entry_point := _installed().get(cmd_name)) is None:
            return None
        try:
            command: Any = get_command(entry_point.load())
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with it, the others work
            say_error(
                f"the command {cmd_name!r} ({entry_point.value}) cannot be loaded: "
                f"{type(exc).__name__}: {exc}; reinstall its package"
            )
            return None
        command.name = cmd_name
        command.rich_markup_mode = None
        for subcommand in getattr(command, "commands", {}).values():
            subcommand.rich_markup_mode = None
        return command


@contextmanager
def _quietly() -> Iterator[None]:
    """End quietly if the reader of the output is gone; errors of usage name the cure, no secret."""
    try:
        yield
    except SystemExit as exc:
        if not isinstance(exc.__context__, BrokenPipeError):  # of which rich makes it
            raise
        raise typer.Exit from None
    except BrokenPipeError:
        raise typer.Exit from None
    except Exception as exc:
        if isinstance(getattr(exc, "message", None), str) and hasattr(exc, "format_message"):
            exc.message = without_secrets(clear_message(exc))  # type: ignore[attr-defined]
        raise


def _installed() -> dict[str, EntryPoint]:
    from importlib import metadata

    # Of two with one name, the first on the path wins, as with modules.
    return {entry.name: entry for entry in reversed(tuple(metadata.entry_points(group=GROUP)))}


app = command_app(
    "aiovec",
    cls=Commands,
    help="A vector store in one file that async apps can await.",
    epilog=(
        "A command uses the store that --store names: a path or URL, or the name of a backend in "
        "the TOML file. Without it, the command uses the backend that the TOML file selects."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help is there in half the time
)


def _print_version(wanted: bool) -> None:
    if wanted:
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


# In the order of the help, by their own names.
for _command in (
    demo.demo, doctor.doctor, facts.info, facts.tables, search.search, search.rows, search.get,
    search.count, search.distinct, tables.delete, tables.create, tables.drop, tables.text_index,
    upkeep.index, upkeep.optimize, upkeep.backup, upkeep.restore, advise.advise,
):  # fmt: skip
    app.command()(_command)
