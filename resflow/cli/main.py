"""Entry point of the `resflow` command."""

from __future__ import annotations

import sys
from collections.abc import Callable

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

_CODES = """\b
Exit codes: 0 done; 1 an error, explained on stderr; 2 wrong usage; 3 `resflow lint` found bad samples;
130 interrupted. With --json, stdout holds one JSON document, and stderr the rest."""

_SHARDS = '"shards/train-{000000..000009}.tar"'
_EXAMPLES: dict[Callable[..., None], str] = {
    demo: "resflow demo --epochs 4",
    shard: "resflow shard --format folder images/train shards --tiers 160,256",
    index: f"resflow index {_SHARDS}",
    tiers: f"resflow tiers {_SHARDS} --tiers 96,160,256",
    info: f"resflow info {_SHARDS}",
    lint: "resflow lint shards --json > bad.json || echo there are bad samples",
    plan: f"resflow plan pipelines/classification.yaml --data {_SHARDS} --out plan.png",
    preview: "resflow preview pipelines/classification.yaml --data shards --html --out preview.html",
    bench: "resflow bench pipelines/classification.yaml --data shards --workers 8",
    doctor: "resflow doctor --seconds 3",
}

app = typer.Typer(
    name="resflow",
    help="Feed images of many sizes to PyTorch models.",
    epilog=_CODES,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # formatting help with rich costs 0.3 s
)
for _command, _example in _EXAMPLES.items():
    app.command(epilog=f"\b\nExample:\n  {_example}")(_command)


@app.callback()
def _root() -> None:
    """Feed images of many sizes to PyTorch models."""


def main() -> None:
    """Run the command line; its exit codes are told by `resflow --help` and docs/cli.md."""
    try:
        app()
    except ResflowError as error:
        print(f"resflow: {type(error).__name__}\n  {error}", file=sys.stderr)
        sys.exit(1)
