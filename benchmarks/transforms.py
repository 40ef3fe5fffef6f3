"""Colour behind a pipeline, beside torchvision's recipes: `python benchmarks/transforms.py [--rounds 5] [--quick]`.

Images per second of one pass after a warm one, each measurement in a process of its own, the two ways in turn and the
order turned from round to round; medians, and the median of the rounds' ratios: of the clock, and of the processor time
of the process and its workers, which other programs on the machine hardly change.

Each recipe is RandomResizedCrop(224), flip, colour, ToTensor, Normalize, for one way in torch's DataLoader over an
ImageFolder, for the other in `Pipeline.from_transforms` of the same `Compose`. Batches of 64, 2 workers, prefetch
factor 4, float32. The images are imagenet500 in RESFLOW_TEST_DATA (default: shared/data beside the checkout), else
drawn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.data
from dropin import lay_out, processor_seconds

RECIPES = ("none", "randaugment+erasing", "trivialaugment", "colorjitter", "colorjitter+hue")
WAYS = ("torch", "resflow")


def recipe(name: str) -> Any:
    """A recipe of torchvision's: a `Compose`."""
    from torchvision import transforms

    colour: dict[str, list[Any]] = {
        "none": [],
        "randaugment+erasing": [transforms.RandAugment()],
        "trivialaugment": [transforms.TrivialAugmentWide()],
        "colorjitter": [transforms.ColorJitter(0.4, 0.4, 0.4)],
        "colorjitter+hue": [transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)],
    }
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            *colour[name],
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            *([transforms.RandomErasing(p=0.25)] if name.endswith("erasing") else []),
        ]
    )


def make_loader(name: str, way: str, folder: str, workers: int) -> Any:
    """The loader of one way for a recipe."""
    from torchvision.datasets import ImageFolder

    import resflow as rf

    options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "num_workers": workers}
    if workers:
        options |= {"prefetch_factor": 4, "persistent_workers": True}
        options["multiprocessing_context"] = multiprocessing.get_context("fork")
    transform = recipe(name)
    if way == "torch":
        return torch.utils.data.DataLoader(ImageFolder(folder, transform), **options)
    return rf.DataLoader(ImageFolder(folder), pipeline=rf.Pipeline.from_transforms(transform), **options)


def measure(name: str, way: str, folder: str, workers: int, passes: int) -> tuple[float, float]:
    """Images per second, and per second of processor time, of some passes after a warm one."""
    loader = make_loader(name, way, folder, workers)
    for images, _ in loader:
        if tuple(images.shape[1:]) != (3, 224, 224) or images.dtype != torch.float32:
            raise SystemExit(f"{way} gives {images.dtype} {list(images.shape)}")
    start, spent, done = time.perf_counter(), processor_seconds(), 0
    for _ in range(passes):
        done += sum(len(targets) for _, targets in loader)
    return done / (time.perf_counter() - start), done / (processor_seconds() - spent)


def measured(*arguments: Any) -> tuple[float, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr}")
    rate, of_processor = json.loads(done.stdout)
    return rate, of_processor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--json", type=Path, help="write all rates there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*json.loads(arguments.measure))))
        return
    rounds = 1 if arguments.quick else arguments.rounds
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = lay_out(Path(folder), drawn=64 if arguments.quick else 400)
        print(
            f"{images}; {rounds} rounds; {arguments.workers} workers; torch {torch.__version__}; {os.cpu_count()} cores"
        )
        print(f"{'images per second':22}{'torch':>8}{'resflow':>9}{'ratio':>7}{'of rounds':>14}{'of CPU time':>13}")
        for name in arguments.recipes:
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for number in range(rounds):
                for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                    found[way].append(measured(name, way, folder, arguments.workers, 1))
            rates = {way: np.array(pairs) for way, pairs in found.items()}  # [rounds, 2] each
            ratios = rates["resflow"] / rates["torch"]
            medians = {way: float(np.median(pairs[:, 0])) for way, pairs in rates.items()}
            clock, processor = np.median(ratios, axis=0).tolist()
            print(
                f"{name:22}{medians['torch']:8.0f}{medians['resflow']:9.0f}{clock:7.2f}"
                f"{f'{ratios[:, 0].min():.2f} to {ratios[:, 0].max():.2f}':>14}{processor:13.2f}",
                flush=True,
            )
            results[name] = {"rates": found, "medians": medians, "ratio": clock, "processor": processor}
    if arguments.json:
        about = {"images": images, "torch": torch.__version__, "cores": os.cpu_count(), "workers": arguments.workers}
        arguments.json.write_text(json.dumps(about | {"recipes": results}, indent=1))


if __name__ == "__main__":
    main()
