"""What `rf.fuse` gains by one changed line: `python benchmarks/one_line.py [--rounds 5] [--workers 2] [--json FILE]`.

ImageFolder with the transforms that training scripts have, in three loaders: PyTorch's as it is written, PyTorch's over
`rf.fuse(dataset)`, and `rf.DataLoader` over `rf.fuse(dataset)`. Images per second of a pass after a warm one, batches
of 64, workers that persist, the loaders in turn and the order turned from round to round; medians, and the medians of
the rounds' ratios to the first: of the clock, and of processor time, which other programs on the machine hardly change.

The images are imagenet500 in RESFLOW_TEST_DATA (default: shared/data beside the checkout), else drawn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.utils.data
from dropin import lay_out
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

import resflow as rf

_CROP = [v1.RandomResizedCrop(224), v1.RandomHorizontalFlip()]
_NUMBERS = [v1.ToTensor(), v1.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
_V2 = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
_BICUBIC = v1.InterpolationMode.BICUBIC
RECIPES: dict[str, Any] = {
    "RandomResizedCrop, flip": v1.Compose([*_CROP, *_NUMBERS]),
    "Resize, CenterCrop": v1.Compose([v1.Resize(256), v1.CenterCrop(224), *_NUMBERS]),
    "RandomResizedCrop (bicubic), flip": v1.Compose(
        [v1.RandomResizedCrop(224, interpolation=_BICUBIC), *_CROP[1:], *_NUMBERS]
    ),
    "v2 on tensors": v2.Compose([v2.ToImage(), v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *_V2]),
    "with ColorJitter": v1.Compose([*_CROP, v1.ColorJitter(0.4, 0.4, 0.4), *_NUMBERS]),
    "with TrivialAugment": v1.Compose([*_CROP, v1.TrivialAugmentWide(), *_NUMBERS]),
    "with RandAugment, RandomErasing": v1.Compose([*_CROP, v1.RandAugment(), *_NUMBERS, v1.RandomErasing(0.25)]),
}
WAYS = ("torch, as written", "fuse, torch's loader", "fuse, rf.DataLoader")


def loaders(root: str, transform: Any, workers: int) -> list[Any]:
    """The three loaders over one folder."""
    written = datasets.ImageFolder(root, transform)
    options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "num_workers": workers, "drop_last": True}
    options |= {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    torch_loader = torch.utils.data.DataLoader
    return [
        torch_loader(written, **options),
        torch_loader(rf.fuse(written), **options),
        rf.DataLoader(rf.fuse(written), **options),
    ]


def one_pass(loader: Any) -> tuple[float, float]:
    """Images per second of the clock, and per second of the processors, of one pass."""
    begun, used, count = time.perf_counter(), _processor_time(loader), 0
    for images, _ in loader:
        count += len(images)
    return count / (time.perf_counter() - begun), count / (_processor_time(loader) - used)


def _processor_time(loader: Any) -> float:
    """Seconds of this process and of the loader's workers."""
    workers = getattr(getattr(loader, "_iterator", None), "_workers", ())
    processes = [psutil.Process(), *(psutil.Process(worker.pid) for worker in workers)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(root: str, transform: Any, workers: int, rounds: int) -> list[dict[str, float]]:
    """Rates and ratios of the three ways."""
    made = loaders(root, transform, workers)
    for loader in made:
        one_pass(loader)
    rates: list[list[tuple[float, float]]] = [[] for _ in made]
    for number in range(rounds):
        order = [(place + number) % len(made) for place in range(len(made))]
        for place in order:
            rates[place].append(one_pass(made[place]))
    return [
        {
            "rate": statistics.median(rate for rate, _ in way),
            "ratio": statistics.median(a / b for (a, _), (b, _) in zip(way, rates[0], strict=True)),
            "processor_ratio": statistics.median(a / b for (_, a), (_, b) in zip(way, rates[0], strict=True)),
        }
        for way in rates
    ]


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Images per second and ratios, as Markdown."""
    lines = [f"| images per second | {' | '.join(WAYS)} |", "|---|---|---|---|"]
    for name, ways in results.items():
        cells = [f"{ways[0]['rate']:,.0f}", *(f"{way['rate']:,.0f}, {way['ratio']:.1f} x" for way in ways[1:])]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--recipes", default="", help="part of a name; default: all")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        print(f"{lay_out(Path(folder))}, {chosen.workers} workers, {chosen.rounds} rounds")
        for name, transform in RECIPES.items():
            if chosen.recipes in name:
                results[name] = measure(folder, transform, chosen.workers, chosen.rounds)
                shown = ", ".join(f"{way['ratio']:.2f} ({way['processor_ratio']:.2f})" for way in results[name][1:])
                print(f"{name}: {shown}; in brackets, by processor time", flush=True)
    print(table(results))
    if chosen.json:
        chosen.json.write_text(json.dumps({"workers": chosen.workers, "rounds": chosen.rounds, "results": results}))


if __name__ == "__main__":
    main()
