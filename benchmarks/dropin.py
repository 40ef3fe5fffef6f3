"""What the drop-in costs and gains: `python benchmarks/dropin.py [--rounds 5] [--quick] [--json FILE]`.

Samples a second of one pass after a warm one, each measurement in a process of its own, the loaders in turn and the
order turned from round to round; medians, and the median of the rounds' ratios: of the clock, and of the processor time
of the process and its workers, which other programs on the machine hardly change.

- tensors: a dataset of small tensors, so that what is measured is the loader itself. PyTorch's DataLoader against
  Resflow's without a pipeline, the same arguments.
- folder: ImageFolder with PIL and torchvision's transforms; the same two.
- pipeline: ImageFolder by Resflow's pipeline (files read and decoded by the engine) against PyTorch's DataLoader with
  the same transforms: RandomResizedCrop(224, scale=(0.25, 1)), flip, uint8; batch size 64, 2 workers, prefetch
  factor 4. Resflow's crops are of one shape, 224 x 224, too.

The images are imagenet500 in RESFLOW_TEST_DATA (default: shared/data beside the checkout), else drawn.
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
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
import torch.utils.data
from PIL import Image

_DATA = Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
_SUFFIXES = {".jpg", ".jpeg"}
_PREFETCH = 4


class Case(NamedTuple):
    """One comparison."""

    name: str
    workers: int

    def __str__(self) -> str:
        return f"{self.name}, {self.workers} workers"


CASES = (Case("tensors", 0), Case("tensors", 2), Case("folder", 0), Case("folder", 2), Case("pipeline", 2))
WAYS = ("torch", "resflow")


def lay_out(folder: Path, drawn: int = 400) -> str:
    """Class folders of JPEGs: links to real ones where they are, else drawings.

    Args:
        folder: an empty folder.
        drawn: images to draw where there are none.

    Returns:
        What the images are.
    """
    found = sorted(path for path in (_DATA / "imagenet500").rglob("*") if path.suffix.lower() in _SUFFIXES)
    for number in range(10):
        (folder / f"class{number}").mkdir()
    for number, path in enumerate(found):
        (folder / f"class{number % 10}" / f"{number:04d}.jpg").symlink_to(path.resolve())
    if found:
        return f"{len(found)} images of {_DATA.name}/imagenet500"
    rng = np.random.default_rng(0)
    for number in range(drawn):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        size = (500, int(rng.integers(300, 500)))
        image = coarse.resize(size if number % 3 else size[::-1], Image.Resampling.BICUBIC)
        image.save(folder / f"class{number % 10}" / f"{number:04d}.jpg", quality=92)
    return f"{drawn} drawn images"


def make_loader(case: Case, way: str, folder: str, count: int) -> Any:
    """The loader of one way in one case.

    Args:
        case: dataset and workers.
        way: one of WAYS.
        folder: class folders of images.
        count: how many tensors the dataset of tensors has.
    """
    import torchvision
    from torchvision.transforms import v2

    import resflow as rf

    cls = rf.DataLoader if way == "resflow" else torch.utils.data.DataLoader
    # Both fork, on any version of Python: the start of processes is not what is compared.
    workers: dict[str, Any] = {"num_workers": case.workers}
    if case.workers:
        context = multiprocessing.get_context("fork")
        workers |= {"prefetch_factor": _PREFETCH, "persistent_workers": True, "multiprocessing_context": context}
    if case.name == "tensors":
        data = torch.utils.data.TensorDataset(torch.rand(count, 3, 8, 8), torch.arange(count))
        return cls(data, batch_size=32, shuffle=True, **workers)
    transform = v2.Compose([v2.RandomResizedCrop(224, scale=(0.25, 1)), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    if case.name == "folder" or way == "torch":
        images = torchvision.datasets.ImageFolder(folder, transform)
        return cls(images, batch_size=64, shuffle=True, **workers)
    pipeline = rf.Pipeline(
        resolution=224,
        buckets=rf.Buckets.square(224, stride=32),
        views=[rf.views.RandomResizedCrop(scale=(0.25, 1)), rf.views.HorizontalFlip()],
    )
    return rf.DataLoader(
        torchvision.datasets.ImageFolder(folder), batch_size=64, shuffle=True, pipeline=pipeline, **workers
    )


def measure(case: Case, way: str, folder: str, count: int, passes: int) -> tuple[float, float]:
    """Samples a second, and samples a second of processor time, of some passes after a warm one, in a fresh process."""
    loader = make_loader(case, way, folder, count)
    samples = sum(len(targets) for _, targets in loader)
    start, spent = time.perf_counter(), processor_seconds()
    for _ in range(passes):
        for _batch in loader:
            pass
    done = samples * passes
    return done / (time.perf_counter() - start), done / (processor_seconds() - spent)


def processor_seconds() -> float:
    """Of this process and the workers that live: what other programs on the machine hardly change."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def measured(case: Case, way: str, folder: str, count: int, passes: int) -> tuple[float, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", json.dumps([case, way, folder, count, passes])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}, {way}: {done.stderr}")
    rate, of_processor = json.loads(done.stdout)
    return rate, of_processor


def compare(case: Case, folder: str, count: int, passes: int, rounds: int) -> dict[str, Any]:
    """Rates of both ways in each round, their medians, and the median ratio of resflow's to torch's."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            rate, of_processor = measured(case, way, folder, count, passes)
            rates[way].append(rate)
            spent[way].append(of_processor)
    ratios = np.array(rates["resflow"]) / np.array(rates["torch"])
    processor = np.array(spent["resflow"]) / np.array(spent["torch"])
    medians = {way: float(np.median(of)) for way, of in rates.items()}
    spread = [float(ratios.min()), float(ratios.max())]
    return {
        "case": str(case),
        "rates": rates,
        "medians": medians,
        "ratio": float(np.median(ratios)),
        "spread": spread,
        "processor": float(np.median(processor)),
        "processor_spread": [float(processor.min()), float(processor.max())],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see that it runs")
    parser.add_argument("--cases", nargs="+", choices=sorted({case.name for case in CASES}), help="only these")
    parser.add_argument("--workers", type=int, help="only cases with so many workers")
    parser.add_argument("--json", type=Path, help="write all rates there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        (name, workers), *rest = json.loads(arguments.measure)
        print(json.dumps(measure(Case(name, workers), *rest)))
        return
    rounds, tensors = (2, 10_000) if arguments.quick else (arguments.rounds, 100_000)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        images = lay_out(Path(folder))
        print(f"{images}; {rounds} rounds; torch {torch.__version__}; {os.cpu_count()} cores; samples a second")
        print(f"{'':22}{'torch':>10}{'resflow':>10}{'ratio':>8}{'of rounds':>16}{'of CPU time':>13}{'of rounds':>16}")
        for case in CASES:
            if case.name not in (arguments.cases or case.name) or arguments.workers not in (None, case.workers):
                continue
            passes = 1 if arguments.quick or case.name != "tensors" else 3
            result = compare(case, folder, tensors, passes, rounds)
            results.append(result)
            medians = result["medians"]
            spreads = ["{:.3f} to {:.3f}".format(*result[name]) for name in ("spread", "processor_spread")]
            print(
                f"{case!s:22}{medians['torch']:10.0f}{medians['resflow']:10.0f}{result['ratio']:8.3f}{spreads[0]:>16}"
                f"{result['processor']:13.3f}{spreads[1]:>16}",
                flush=True,
            )
    if arguments.json:
        about = {"images": images, "torch": torch.__version__, "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps(about | {"results": results}, indent=1))


if __name__ == "__main__":
    main()
