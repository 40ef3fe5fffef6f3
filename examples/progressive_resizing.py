"""Progressive resizing: one loader whose resolution grows from 16 to 64 pixels, beside the same training at 64 px.

    python examples/progressive_resizing.py                          # 6,000 images of CIFAR-10, minutes on one core
    python examples/progressive_resizing.py --full --device cuda     # 40 epochs, a network four times as wide

The network ends in an average over whatever map is left, so it takes every size. Three trainings take turns, an epoch
each, so that what else the machine does slows all alike: the schedule, 64 px for as many epochs, and 64 px for as many
pixels, which is about what the schedule costs. Prints time and accuracy, and plots accuracy over time.

CIFAR-10 is looked for as cifar10-train.tar and cifar10-test.tar (split/class/number.jpg) in RESFLOW_TEST_DATA, by
default ../shared/data beside the project; where it is not, images are drawn instead. Its images have 32 pixels, so 64
shows no more detail: what grows is the map that the network computes. One seed and 1,000 test images tell accuracies
some 3 points apart from each other, no less.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn

import resflow as rf
from resflow.demo.data import draw_data, unwatched

FIRST, LAST = 16, 64  # pixels
DRAWN = 2000  # images, where there are none


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch took and gave: pixels of its images' sides, seconds of training, accuracy at 64 px afterwards."""

    resolution: int
    seconds: float
    loss: float
    accuracy: float


def classifier(classes: int, width: int) -> nn.Sequential:
    """Three strided stages and an average over the map, whatever its size: from 8 pixels up."""

    def stage(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *stage(3, width, 2), *stage(width, width, 1),
        *stage(width, 2 * width, 2), *stage(2 * width, 2 * width, 1),
        *stage(2 * width, 4 * width, 2), *stage(4 * width, 4 * width, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes),
    )  # fmt: skip


class Training:
    """One network, one loader; each element of an iteration is an epoch."""

    def __init__(self, data: tuple[Any, Any, int], resolution: Any, epochs: int, given: argparse.Namespace) -> None:
        train, test, classes = data
        torch.manual_seed(0)
        self.model = classifier(classes, given.width).to(given.device).to(memory_format=torch.channels_last)
        self.epochs = epochs
        pipeline = rf.Pipeline.for_model(
            self.model,
            resolution=resolution,
            buckets=1,
            views=[rf.views.RandomResizedCrop(scale=(0.5, 1.0)), rf.views.HorizontalFlip()],
            normalize=rf.IMAGENET,
            memory_format=torch.channels_last,
            device=given.device,
        )
        self.loader = rf.DataLoader(
            train, batch_size=given.batch_size, shuffle=True, drop_last=True, seed=0, pipeline=pipeline
        )
        self.evaluation = rf.DataLoader(
            test, batch_size=given.batch_size, pipeline=pipeline.evaluation(resolution=LAST)
        )

    def pixels(self) -> int:
        """Pixels of one image of each batch of all epochs, known before a byte is read: the plan comes first."""
        return sum(int(self.loader.plan(epoch).shapes.prod(axis=1).sum()) for epoch in range(self.epochs))

    def __iter__(self) -> Iterator[Epoch]:
        optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.02)
        steps = self.epochs * len(self.loader)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps, pct_start=0.2)
        for epoch in range(self.epochs):
            self.model.train()
            self.loader.set_epoch(epoch)
            start, total = time.perf_counter(), 0.0
            for batch in self.loader:
                loss = nn.functional.cross_entropy(self.model(batch.images), batch.targets)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rates.step()
                total += loss.item()
            seconds = time.perf_counter() - start
            yield Epoch(batch.resolution, seconds, total / len(self.loader), self.accuracy())

    @torch.inference_mode()
    def accuracy(self) -> float:
        """Share of the test images told right, at 64 px."""
        self.model.eval()
        right = [self.model(images).argmax(dim=1) == labels for images, labels in self.evaluation]
        return torch.cat(right).float().mean().item()


