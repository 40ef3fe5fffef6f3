"""The whole demonstration, from images to pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from resflow.demo.data import Data, draw_data, folder_data
from resflow.demo.report import Report, closing_text, data_text
from resflow.demo.train import EpochResult, Recipe, Training
from resflow.errors import ConfigError
from resflow.normalize import IMAGENET
from resflow.sources import open_index
from resflow.viz import contact_sheet, ratio_histogram, require_matplotlib


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the demonstration does.

    Args:
        out: folder for all that is written.
        data: folder of images; None draws some.
        label_pattern: regular expression searched in each file's name, its first group the class; None: class folders.
        images: how many images to draw, or the most to take from `data`.
        recipe: how to train.
    """

    out: Path = Path("demo-output")
    data: Path | None = None
    label_pattern: str | None = None
    images: int = 1600
    recipe: Recipe = field(default_factory=Recipe)


def run_demo(settings: Settings, console: Console) -> list[EpochResult]:
    """Write shards, index them, train and evaluate, and picture what was trained on.

    Args:
        settings: what to do.
        console: where to print.

    Returns:
        The epochs' results.

    Raises:
        ConfigError: settings that do not suit the data, no classes, no matplotlib, a folder that cannot be written.
        SampleError: an image that cannot be read.
    """
    start = time.perf_counter()
    require_matplotlib()
    if settings.label_pattern is not None and settings.data is None:
        raise ConfigError(
            "--label-pattern is for your own images; got it without --data. Name their folder: --data FOLDER."
        )
    report = Report(console)
    data = _data(settings, report)
    training = Training(data, settings.recipe, report.watch)
    ratios = open_index(list(data.train.shards)).index.aspect_ratio
    report.say(data_text(data, (float(ratios.min()), float(ratios.max()))))
    report.say(f"a fully convolutional classifier of {training.parameters:,} parameters, on {settings.recipe.device}")
    report.header()
    results = []
    for result in training:
        report.row(result)
        results.append(result)
    batches = sorted(training.examples.values(), key=lambda batch: batch.images.shape[3] / batch.images.shape[2])
    sheet = contact_sheet(batches, settings.out / "batches.png", denormalize=IMAGENET)
    histogram = ratio_histogram(ratios, training.loader.buckets, settings.out / "buckets.png")
    report.say(closing_text(data, results[-1].accuracy))
    report.say(f"done in {time.perf_counter() - start:.0f} s; the pictures:")
    report.say(f"  {sheet}   batches of the last epoch, one row a shape")
    report.say(f"  {histogram}   aspect ratios and the buckets learned from them")
    return results


def _data(settings: Settings, report: Report) -> Data:
    folder, seed = settings.out / "shards", settings.recipe.seed
    if settings.data is None:
        return draw_data(folder, settings.images, seed=seed, watch=report.watch)
    return folder_data(
        folder, settings.data, settings.label_pattern, most=settings.images, seed=seed, watch=report.watch
    )
