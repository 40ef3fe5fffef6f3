"""Help that is whole in a narrow terminal, and messages in the words of the command line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

_NARROWEST = 38
_ARGUMENT = re.compile(
    r"\b(?P<call>[A-Z]\w*\()?(?P<name>[a-z_]+)=(?P<value>'[^']*'|\"[^\"]*\"|\.\.\.|\w+(\.\w+)*)(?(call)\))"
)


def terminal_width() -> int:
    """Characters of a line of help."""
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, 80) - 2)


class Command(TyperCommand):
    """A command whose help leaves room for the words beside the names of options, however narrow."""

    def get_help(self, ctx: Any) -> str:
        """The help as text."""
        return _whole_help(self, ctx)


class Group(TyperGroup):
    """Commands, each told whole."""

    def get_help(self, ctx: Any) -> str:
        """The help as text."""
        return _whole_help(self, ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands and what each does."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(10_000)) for name, command in found if command])


def _whole_help(command: Any, ctx: Any) -> str:
    formatter = ctx.make_formatter()
    write = formatter.write_dl

    def write_dl(rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        write(rows, min(col_max, formatter.width // 3), col_spacing)

    formatter.write_dl = write_dl
    command.format_help(ctx, formatter)
    return str(formatter.getvalue()).rstrip("\n")


def in_options(message: str, options: Mapping[str, tuple[str, str | None]]) -> str:
    """A message of the library as the command line says it: `overwrite=True` is --overwrite.

    Args:
        message: that may name arguments of Python, alone or as in `Pipeline(targets=None)`.
        options: of the command, by parameter: the option, and what says False where it is a switch.
    """

    def said(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"].strip("'\"")
        if name in options:
            on, off = options[name]
            if value in ("True", "False"):
                return (on if value == "True" else off) or found[0]
            return on if value == "..." else f"{on} {value.lower() if value == 'None' else value}"
        if found["call"] == "Pipeline(":
            plain = {"None": "null", "True": "true", "False": "false"}.get(value, value)
            return f"`{name}: {plain}` in the pipeline's YAML"
        return found[0]

    return _ARGUMENT.sub(said, message)


def options_of(command: Any) -> dict[str, tuple[str, str | None]]:
    """The options of a command by parameter: each by its name, and what says False where it is a switch."""
    found = {}
    for parameter in command.params:
        names = [name for name in parameter.opts if name.startswith("--")]
        if names:
            off = next(iter(getattr(parameter, "secondary_opts", ())), None)
            found[str(parameter.name)] = (names[0], off)
    return found