def find_images(folder: Path, console: Console) -> tuple[Any, Any, int]:
    """Images to train on, images to test on, and the number of classes."""
    root = Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    tars = [root / f"cifar10-{part}.tar" for part in ("train", "test")]
    if all(tar.exists() for tar in tars):
        train, test = (rf.sources.ClassFolderShards(rf.sources.build_index(tar)) for tar in tars)
        return train, test, len(train.classes)
    console.print(f"no CIFAR-10 in {root} (RESFLOW_TEST_DATA), so {DRAWN:,} images are drawn instead")
    drawn = draw_data(folder / "shards", DRAWN, seed=0, watch=unwatched)
    return list(drawn.train.shards), list(drawn.held_out.shards), len(drawn.classes)


def plot(runs: dict[str, list[Epoch]], path: Path) -> None:
    """Accuracy over the seconds of training."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, epochs in runs.items():
        elapsed = [sum(one.seconds for one in epochs[: place + 1]) for place in range(len(epochs))]
        axes.plot(elapsed, [100 * one.accuracy for one in epochs], marker="o", markersize=3, label=name)
    axes.set(xlabel="seconds of training", ylabel="accuracy at 64 px, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> dict[str, list[Epoch]]:
    """Train three ways; returns the epochs of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="8, or 40 with --full")
    parser.add_argument("--width", type=int, help="channels of the first stage: 16, or 64 with --full")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="the setting for a GPU")
    parser.add_argument("--output", type=Path, default=Path("build/examples/progressive_resizing"))
    given = parser.parse_args(arguments)
    given.epochs, given.width = given.epochs or (8, 40)[given.full], given.width or (16, 64)[given.full]
    given.output.mkdir(parents=True, exist_ok=True)
    console = Console()

    data = find_images(given.output, console)
    # The last epochs, a sixth of all, stay at 64 px, where the network is tested.
    growing = rf.schedules.Linear(FIRST, LAST, epochs=max(2, given.epochs - given.epochs // 6), step=8)
    schedule, fixed = (Training(data, resolution, given.epochs, given) for resolution in (growing, LAST))
    share = schedule.pixels() / fixed.pixels()
    fewer = Training(data, LAST, max(1, round(share * given.epochs)), given)
    console.print(f"the schedule trains on {share:.0%} of the pixels of {given.epochs} epochs at {LAST} px")
    ways = {f"{FIRST} to {LAST} px": schedule, f"{LAST} px": fixed, f"{LAST} px, as cheap": fewer}
    schedule.accuracy()  # what loads and compiles once is not the first training's to pay
    runs: dict[str, list[Epoch]] = {name: [] for name in ways}
    for epoch, results in enumerate(zip_longest(*ways.values())):
        for epochs, result in zip(runs.values(), results, strict=True):
            epochs.extend([result] if result else [])
        done = (f"{100 * one.accuracy:.1f} % after {one.resolution} px" if one else "done" for one in results)
        console.print(f"epoch {epoch}: {', '.join(done)}", highlight=False)

    table = Table("training", "epochs", "resolutions", "seconds", "time", "loss", "accuracy %")
    whole = sum(one.seconds for one in runs[f"{LAST} px"])
    for name, epochs in runs.items():
        seconds, used = sum(one.seconds for one in epochs), dict.fromkeys(str(one.resolution) for one in epochs)
        cells = (
            f"{seconds:.0f}",
            f"{seconds / whole:.2f}",
            f"{epochs[-1].loss:.2f}",
            f"{100 * epochs[-1].accuracy:.1f}",
        )
        table.add_row(name, str(len(epochs)), " ".join(used), *cells)
    console.print(table)
    plot(runs, given.output / "accuracy.png")
    console.print(f"{given.output / 'accuracy.png'}: accuracy over time", soft_wrap=True)
    return runs


if __name__ == "__main__":
    main()
