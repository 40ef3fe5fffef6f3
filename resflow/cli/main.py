"""Entry point of the `resflow` command."""

from __future__ import annotations

import sys

import typer

from resflow.cli.bench import bench
from resflow.cli.demo import demo
from resflow.cli.doctor import doctor
from resflow.cli.index import index
from resflow.cli.info import info
from resflow.cli.lint import lint
from resflow.cli.plan import plan
from resflow.cli.preview import preview
from resflow.cli.shard import shard
from resflow.cli.tiers import tiers
from resflow.errors import ResflowError

app = typer.Typer(
    name="resflow",
    help="Feed images of many sizes to PyTorch models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # formatting help with rich costs 0.3 s
)
app.command()(index)
app.command()(shard)
app.command()(tiers)
app.command()(info)
app.command()(lint)
app.command()(plan)
app.command()(preview)
app.command()(bench)
app.command()(doctor)
app.command()(demo)


@app.callback()
def _root() -> None:
    """Feed images of many sizes to PyTorch models."""


def main() -> None:
    """Run the command line; exit code 1 is an error that Resflow explains, 2 is wrong usage."""
    try:
        app()
    except ResflowError as error:
        print(f"resflow: {type(error).__name__}\n  {error}", file=sys.stderr)
        sys.exit(1)
