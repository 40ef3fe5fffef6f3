"""Four ways to train torchvision's ResNet-18, made for 224 pixels, on CIFAR-10's images of 32.

    python examples/cifar10_resizing.py                                  # 3 epochs of 1,500 images each
    python examples/cifar10_resizing.py --weights resnet18-f37072fd.pth  # the pretrained weights from a file
    python examples/cifar10_resizing.py --full --device cuda             # 30 epochs of all images

- as they are, at 32 px, where the last map of the network is one feature;
- enlarged to 64 px by the loader, so that it is 2x2;
- enlarged, a RandomResizedCrop of each image;
- frozen features of weights trained on ImageNet, at 128 px (224 with --full), computed once, under a linear layer. The
  weights come from --weights, else from torchvision's hub; where neither can be had, this row says why.

All mirror images at random, but the features. The first three take turns, an epoch each, so that what else the machine
does slows all alike. A small setting stops long before any of them has learned what it can: it tells what each costs,
and which learns most from few images. Of 1,000 test images, accuracies some 3 points apart tell little.

CIFAR-10 is looked for as cifar10-train.tar and cifar10-test.tar (split/class/number.jpg) in RESFLOW_TEST_DATA, by
default ../shared/data beside the project; where it is not, images are drawn instead.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

import resflow as rf
from resflow.demo.data import draw_data, unwatched

WEIGHTS = ResNet18_Weights.DEFAULT
DRAWN = 2000  # images, where there are none
MIRROR = rf.views.HorizontalFlip()
WAYS: dict[str, tuple[int, list[Any]]] = {
    "32 px": (32, [MIRROR]),
    "64 px": (64, [MIRROR]),
    "64 px, RandomResizedCrop": (64, [rf.views.RandomResizedCrop(scale=(0.35, 1.0)), MIRROR]),
}
FROZEN = "pretrained, frozen"


def pretrained(path: Path | None) -> nn.Module | str:
    """ResNet-18 with ImageNet's weights and no last layer; or why there are none."""
    try:
        state = torch.load(path, weights_only=True) if path else WEIGHTS.get_state_dict(progress=False)
    except OSError as error:
        return f"not run: no weights at {path or WEIGHTS.url} ({error}); name a file by --weights"
    model: nn.Module = resnet18()
    model.load_state_dict(state)
    model.fc = nn.Identity()
    return model.eval()


class Ways:
    """What all ways share: data and settings."""

    def __init__(self, data: tuple[Any, Any, int], given: argparse.Namespace) -> None:
        self.train, self.test, self.classes = data
        self.given = given

    def loaders(self, model: nn.Module, side: int, views: list[Any]) -> tuple[rf.DataLoader, rf.DataLoader]:
        """Images to train on and to test on, as squares of a side that may be above their own."""
        device, batch_size = self.given.device, self.given.batch_size
        pipeline = rf.Pipeline.for_model(
            model,
            resolution=side,
            buckets=1,
            views=views,
            normalize=rf.IMAGENET,
            memory_format=torch.channels_last,
            device=device,
        )
        train = rf.DataLoader(self.train, batch_size, shuffle=True, drop_last=True, seed=0, pipeline=pipeline)
        return train, rf.DataLoader(self.test, batch_size, pipeline=pipeline.evaluation())

    def trained(self, side: int, views: list[Any]) -> Iterator[tuple[float, float]]:
        """Train ResNet-18 from nothing; seconds of training and accuracy afterwards, of each epoch."""
        torch.manual_seed(0)
        model = resnet18(num_classes=self.classes).to(self.given.device).to(memory_format=torch.channels_last)
        batches, evaluation = self.loaders(model, side, views)
        steps = min(len(batches), max(1, self.given.images // self.given.batch_size))
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=self.given.epochs * steps)
        for epoch in range(self.given.epochs):
            model.train()
            batches.set_epoch(epoch)
            start = time.perf_counter()
            for images, labels in islice(batches, steps):  # others each epoch: the order is drawn anew
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rates.step()
            yield time.perf_counter() - start, accuracy(model, evaluation)

    def frozen(self, body: nn.Module, side: int) -> tuple[float, float]:
        """Train a linear layer on features that are computed once; seconds and accuracy."""
        start = time.perf_counter()
        body = body.to(self.given.device).to(memory_format=torch.channels_last)
        batches, evaluation = self.loaders(body, side, [])
        steps = min(len(batches), max(1, self.given.images // self.given.batch_size))
        with torch.no_grad():
            features, labels = map(torch.cat, zip(*((body(x), y) for x, y in islice(batches, steps)), strict=True))
        torch.manual_seed(0)
        scale = nn.BatchNorm1d(features.shape[1], affine=False)  # to mean 0 and deviation 1, as the training set has it
        head = nn.Sequential(scale, nn.Linear(features.shape[1], self.classes)).to(self.given.device)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(100):
            loss = nn.functional.cross_entropy(head(features), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.perf_counter() - start, accuracy(nn.Sequential(body, head), evaluation)


@torch.inference_mode()
def accuracy(model: nn.Module, evaluation: rf.DataLoader) -> float:
    """Share of the test images told right."""
    model.eval()
    return torch.cat([model(images).argmax(dim=1) == labels for images, labels in evaluation]).float().mean().item()


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


def plot(results: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Accuracy over the seconds of training."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, epochs in results.items():
        elapsed = [sum(seconds for seconds, _ in epochs[: place + 1]) for place in range(len(epochs))]
        axes.plot(elapsed, [100 * share for _, share in epochs], marker="o", markersize=3, label=name)
    axes.set(xlabel="seconds of training", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> dict[str, list[tuple[float, float]]]:
    """Train in all ways; returns seconds and accuracy of each epoch of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="3, or 30 with --full")
    parser.add_argument("--images", type=int, help="in an epoch: 1,500, or all with --full")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--weights", type=Path, help="state of torchvision's ResNet-18 (.pth)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="the setting for a GPU")
    parser.add_argument("--output", type=Path, default=Path("build/examples/cifar10_resizing"))
    given = parser.parse_args(arguments)
    given.epochs, given.images = given.epochs or (3, 30)[given.full], given.images or (1500, 1 << 40)[given.full]
    given.output.mkdir(parents=True, exist_ok=True)
    console = Console()

    body = pretrained(given.weights)
    ways = Ways(find_images(given.output, console), given)
    runs = {name: ways.trained(*way) for name, way in WAYS.items()}
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for epoch in range(given.epochs):
        for name, run in runs.items():
            results[name].append(next(run))
        shares = (f"{name} {100 * done[-1][1]:.1f} %" for name, done in results.items())
        console.print(f"epoch {epoch}: {', '.join(shares)}", highlight=False, soft_wrap=True)
    if isinstance(body, nn.Module):
        results[FROZEN] = [ways.frozen(body, (128, 224)[given.full])]

    table = Table("ResNet-18", "epochs", "seconds", "accuracy %")
    for name, epochs in results.items():
        table.add_row(name, str(len(epochs)), f"{sum(one for one, _ in epochs):.0f}", f"{100 * epochs[-1][1]:.1f}")
    if isinstance(body, str):
        table.add_row(FROZEN, "", "not run", "not run")
    console.print(table)
    if isinstance(body, str):
        console.print(f"{FROZEN}: {body}", soft_wrap=True)
    plot(results, given.output / "accuracy.png")
    console.print(f"{given.output / 'accuracy.png'}: accuracy over time", soft_wrap=True)
    return results


if __name__ == "__main__":
    main()
