"""`resflow demo`: the whole path on drawn images or on one's own, in about a minute."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resflow.cli.dataset import AsJson


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Your images: one sub-folder a class, or see --label-pattern. Drawn if left out."),
    ] = None,
    label_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression searched in each file's name; its first group is the class."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for shards and pictures; nothing else is written.")] = Path(
        "demo-output"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 8,
    images: Annotated[int, typer.Option(min=10, help="Images to draw, or the most to take from --data.")] = 1600,
    first: Annotated[int, typer.Option("--from", min=32, help="Resolution of the first epoch, pixels.")] = 64,
    last: Annotated[int, typer.Option("--to", min=32, help="Resolution of the last epoch, pixels.")] = 128,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a batch.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Draw images (or take yours), write shards, index, plan, train on growing images, evaluate, and plot."""
    from rich.console import Console

    from resflow.demo.run import Settings, run_demo
    from resflow.demo.train import Recipe

    recipe = Recipe(
        epochs=epochs, first=first, last=last, batch_size=batch_size, workers=workers, seed=seed, device=device
    )
    settings = Settings(out=out, data=data, label_pattern=label_pattern, images=images, recipe=recipe)
    results = run_demo(settings, Console(stderr=as_json))
    if as_json:
        print(json.dumps({"out": str(out), "epochs": [asdict(result) for result in results]}))
