"""The page on moves."""

from __future__ import annotations

import re

from tests.harness.command import run

from .blocks import blocks, commands

PAGE = "docs/how-to/move-to-lancedb.md"


def test_every_command_of_the_page_takes_the_options_it_is_given() -> None:
    listed = [arguments for block in blocks(PAGE, "console") for arguments in commands(block)]
    assert len(listed) == 5
    for command, name, *options in listed:
        usage = run(command, name, "--help").out
        for option in (word for word in options if word.startswith("--")):
            assert re.search(rf"{option}\b", usage), (name, option)
