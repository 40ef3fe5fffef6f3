"""Whether training on tiers is as good as on originals: `python benchmarks/tiers_training.py [--seeds 0 1 2]`.

CIFAR-10's images (cifar10-train.tar and cifar10-test.tar in RESFLOW_TEST_DATA, 6,000 and 1,000) are enlarged five times
to 160 pixels, stored as shards with tiers 48, 64 and 96, and a small convolutional network is trained on them from
nothing over Linear(32, 64), RandomResizedCrop(0.35 to 1), horizontal flip: with each seed once from the originals and
once from the tiers, with the same initial weights, batches and windows. Printed is the accuracy on the test images,
read from the originals and from tiers: mean and standard deviation over seeds, and of the differences within a seed.
One thread computes, so the figures come out again on the same machine.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from PIL import Image

import resflow as rf
from resflow.demo.model import small_classifier
from resflow.sources import build_index, index_path, write_index, write_shards
from resflow.sources.tier_writer import make_tiers

SIDE, SIDES = 160, (48, 64, 96)
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
QUALITY: dict[str, float | None] = {"originals": None, "tiers": 1.0}
"""`Pipeline.tier_quality` of each way; `--tier-quality` changes that of the tiers."""


def enlarged(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Samples of an archive `split/class/number.jpg`, at most a number of each class."""
    seen: Counter[str] = Counter()
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile():
                continue
            name = Path(member.name).parent.name
            seen[name] += 1
            if seen[name] > count:
                continue
            content = archive.extractfile(member)
            assert content is not None
            image = Image.open(content).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=92)
            label = str(_CLASSES.index(name)).encode()
            yield {"__key__": f"{name}-{Path(member.name).stem}", "jpg": buffer.getvalue(), "cls": label}


def stored(path: Path, count: int, folder: str) -> str:
    """Shards with index and tiers; returns the path."""
    shard = str(write_shards(enlarged(path, count), f"{folder}/{path.stem}-%03d.tar", max_samples=1 << 20)[0])
    write_index(build_index(shard, workers=1), index_path(shard))
    make_tiers(shard, SIDES, workers=1)
    return shard


def pipeline(epochs: int, quality: float | None) -> rf.Pipeline:
    return rf.Pipeline(
        resolution=rf.schedules.Linear(32, 64, epochs=max(2, epochs), step=16),
        buckets=1,
        stride=16,
        views=[rf.views.RandomResizedCrop(scale=(0.35, 1.0)), rf.views.HorizontalFlip()],
        normalize=rf.IMAGENET,
        tier_quality=quality,
    )


def trained(shards: str, epochs: int, seed: int, quality: float | None) -> torch.nn.Module:
    """A network trained from nothing."""
    torch.manual_seed(seed)
    model = small_classifier(len(_CLASSES))
    loader = rf.DataLoader(
        shards, batch_size=64, shuffle=True, drop_last=True, seed=seed, pipeline=pipeline(epochs, quality)
    )
    steps = epochs * len(loader)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
    return model


@torch.no_grad()
def accuracy(model: torch.nn.Module, shards: str, quality: float | None) -> float:
    """Share of test images whose class is found, in percent."""
    model.eval()
    right = total = 0
    for images, labels in rf.DataLoader(shards, batch_size=100, pipeline=pipeline(2, quality).evaluation()):
        right += int((model(images).argmax(dim=1) == labels).sum())
        total += len(labels)
    model.train()
    return 100 * right / total


def spread(values: list[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def main() -> None:
    """Train, evaluate, print."""
    root = Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=root, help="holds cifar10-train.tar and cifar10-test.tar")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--tier-quality", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help="50 images a class, 2 epochs: does it work")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    epochs = 2 if options.quick else options.epochs
    count = 50 if options.quick else 1 << 20
    QUALITY["tiers"] = options.tier_quality
    runs: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        train, test = (stored(options.folder / f"cifar10-{part}.tar", count, folder) for part in ("train", "test"))
        for seed, (way, quality) in itertools.product(options.seeds, QUALITY.items()):
            start = time.perf_counter()
            model = trained(train, epochs, seed, quality)
            seconds = time.perf_counter() - start
            found = {name: accuracy(model, test, value) for name, value in QUALITY.items()}
            runs.append({"seed": seed, "trained": way, "seconds": seconds, "accuracy": found})
            shown = ", ".join(f"{name} {value:.1f} %" for name, value in found.items())
            print(f"seed {seed}, trained on {way} in {seconds:.0f} s: {shown}", flush=True)
    print("\n| trained on | tested on originals | tested on tiers |\n|---|---|---|")
    by_way = {way: [run["accuracy"] for run in runs if run["trained"] == way] for way in QUALITY}
    for way, found in by_way.items():
        cells = (spread([one[name] for one in found]) for name in QUALITY)
        print(f"| {way} | {' | '.join(cells)} |")
    pairs = list(zip(by_way["tiers"], by_way["originals"], strict=True))
    cells = (spread([tier[name] - whole[name] for tier, whole in pairs]) for name in QUALITY)
    print(f"| difference within a seed | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(
            json.dumps({"epochs": epochs, "tier_quality": options.tier_quality, "runs": runs}, indent=1)
        )


if __name__ == "__main__":
    main()
