"""Training on a loader's batches and evaluation on held-out images, an epoch at a time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from resflow.batch import Batch
from resflow.demo.data import Data
from resflow.demo.model import STRIDE, small_classifier
from resflow.errors import ConfigError
from resflow.geometry import Fit, HorizontalFlip
from resflow.geometry.fit import coverage
from resflow.loader import DataLoader
from resflow.normalize import IMAGENET
from resflow.pipeline import Pipeline
from resflow.plan import Linear

_PEAK_RATE = 8e-3
_WARM_UP = 0.15  # share of training
_WEIGHT_DECAY = 0.02

Watched: TypeAlias = Callable[[Iterable[Batch], int, str], Iterable[Batch]]
"""Given batches, their number and what is done with them, passes them on and may show progress."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Args:
        epochs: at least 1.
        first: resolution of the first epoch, pixels.
        last: resolution of the last epoch, pixels; the only one if there is one epoch.
        batch_size: images a batch; fewer if the data has fewer.
        buckets: aspect ratios to learn from the data.
        workers: loader processes.
        device: "cpu" or "cuda".
        seed: decides initial weights, batches and views.
    """

    epochs: int = 8
    first: int = 64
    last: int = 128
    batch_size: int = 32
    buckets: int = 6
    workers: int = 1
    device: str = "cpu"
    seed: int = 0

    def pipeline(self) -> Pipeline:
        """What is done to a sample in training."""
        return Pipeline(
            resolution=self.last if self.epochs == 1 else Linear(self.first, self.last, self.epochs, step=STRIDE),
            buckets=self.buckets,
            stride=STRIDE,
            fit=Fit(max_crop=0.1),
            views=[HorizontalFlip()],
            normalize=IMAGENET,
            memory_format=torch.channels_last,
            device=self.device,
        )


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one epoch gave.

    Args:
        epoch: from 0.
        resolution: pixels.
        shapes: how many different shapes its batches had.
        images_per_second: training images over the seconds of loading and training.
        padded: mean share of a batch's pixels that are padding.
        cropped: mean share of an image that is cut off.
        loss: mean cross entropy in training.
        accuracy: share of held-out images told right, at the epoch's resolution.
    """

    epoch: int
    resolution: int
    shapes: int
    images_per_second: float
    padded: float
    cropped: float
    loss: float
    accuracy: float


class Training:
    """Trains a small classifier; each element of an iteration is an epoch's result.

    Args:
        data: what to train and evaluate on.
        recipe: how.
        watch: see `Watched`.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """

    def __init__(self, data: Data, recipe: Recipe, watch: Watched) -> None:
        if torch.device(recipe.device).type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {recipe.device!r} was asked for, but torch sees no GPU. Use --device cpu.")
        self.recipe, self._watch = recipe, watch
        self._data = data
        self.loader = self._open(data.train.shards, recipe.pipeline(), len(data.train), train=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = small_classifier(len(data.classes))
        self.model = model.to(recipe.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=_WEIGHT_DECAY)
        self.examples: dict[tuple[int, int], Batch] = {}
        """The first batch of each shape of the last epoch."""

    def __iter__(self) -> Iterator[EpochResult]:
        # A thread that waits for a core which a loader process holds stops all others at the end of each operation.
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads - self.recipe.workers))
        try:
            for epoch in range(self.recipe.epochs):
                yield self._epoch(epoch)
        finally:
            torch.set_num_threads(threads)

    @property
    def parameters(self) -> int:
        """How many numbers the model learns."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def _epoch(self, epoch: int) -> EpochResult:
        self.model.train()
        self.loader.set_epoch(epoch)
        self.examples = {}
        steps = len(self.loader)
        images, loss, padded, cropped, resolution = 0, 0.0, 0.0, 0.0, 0
        start = time.perf_counter()
        for step, batch in enumerate(self._watch(self.loader, steps, f"epoch {epoch + 1}")):
            rate = learning_rate((epoch * steps + step) / (self.recipe.epochs * steps))
            loss += self._train_on(batch, rate) * len(batch)
            batch_padded, batch_cropped = coverage(batch.geometry)
            padded, cropped = padded + float(batch_padded.sum()), cropped + float(batch_cropped.sum())
            images, resolution = images + len(batch), batch.resolution
            height, width = batch.images.shape[2:]
            self.examples.setdefault((height, width), batch)
        seconds = time.perf_counter() - start
        return EpochResult(
            epoch=epoch,
            resolution=resolution,
            shapes=len(self.examples),
            images_per_second=images / seconds,
            padded=padded / images,
            cropped=cropped / images,
            loss=loss / images,
            accuracy=self.evaluate(resolution),
        )

    def _train_on(self, batch: Batch, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(batch.images), _labels(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def evaluate(self, resolution: int) -> float:
        """Share of held-out images told right.

        Args:
            resolution: pixels, one of the schedule's.
        """
        # the buckets learned from the training images serve here, too
        pipeline = dataclasses.replace(self.recipe.pipeline(), buckets=self.loader.buckets)
        held_out = self._data.held_out
        loader = self._open(held_out.shards, pipeline.evaluation(resolution=resolution), len(held_out), train=False)
        self.model.eval()
        right = 0
        with torch.inference_mode():
            for batch in self._watch(loader, len(loader), "evaluating"):
                right += int((self.model(batch.images).argmax(dim=1) == _labels(batch)).sum())
        return right / len(held_out)

    def _open(self, shards: tuple[object, ...], pipeline: Pipeline, samples: int, *, train: bool) -> DataLoader[Any]:
        return DataLoader(
            list(shards),
            batch_size=min(self.recipe.batch_size, samples),
            shuffle=train,
            num_workers=self.recipe.workers,
            persistent_workers=train and self.recipe.workers > 0,
            seed=self.recipe.seed,
            pipeline=pipeline,
        )


def _labels(batch: Batch) -> torch.Tensor:
    targets: torch.Tensor | None = batch.targets
    if targets is None:
        raise ConfigError(
            "training needs labels; this pipeline reads none (targets=None). Name the member that holds them."
        )
    labels: torch.Tensor = batch.targets
    return labels


def learning_rate(progress: float) -> float:
    """A linear warm-up, then half a cosine down to zero.

    Args:
        progress: share of training done, in [0, 1].
    """
    if progress < _WARM_UP:
        return _PEAK_RATE * (0.1 + 0.9 * progress / _WARM_UP)
    return _PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))
