"""Train a fully convolutional network on buckets of many shapes at many resolutions, and run it at any size.

    python examples/fcn_any_size.py               # CamVid's 60 street scenes, a small U-Net: minutes on one CPU core
    python examples/fcn_any_size.py --full        # a wider one, longer and larger, as on a GPU

CamVid's frames all have one size, so each is first cut to a window of its own ratio, from 1:2 to 2:1. The loader learns
buckets from the windows' shapes, and each batch draws a resolution. Intersection over union (IoU) is counted on images
held out, in the pixels of the source images, where `batch.invert` takes the scores. The frames are one drive of a
minute, and those held out are its end: the figures show that it works and at which sizes, not how well it would do in
another street. Without CamVid (RESFLOW_TEST_DATA, default ../shared/data beside the project) scenes are drawn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from rich.console import Console
from rich.live import Live
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

import resflow as rf
from resflow.viz.plotting import class_colour

CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
VOID = len(CLASSES)  # CamVid's unlabelled pixels; padding takes the same number
PROJECT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RESFLOW_TEST_DATA", PROJECT.parent / "shared" / "data")) / "camvid"
console = Console()


class UNet(nn.Module):
    """Down to a sixteenth and up again with skips: scores [B, classes, H, W], for any H and W that 16 divides."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = block(3, width, stride=2)
        self.down = nn.ModuleList(block(fine, coarse, stride=2) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(block(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        deep = maps.pop()
        for up in reversed(self.up):
            deep = up(torch.cat([maps.pop(), interpolate(deep, scale_factor=2)], 1))
        return interpolate(self.head(deep), scale_factor=2, mode="bilinear")


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two convolutions, the first of them strided."""
    layers: list[nn.Module] = []
    for source, step in ((inputs, stride), (outputs, 1)):
        layers += [nn.Conv2d(source, outputs, 3, step, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


@torch.no_grad()
def confusion(model: nn.Module, evaluation: rf.DataLoader, masks: Path) -> torch.Tensor:
    """How many source pixels of each class (rows) were taken for each class (columns)."""
    model.eval()
    counts = torch.zeros(VOID * VOID, dtype=torch.int64)
    for batch in evaluation:
        for key, scores in zip(batch.keys, batch.invert(masks=model(batch.images)), strict=True):
            truth, found = torch.from_numpy(np.array(Image.open(masks / key))).long(), scores.argmax(0).cpu()
            known = truth != VOID
            counts += torch.bincount(truth[known] * VOID + found[known], minlength=VOID * VOID)
    return counts.view(VOID, VOID)


def iou(counts: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each class; nan where neither truth nor prediction has it."""
    return counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())


class Row(NamedTuple):
    """What an epoch of training gave."""

    epoch: int
    shapes: list[tuple[int, int]]
    seconds: float
    loss: float
    mean_iou: float


def train(model: nn.Module, batches: rf.DataLoader, evaluation: rf.DataLoader, masks: Path, epochs: int) -> list[Row]:
    """Train, and show about ten epochs in a table."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * len(batches), pct_start=0.15)
    rows: list[Row] = []
    table = Table("epoch", "shapes of batches", "seconds", "loss", "mIoU held out")
    start = time.perf_counter()
    with Live(table, console=console):
        for epoch in range(epochs):
            model.train()
            losses: list[float] = []
            shapes: dict[tuple[int, int], None] = {}  # in order
            for images, labels in batches:
                loss = cross_entropy(model(images), labels, ignore_index=VOID)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
                losses.append(loss.item())
                shapes[images.shape[2], images.shape[3]] = None
            if epoch % max(1, epochs // 10) == 0 or epoch == epochs - 1:
                mean = iou(confusion(model, evaluation, masks)).nanmean().item()
                seconds = time.perf_counter() - start
                rows.append(Row(epoch, list(shapes), seconds, sum(losses) / len(losses), mean))
                text = " ".join(f"{height}x{width}" for height, width in shapes)
                table.add_row(str(epoch), text, f"{seconds:.0f}", f"{rows[-1].loss:.3f}", f"{mean:.1%}")
    return rows


def by_class(results: dict[str, torch.Tensor]) -> Table:
    """IoU of each class at each resolution of evaluation."""
    table = Table("class", "pixels", *results, title="IoU held out, in source pixels, by resolution")
    pixels = next(iter(results.values())).sum(1)
    for number in pixels.nonzero().flatten().tolist():
        cells = [f"{iou(counts)[number].item():.1%}" for counts in results.values()]
        table.add_row(CLASSES[number], f"{(pixels[number] / pixels.sum()).item():.1%}", *cells)
    table.add_row("mean", "", *(f"{iou(counts).nanmean().item():.1%}" for counts in results.values()))
    return table


@torch.no_grad()
def plot(rows: list[Row], model: nn.Module, evaluation: rf.DataLoader, root: Path, path: Path) -> None:
    """Loss and IoU over the epochs; beside them up to five images, their truth and what was found."""
    palette = np.array([class_colour(number) for number in range(VOID)] + [(0, 0, 0)])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    curves, pictures = figure.subfigures(1, 2, width_ratios=(1, 1.8))
    axes = curves.subplots()
    axes.plot([row.epoch for row in rows], [row.loss for row in rows], "o-", label="loss")
    axes.plot([row.epoch for row in rows], [row.mean_iou for row in rows], "s-", label="mIoU held out")
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.legend()
    grid = pictures.subplots(3, min(5, len(evaluation)), squeeze=False)
    for column, batch in zip(grid.T, islice(evaluation, 0, None, len(evaluation) // grid.shape[1]), strict=False):
        found = batch.invert(masks=model(batch.images))[0].argmax(0).cpu()
        image, mask = (Image.open(root / kind / batch.keys[0]) for kind in ("images", "masks"))
        for place, picture in zip(column, (image, palette[np.asarray(mask)], palette[found]), strict=True):
            place.imshow(picture)
        column[0].set_title("in {}x{}".format(*batch.images.shape[2:]), fontsize=8)
    for place in pictures.axes:
        place.set_axis_off()
    figure.savefig(path, dpi=80)


def frames(root: Path, count: int = 24) -> Iterator[tuple[Image.Image, Image.Image]]:
    """CamVid's frames in order, with the class of each pixel; or, where they are not there, drawn scenes."""
    rng = np.random.default_rng(0)
    for path in sorted((root / "images").glob("*")):
        yield Image.open(path), Image.open(root / "masks" / path.name)
    for _scene in range(0 if (root / "images").is_dir() else count):
        mask = Image.new("L", (240, 180))
        horizon, left, car = rng.integers((70, 0, 20), (110, 120, 160)).tolist()
        for value, place in (
            (1, (left, 20, left + 90, 180)),
            (3, (0, horizon, 240, 180)),
            (8, (car, 115, car + 60, 155)),
        ):
            ImageDraw.Draw(mask).rectangle(place, fill=value)
        pixels = rng.normal(np.asarray(mask)[..., None] * 25 + 40, 12, (180, 240, 3))
        yield Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


def cut(root: Path, folder: Path) -> None:
    """Write each frame's window of a ratio of its own, from 1:2 to 2:1, about as large as fits; hold out the last."""
    rng = np.random.default_rng(0)
    pairs = list(frames(root))
    for number, (image, mask) in enumerate(pairs):
        part = folder / ("held_out" if number >= 0.8 * len(pairs) else "train")
        ratio = 2 ** rng.uniform(-1, 1)
        height = min(image.height, image.width / ratio) * rng.uniform(0.85, 1)
        size = np.array([height * ratio, height]).round().astype(int)  # (width, height)
        corner = (rng.random(2) * (image.size - size)).astype(int)
        for kind, picture in (("images", image), ("masks", mask)):
            (part / kind).mkdir(parents=True, exist_ok=True)
            picture.crop((*corner, *(corner + size))).save(part / kind / f"{number:03d}.png")


def run(given: argparse.Namespace, folder: Path) -> tuple[list[Row], dict[str, torch.Tensor]]:
    """Train on the windows and evaluate; returns the rows of training and the confusion at each resolution."""
    folders = [folder / part for part in ("train", "held_out")]
    training, held_out = (rf.sources.MaskFolder(part / "images", part / "masks", classes=CLASSES) for part in folders)
    torch.manual_seed(0)
    device = "cuda" if given.full and torch.cuda.is_available() else "cpu"
    model = UNet(len(CLASSES), given.width).to(device)
    pipeline = rf.Pipeline.for_model(  # which finds the stride of the model, 16
        model,
        resolution=rf.schedules.RandomMultiScale(tuple(given.resolutions)),
        buckets=5,
        views=[rf.views.RandomResizedCrop(scale=(0.4, 1.0)), rf.views.HorizontalFlip()],
        targets=rf.Targets(ignore_index=VOID),
        normalize=rf.IMAGENET,
        device=device,
    )
    batches = rf.DataLoader(training, batch_size=8, shuffle=True, num_workers=8 if given.full else 0, pipeline=pipeline)

    def evaluation(resolution: int, batch_size: int = 4) -> rf.DataLoader:
        return rf.DataLoader(held_out, batch_size=batch_size, pipeline=pipeline.evaluation(resolution=resolution))

    low, high = min(given.resolutions), max(given.resolutions)
    console.print(f"{len(training)} images to train on in {len(batches.shapes())} shapes, {len(held_out)} held out")
    rows = train(model, batches, evaluation(high), folders[1] / "masks", given.epochs)
    names = {side: f"{side}" if low <= side <= high else f"{side} (unseen)" for side in (low // 2, low, high, 2 * high)}
    results = {name: confusion(model, evaluation(side), folders[1] / "masks") for side, name in names.items()}
    console.print("\n", by_class(results))
    plot(rows, model, evaluation(high, batch_size=1), folders[1], given.output / "fcn_any_size.png")
    console.print(f"plot in {given.output}")
    return rows, results


def main(arguments: list[str] | None = None) -> tuple[list[Row], dict[str, torch.Tensor]]:
    """Read the arguments, cut the windows, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with images/ and masks/ of the same names")
    parser.add_argument("--output", type=Path, default=PROJECT / "build" / "examples" / "fcn_any_size")
    parser.add_argument("--full", action="store_true", help="256 to 448 pixels, 64 channels, 300 epochs, a GPU if any")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[96, 128, 160, 192])
    given = parser.parse_args(arguments)
    if given.full:
        given.epochs, given.width, given.resolutions = 300, 64, [256, 320, 384, 448]
    if not (given.data / "images").is_dir():
        console.print(f"{given.data} is not there (set RESFLOW_TEST_DATA): scenes are drawn instead, and easy ones")
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        cut(given.data, Path(folder))
        return run(given, Path(folder))


if __name__ == "__main__":
    main()
