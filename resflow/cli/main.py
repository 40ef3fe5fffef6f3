"""Entry point of the `resflow` command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from resflow.cli.bench import bench
from resflow.cli.demo import demo
from resflow.cli.doctor import doctor
from resflow.cli.help import Command, Group, in_options, options_of, terminal_width
from resflow.cli.index import index
from resflow.cli.info import info
from resflow.cli.lint import lint
from resflow.cli.plan import plan
from resflow.cli.preview import preview
from resflow.cli.shard import shard
from resflow.cli.tiers import tiers
from resflow.errors import ResflowError

_CODES = """Exit codes: 0 done; 1 an error, explained on stderr; 2 wrong usage; 3 `resflow lint` found bad samples;
130 interrupted. With --json, stdout holds one JSON document, and stderr the rest."""

_SHARDS = "shards/train-*.tar"
_EXAMPLES: dict[Callable[..., None], str] = {
    demo: "resflow demo --epochs 4",
    shard: "resflow shard images/train shards --tiers 160,256",
    index: f"resflow index {_SHARDS}",
    tiers: f"resflow tiers {_SHARDS} --tiers 96,160,256",
    info: f"resflow info {_SHARDS}",
    lint: "resflow lint shards --json > bad.json || echo there are bad samples",
    plan: f"resflow plan classification --data {_SHARDS} --out plan.png",
    preview: "resflow preview detection --data coco --split val2017 --html --out preview.html",
    bench: "resflow bench classification --data shards --workers 8",
    doctor: "resflow doctor --seconds 3",
}

app = typer.Typer(
    name="resflow",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "terminal_width": terminal_width()},
    help="Feed images of many sizes to PyTorch models.",
    epilog=_CODES,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # formatting help with rich costs 0.3 s
)
for _command, _example in _EXAMPLES.items():
    app.command(cls=Command, epilog=f"\b\nExample:\n  {_example}")(_command)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"resflow {version('resflow')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Feed images of many sizes to PyTorch models."""


def main() -> None:
    """Run the command line; its exit codes are told by `resflow --help` and docs/cli.md."""
    try:
        app()
    except ResflowError as error:
        commands = getattr(typer.main.get_command(app), "commands", {})
        command = next((commands[word] for word in sys.argv[1:] if word in commands), None)
        said = in_options(str(error), {} if command is None else options_of(command))
        print(f"resflow: {type(error).__name__}\n  {said}", file=sys.stderr)
        sys.exit(1)
