"""Warm up a network with a fully connected head at 50x50, resize its weights, and go on at 100x100.

    python examples/warm_start_fc.py              # CamVid's 60 street scenes: minutes on one CPU core
    python examples/warm_start_fc.py --full       # wider, longer, from 100x100 to 200x200

A convolutional body, then one fully connected layer over the whole flattened map, which tells the class of each of
10x10 cells of the frame: coarse segmentation by a head that is tied to the image's size. `resize_linear` takes its
weights to the other size. Beside it, from the same seeds, turn by turn on the same machine: training from scratch at
100x100, for the same number of samples and for the same wall time (the learning rate is constant, so that is a point on
the same curve); and the warm start with a fresh head, which tells the worth of the head's weights from the body's.

The frames are one drive of a minute and those held out are its end: accuracies compare these ways, no more. Without
CamVid (RESFLOW_TEST_DATA, default ../shared/data beside the project) scenes are drawn.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, one_hot

import resflow as rf
from resflow.models import resize_linear

CLASSES, VOID, CELLS = 11, 11, 10
PROJECT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RESFLOW_TEST_DATA", PROJECT.parent / "shared" / "data")) / "camvid"
console = Console(width=100)


class Point(NamedTuple):
    """Where training is: what it has cost so far, and what the network can do on images held out."""

    seconds: float
    samples: int
    side: int
    loss: float
    accuracy: float


def network(side: int, width: int) -> nn.Sequential:
    """Images [B, 3, side, side] to scores [B, CLASSES, CELLS, CELLS]; the map that is flattened is half as wide."""
    body: list[nn.Module] = []
    for inputs, outputs, kernel, stride in ((3, width, 4, 2), (width, width, 3, 1), (width, width // 2, 3, 1)):
        body += [nn.Conv2d(inputs, outputs, kernel, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    head = nn.Linear(width // 2 * (side // 2) ** 2, CLASSES * CELLS**2)
    return nn.Sequential(nn.Sequential(*body, nn.Flatten()), head, nn.Unflatten(1, (CLASSES, CELLS, CELLS)))


def at_side(model: nn.Sequential, old: int, new: int, *, fresh: bool = False) -> nn.Sequential:
    """The network for images of another side: the same body; the head's weights resized, or drawn anew."""
    body, head, grid = copy.deepcopy(model)
    assert isinstance(head, nn.Linear)
    resized = resize_linear(head, old // 2, new // 2)
    if fresh:
        resized.reset_parameters()
    return nn.Sequential(body, resized, grid)


def cells(labels: torch.Tensor) -> torch.Tensor:
    """The class that most known pixels of a cell have, [B, CELLS, CELLS]; -100 where none is known."""
    shares = adaptive_avg_pool2d(one_hot(labels, VOID + 1).movedim(-1, 1).float(), CELLS)[:, :VOID]
    return shares.argmax(1).masked_fill(shares.sum(1) == 0, -100)


def loaders(folder: Path, model: nn.Module, seed: int) -> tuple[rf.DataLoader, rf.DataLoader]:
    """Batches of the one size that the model takes: to train on, shuffled and in random views, and held out."""
    pipeline = rf.Pipeline.for_model(
        model,
        fit=rf.Fit.stretch(),
        views=[rf.views.RandomResizedCrop(scale=(0.5, 1.0)), rf.views.HorizontalFlip()],
        targets=rf.Targets(ignore_index=VOID),
        normalize=rf.IMAGENET,
    )
    parts = (folder / "train", folder / "held_out")
    training, held_out = (rf.sources.MaskFolder(part / "images", part / "masks") for part in parts)
    return (
        rf.DataLoader(training, batch_size=8, shuffle=True, seed=seed, pipeline=pipeline),
        rf.DataLoader(held_out, batch_size=8, pipeline=pipeline.evaluation()),
    )


@torch.no_grad()
def evaluate(model: nn.Module, batches: rf.DataLoader) -> tuple[float, float]:
    """Mean loss over the known cells, and the share of them told right."""
    model.eval()
    loss, right, known = 0.0, 0, 0
    for images, labels in batches:
        scores, truth = model(images), cells(labels)
        loss += cross_entropy(scores, truth, reduction="sum").item()
        right += int((scores.argmax(1) == truth).sum())
        known += int((truth >= 0).sum())
    return loss / known, right / known


def course(stages: list[tuple[int, int]], folder: Path, width: int, seed: int, fresh: bool = False) -> Iterator[Point]:
    """Train through stages of (side, epochs): a point at the start of each and after each epoch.

    Seconds are those of loading and training; evaluation does not count.
    """
    torch.manual_seed(seed)
    before, seconds, samples = stages[0][0], 0.0, 0
    model = network(before, width)
    for side, epochs in stages:
        if side != before:
            torch.manual_seed(seed)  # another course has drawn meanwhile
            model, before = at_side(model, before, side, fresh=fresh), side
        batches, held_out = loaders(folder, model, seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)
        yield Point(seconds, samples, side, *evaluate(model, held_out))
        for _epoch in range(epochs):
            start = time.perf_counter()
            model.train()
            for images, labels in batches:
                loss = cross_entropy(model(images), cells(labels))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                samples += len(images)
            seconds += time.perf_counter() - start
            yield Point(seconds, samples, side, *evaluate(model, held_out))


def in_turn(courses: dict[str, Iterator[Point]]) -> dict[str, list[Point]]:
    """All points of all courses; whichever has spent the least time goes on, so that all share the machine's mood."""
    curves = {name: [next(points)] for name, points in courses.items()}
    while courses:
        name = min(courses, key=lambda name: curves[name][-1].seconds)
        point = next(courses[name], None)
        if point is None:
            courses = {other: points for other, points in courses.items() if other != name}
        else:
            curves[name].append(point)
    return curves


def milestones(curves: dict[str, list[Point]]) -> dict[str, Point]:
    """The points to compare."""
    warm, fresh, scratch = curves.values()
    turn = [point.side for point in warm].index(warm[-1].side)
    return {
        "warmed up": warm[turn - 1],
        "head resized, not trained on": warm[turn],
        "fresh head, not trained on": fresh[turn],
        "warm start, head resized": warm[-1],
        "warm start, fresh head": fresh[-1],
        "scratch, same samples": scratch[-1],
        "scratch, same wall time": [point for point in scratch if point.seconds <= warm[-1].seconds][-1],
    }


def tabulate(runs: list[dict[str, list[Point]]]) -> Table:
    """The milestones, as means over the runs, with the least and the greatest accuracy."""
    table = Table("", "size", "samples", "seconds", "loss", "accuracy", "from", "to")
    found = [milestones(curves) for curves in runs]
    for name in found[0]:
        points = np.array([one[name] for one in found])  # [runs, fields]
        seconds, samples, side, loss, accuracy = points.mean(0).tolist()
        numbers = f"{side:.0f}x{side:.0f}", f"{samples:,.0f}", f"{seconds:.1f}", f"{loss:.3f}", f"{accuracy:.1%}"
        table.add_row(name, *numbers, f"{points[:, 4].min():.1%}", f"{points[:, 4].max():.1%}")
    return table


def plot(runs: list[dict[str, list[Point]]], path: Path) -> None:
    """Loss and cells told wrong against the seconds of training: means over the runs, and their range."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss held out", "share of cells told wrong"), strict=True):
        for way in runs[0]:
            points = np.array([curves[way] for curves in runs])  # [runs, points, fields]
            values = points[:, :, 3] if name.startswith("loss") else 1 - points[:, :, 4]
            seconds = points[:, :, 0].mean(0)
            axes.plot(seconds, values.mean(0), label=way)
            axes.fill_between(seconds, values.min(0), values.max(0), alpha=0.15)
        axes.set(xlabel="seconds of training", title=name, yscale="log")
        axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=80)


def frames(root: Path, count: int = 24) -> Iterator[tuple[Image.Image, Image.Image]]:
    """CamVid's frames in order, with the class of each pixel; or, where they are not there, drawn scenes."""
    rng = np.random.default_rng(0)
    for path in sorted((root / "images").glob("*")):
        yield Image.open(path), Image.open(root / "masks" / path.name)
    for _scene in range(0 if (root / "images").is_dir() else count):
        pixels, mask = rng.normal((150, 180, 220), 15, (150, 200, 3)), Image.new("L", (200, 150))
        horizon, left, car = rng.integers((60, 0, 0), (100, 120, 140)).tolist()
        for value, place in (
            (1, (left, 20, left + 80, 150)),
            (3, (0, horizon, 200, 150)),
            (8, (car, 95, car + 60, 135)),
        ):
            ImageDraw.Draw(mask).rectangle(place, fill=value)
        pixels[np.asarray(mask) > 0] -= 12 * np.asarray(mask)[np.asarray(mask) > 0][:, None]
        yield Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


def prepare(root: Path, folder: Path, height: int) -> None:
    """Write the frames at a height once, as no epoch needs them larger; the last fifth is held out."""
    pairs = list(frames(root))
    for number, pair in enumerate(pairs):
        part = folder / ("held_out" if number >= 0.8 * len(pairs) else "train")
        for kind, picture, way in zip(
            ("images", "masks"), pair, (Image.Resampling.LANCZOS, Image.Resampling.NEAREST), strict=True
        ):
            (part / kind).mkdir(parents=True, exist_ok=True)
            size = (round(picture.width * height / picture.height), height)
            picture.resize(size, way).save(part / kind / f"{number:03d}.png")


def main(arguments: list[str] | None = None) -> list[dict[str, list[Point]]]:
    """Run all ways for each seed, print the table, draw the plot; returns the curves of each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with images/ and masks/ of the same names")
    parser.add_argument("--output", type=Path, default=PROJECT / "build" / "examples" / "warm_start_fc")
    parser.add_argument("--full", action="store_true", help="100x100 to 200x200, 32 channels, 50 epochs at each")
    parser.add_argument("--sides", type=int, nargs=2, default=[50, 100])
    parser.add_argument("--epochs", type=int, default=10, help="at each size")
    parser.add_argument("--width", type=int, default=16, help="channels of the body")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(arguments)
    if given.full:
        given.sides, given.epochs, given.width = [100, 200], 50, 32
    if not (given.data / "images").is_dir():
        console.print(f"{given.data} is not there (set RESFLOW_TEST_DATA): scenes are drawn instead, and easy ones")
    given.output.mkdir(parents=True, exist_ok=True)
    (small, large), epochs, runs = given.sides, given.epochs, []
    with tempfile.TemporaryDirectory() as folder:
        prepare(given.data, Path(folder), round(1.5 * large))
        for seed in range(given.seeds):
            shared = {"folder": Path(folder), "width": given.width, "seed": seed}
            both = [(small, epochs), (large, epochs)]
            courses = {
                "warm start, head resized": course(both, **shared),
                "warm start, fresh head": course(both, **shared, fresh=True),
                f"scratch at {large}x{large}": course([(large, 2 * epochs)], **shared),
            }
            runs.append(in_turn(courses))
            accuracies = ", ".join(f"{name} {points[-1].accuracy:.1%}" for name, points in runs[-1].items())
            console.print(f"seed {seed}: {accuracies}")
    console.print(tabulate(runs))
    plot(runs, given.output / "warm_start_fc.png")
    console.print(f"means over {given.seeds} seeds; plot in {given.output}")
    return runs


if __name__ == "__main__":
    main()
