"""Rates, memory and processor time of one measurement."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import nn

from on_gpu.data import Data
from on_gpu.feeds import FEEDS, Job, resflow_loader


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """Processor time of this process and its children."""
    here = psutil.Process()
    total = 0.0
    for process in [here, *here.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:  # ended meanwhile
            continue
        total += times.user + times.system
    return total


class Meter:
    """Wall time, processor time, and the peak of all memory in use on the device, DALI's and nvJPEG's included."""

    def __init__(self, device: str) -> None:
        self.device, self.peak, self._end = device, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while self.device == "cuda" and not self._end.wait(0.05):
            free, total = torch.cuda.mem_get_info()
            self.peak = max(self.peak, total - free)

    def __enter__(self) -> Meter:
        synchronize(self.device)
        self._thread.start()
        self.cpu, self.wall = -cpu_seconds(), -time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        synchronize(self.device)
        self.wall += time.perf_counter()
        self.cpu += cpu_seconds()
        self._end.set()
        self._thread.join()

    def result(self, images: int) -> dict[str, Any]:
        return {
            "images_per_second": images / self.wall,
            "cpu_cores": self.cpu / self.wall,
            "cpu_ms_per_image": 1000 * self.cpu / images,
            "device_mib": self.peak / 2**20,
            "images": images,
            "seconds": self.wall,
        }


def rate(data: Data, job: Job, *, warm: int, seconds: float, least: int = 2) -> dict[str, Any]:
    """Images a second of a feed at one side, after `warm` batches, over at least `seconds` and `least` batches."""
    feed = FEEDS[job.what](data, job)
    for images in itertools.islice(feed, warm):
        assert tuple(images.shape) == (job.batch, 3, job.side, job.side), images.shape
        assert images.dtype == torch.float16
    count, start = 0, time.perf_counter()
    with Meter(job.device) as meter:
        while count < least or time.perf_counter() - start < seconds:
            next(feed)
            count += 1
    return meter.result(count * job.batch)


def epoch_set(data: Data, job: Job) -> dict[str, Any]:
    """All epochs of Linear(128, 224), from the first batch on."""
    loader = resflow_loader(data, job, tiers=job.what == "resflow, tiers")
    next(iter(loader))
    loader.set_epoch(0)
    images = 0
    with Meter(job.device) as meter:
        for epoch in range(job.epochs):
            loader.set_epoch(epoch)
            images += sum(len(batch) for batch in loader)
    return meter.result(images) | {"shapes": len(loader.shapes())}


def training(data: Data, job: Job, *, steps: int, small: bool) -> dict[str, Any]:
    """The share of a ResNet-50's training step that goes into waiting: steps on the loader's batches against the same
    steps on one batch that stays on the device."""
    from torchvision.models import resnet18, resnet50

    torch.backends.cudnn.benchmark = True
    model: nn.Module = (resnet18 if small else resnet50)(num_classes=1000)
    model = model.to(job.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    forward = model if small else torch.compile(model, dynamic=False)
    labels = torch.zeros(job.batch, dtype=torch.int64, device=job.device)

    def step(images: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(job.device, torch.bfloat16):
            loss = nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    feed = FEEDS[job.what](data, job)
    resident = next(feed).float()

    def timed(batches: Iterator[torch.Tensor]) -> Meter:
        with Meter(job.device) as meter:
            for images in batches:
                step(images.float())
        return meter

    timed(itertools.repeat(resident, 2 if small else 10))
    alone = [timed(itertools.repeat(resident, steps)).wall, 0.0]
    fed = timed(itertools.islice(feed, steps))
    alone[1] = timed(itertools.repeat(resident, steps)).wall
    share = 1 - sum(alone) / 2 / fed.wall
    return fed.result(steps * job.batch) | {"waiting": share, "step_ms": 1000 * sum(alone) / 2 / steps}
