"""Feed any of torchvision's classifiers batches whose height and width change from one to the next, beside squares.

    python examples/dynamic_input.py                                            # 1,600 drawn images, minutes on a core
    python examples/dynamic_input.py --model vgg11 --data photos                # one folder a class
    python examples/dynamic_input.py --data imagenet500 --label-pattern '^(n\\d\\d)'
    python examples/dynamic_input.py --full --device cuda --data photos         # ResNet-50 near 224 pixels, compiled

`adapt_classifier` makes the network take any size, `Pipeline.for_model` asks it for its stride and least size, and the
loader learns shapes from the images: each batch has one of them, at one of several resolutions. Beside it the same
network is trained on squares of the same area, into which images are padded; the two take turns, an epoch each.

Prints the shapes seen, padding, time and accuracy of both, and how many graphs torch.compile builds for so many shapes.
Without --data images of shapes and textures are drawn, of ratios from 1:3 to 3:1: no set of photographs that is small
enough for a CPU teaches a network anything from nothing. One seed and 320 test images tell 6 points apart, no less.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.models import get_model

import resflow as rf
from resflow.demo.data import Data, draw_data, folder_data, unwatched
from resflow.models import SpatialSpec, adapt_classifier, spatial_spec

Shape = tuple[int, int]


@dataclasses.dataclass(slots=True)
class Run:
    """What a training has seen and come to: batches and padded pixels by shape, seconds, loss and accuracy by epoch."""

    batches: Counter[Shape] = dataclasses.field(default_factory=Counter)
    pixels: Counter[Shape] = dataclasses.field(default_factory=Counter)
    padding: Counter[Shape] = dataclasses.field(default_factory=Counter)
    seconds: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    accuracy: list[float] = dataclasses.field(default_factory=list)

    def see(self, batch: rf.Batch) -> None:
        """Count a batch."""
        count, _, height, width = batch.images.shape
        left, top, right, bottom = batch.valid.cpu().unbind(dim=1)
        self.batches[height, width] += 1
        self.pixels[height, width] += count * height * width
        self.padding[height, width] += count * height * width - int(((right - left) * (bottom - top)).sum())


def train(
    model: nn.Module, spec: SpatialSpec, data: Data, pipeline: rf.Pipeline, run: Run, epochs: int, batch_size: int
) -> Iterator[Run]:
    """Train an epoch with each step of the iteration."""
    batches = rf.DataLoader(list(data.train.shards), batch_size, shuffle=True, drop_last=True, pipeline=pipeline)
    spec.check((height, width) for *_, height, width in batches.shapes())  # long ones might be too narrow
    tested = dataclasses.replace(pipeline, buckets=batches.buckets).evaluation()
    evaluation = rf.DataLoader(list(data.held_out.shards), batch_size, pipeline=tested)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * len(batches))
    accuracy(model, evaluation)  # what loads and compiles once is not the first epoch's to pay
    for epoch in range(epochs):
        model.train()
        batches.set_epoch(epoch)
        start, total = time.perf_counter(), 0.0
        for batch in batches:
            loss = nn.functional.cross_entropy(model(batch.images), batch.targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
            total += loss.item()
            run.see(batch)
        run.seconds.append(time.perf_counter() - start)
        run.losses.append(total / len(batches))
        run.accuracy.append(accuracy(model, evaluation))
        yield run


@torch.no_grad()
def accuracy(model: nn.Module, evaluation: rf.DataLoader) -> float:
    """Share of the held-out images told right."""
    model.eval()
    return torch.cat([model(images).argmax(dim=1) == labels for images, labels in evaluation]).float().mean().item()


@torch.no_grad()
def graphs(model: nn.Module, shapes: Sequence[tuple[int, ...]], *, dynamic: bool) -> int:
    """How many graphs torch.compile builds for batches of these shapes; what it would make of them is left out."""
    built: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        built.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=len(shapes) + 1):  # 8 otherwise, then it gives up
        compiled = torch.compile(model.eval(), dynamic=dynamic, backend=backend)
        for shape in shapes:
            compiled(torch.zeros(shape, device=next(model.parameters()).device))
    return len(built)


def plot(runs: dict[str, Run], path: Path) -> None:
    """Shapes, as outlines in the width of their share of the batches; accuracy by epoch."""
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    outlines, curves = figure.subplots(1, 2)
    for colour, (name, run) in zip(("C0", "C1"), runs.items(), strict=True):
        for (height, width), count in run.batches.items():
            x, y = width / 2, height / 2
            outlines.plot([-x, x, x, -x, -x], [-y, -y, y, y, -y], colour, lw=20 * count / run.batches.total())
        curves.plot([100 * share for share in run.accuracy], colour, marker="o", markersize=3, label=name)
    outlines.set(title="shapes of batches, pixels", aspect="equal")
    curves.set(xlabel="epoch", ylabel="accuracy, %")
    curves.grid(alpha=0.3)
    curves.legend()
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> dict[str, Run]:
    """Train both ways; returns what each has seen and come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="shufflenet_v2_x0_5, or resnet50 with --full")
    parser.add_argument("--data", type=Path, help="folder of images; drawn if left out")
    parser.add_argument("--label-pattern", help="its first group, in a file's name, is the class; else folders are")
    parser.add_argument("--images", type=int, help="drawn, or taken at most: 1,600, or all with --full")
    parser.add_argument("--resolutions", type=int, nargs="+", help="96 128, or 192 224 256 with --full")
    parser.add_argument("--epochs", type=int, help="6, or 90 with --full")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="the setting for a GPU")
    parser.add_argument("--output", type=Path, default=Path("build/examples/dynamic_input"))
    given = parser.parse_args(arguments)
    name = given.model or ("shufflenet_v2_x0_5", "resnet50")[given.full]
    images = given.images or (1600, 1 << 30)[given.full]
    epochs = given.epochs or (6, 90)[given.full]
    resolutions = given.resolutions or ([96, 128], [192, 224, 256])[given.full]
    given.output.mkdir(parents=True, exist_ok=True)
    console = Console()

    folder = given.output / "shards"
    if given.data:
        data = folder_data(folder, given.data, given.label_pattern, most=images, seed=0, watch=unwatched)
    else:
        data = draw_data(folder, min(images, 20_000), seed=0, watch=unwatched)
    torch.manual_seed(0)
    model = adapt_classifier(get_model(name, weights=None, num_classes=len(data.classes)))
    model.to(given.device).to(memory_format=torch.channels_last)  # as batches come
    spec = spatial_spec(model)
    console.print(
        f"{name}: stride {spec.stride}, at least {spec.minimum[0]}x{spec.minimum[1]} pixels; any above is taken"
    )
    pipeline = rf.Pipeline.for_model(
        model,
        resolution=rf.schedules.RandomMultiScale(tuple(resolutions)),
        buckets=6,
        views=[rf.views.HorizontalFlip()],
        normalize=rf.IMAGENET,
        memory_format=torch.channels_last,
        device=given.device,
    )
    sides = pipeline.schedule.resolutions
    square = dataclasses.replace(pipeline, buckets=rf.Buckets.square(*sides, stride=pipeline.stride))
    ways = {"learned shapes": pipeline, "squares": square}
    runs = {way: Run() for way in ways}
    torch.backends.cudnn.benchmark = True  # on a GPU: tries its algorithms once for each shape
    trainings = []
    for way, run in runs.items():
        own = copy.deepcopy(model)
        if given.full:
            own.compile(dynamic=True)
        trainings.append(train(own, spec, data, ways[way], run, epochs, given.batch_size))
    for epoch, _ in enumerate(zip(*trainings, strict=True)):
        shares = (f"{way} {100 * run.accuracy[-1]:.1f} %" for way, run in runs.items())
        console.print(f"epoch {epoch}: {', '.join(shares)}", highlight=False)

    seen = Table("height x width", "batches", "padded %", title="learned shapes, batch by batch")
    run = runs["learned shapes"]
    for shape, count in sorted(run.batches.items(), key=lambda item: (item[0][0] * item[0][1], item[0])):
        seen.add_row(f"{shape[0]} x {shape[1]}", str(count), f"{100 * run.padding[shape] / run.pixels[shape]:.1f}")
    console.print(seen)
    table = Table("training", "shapes", "padded %", "seconds", "loss", "accuracy %")
    for way, run in runs.items():
        padded = f"{100 * run.padding.total() / run.pixels.total():.1f}"
        cells = (f"{sum(run.seconds):.0f}", f"{run.losses[-1]:.2f}", f"{100 * run.accuracy[-1]:.1f}")
        table.add_row(way, str(len(run.batches)), padded, *cells)
    console.print(table)
    shapes = [(given.batch_size, 3, *shape) for shape in runs["learned shapes"].batches]
    counts = [graphs(model, shapes, dynamic=dynamic) for dynamic in (True, False)]
    console.print(
        f"torch.compile builds {counts[0]} graph(s) for these {len(shapes)} shapes with dynamic=True, {counts[1]} with "
        "dynamic=False; cudnn.benchmark tries its algorithms once for each. Warm up for all: loader.shapes().",
        soft_wrap=True,
    )
    plot(runs, given.output / "shapes.png")
    console.print(f"{given.output / 'shapes.png'}: the shapes, and accuracy by epoch", soft_wrap=True)
    return runs


if __name__ == "__main__":
    main()
