"""`resflow bench`: where the time goes on this machine, what bounds it, and PyTorch's own loader beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import AsJson, Dataset, plural, takes_dataset
from resflow.cli.pipelines import PipelineName, TargetsOption, read_pipeline
from resflow.errors import ConfigError
from resflow.extras import needed_for
from resflow.progress import progress

if TYPE_CHECKING:
    from resflow.pipeline import Pipeline
    from resflow.session.stats import Stats
    from resflow.sources import Source


@takes_dataset
def bench(
    pipeline: PipelineName,
    dataset: Dataset,
    targets: TargetsOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 64,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; one a CPU if left out.")] = None,
    resolution: Annotated[
        int | None, typer.Option(min=16, help="Pixels; the highest of the schedule if left out.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each of the two, in all rounds together.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Times that the two take turns.")] = 3,
    step: Annotated[float, typer.Option(min=0, help="Milliseconds that a training step takes, to be waited.")] = 0,
    torch_too: Annotated[
        bool, typer.Option("--torch/--no-torch", help="Measure PyTorch's DataLoader with PIL beside it.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Measure a pipeline on a dataset: images a second, where time goes by stage, what bounds it, PyTorch beside it."""
    from resflow.session.stats import cpus

    read = read_pipeline(pipeline, targets)
    read = replace(read, resolution=resolution or max(read.schedule.resolutions))
    source, _ = dataset.open()
    if not len(source.index):
        raise ConfigError("the dataset is empty: there is nothing to measure. Check --data.")
    count = cpus() if workers is None else workers
    ours, theirs = list[Round](), list[Round]()
    with progress("measuring", 2 * rounds if torch_too else rounds, unit="rounds") as show:
        for number in range(rounds):
            ours.append(_resflow(source, read, batch_size, count, seconds / rounds, step / 1000))
            show(len(ours) + len(theirs))
            if torch_too:
                theirs.append(_torch(source, read, batch_size, count, seconds / rounds, step / 1000, seed=number))
                show(len(ours) + len(theirs))
    stats = merged([one for part in ours for one in part.passes])
    told: dict[str, Any] = {
        "resolution": read.resolution,
        "batch_size": batch_size,
        "workers": count,
        "cpus": cpus(),
        "images_per_second": [round(part.rate, 1) for part in ours],
        "rate": round(_median(ours), 1),
        "stats": stats.to_json(),
        "torch": None,
        "ratio": None,
    }
    if theirs:
        told |= {"torch": round(_median(theirs), 1), "ratio": round(_median(ours) / _median(theirs), 2)}
        told["torch_images_per_second"] = [round(part.rate, 1) for part in theirs]
    print(json.dumps(told) if as_json else _as_text(told, stats, torch_transforms(read)[1]))


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement: images and seconds from the first batch on, and what the loader tells of its passes."""

    images: int
    seconds: float
    passes: tuple[Stats, ...] = ()

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds if self.seconds else 0.0


def merged(passes: Sequence[Stats]) -> Stats:
    """Several passes as if they were one.

    Args:
        passes: of loaders alike, at least one.
    """
    images = sum(one.images for one in passes)

    def mean(name: str) -> float:
        return sum((getattr(one, name) or 0.0) * one.images for one in passes) / max(images, 1)

    return replace(
        passes[0],
        batches=sum(one.batches for one in passes),
        images=images,
        wall=sum(one.wall for one in passes),
        first=sum(one.first for one in passes),
        seconds={stage: sum(one.seconds[stage] for one in passes) for stage in passes[0].seconds},
        queue_depth=None if passes[0].queue_depth is None else mean("queue_depth"),
        padded=mean("padded"),
        cropped=mean("cropped"),
        bytes_read=sum(one.bytes_read for one in passes),
    )


def torch_transforms(pipeline: Pipeline) -> tuple[Any, str]:
    """What PyTorch users write for a pipeline like this one, and that in words: squares of as many pixels."""
    import torch

    with needed_for("PyTorch's DataLoader beside ours needs"):
        from torchvision.transforms import v2

    from resflow.geometry.views import HorizontalFlip, RandomResizedCrop

    side = int(max(pipeline.schedule.resolutions))
    crop = next((view for view in pipeline.views if isinstance(view, RandomResizedCrop)), None)
    parts: list[Any] = [v2.RandomResizedCrop(side)] if crop else [v2.Resize(side), v2.CenterCrop(side)]
    if any(isinstance(view, HorizontalFlip) for view in pipeline.views):
        parts.append(v2.RandomHorizontalFlip())
    parts.append(v2.PILToTensor())
    if pipeline.normalize is not None:
        parts.append(v2.ToDtype(torch.float32, scale=True))
        parts.append(v2.Normalize(list(pipeline.normalize.mean), list(pipeline.normalize.std)))
    return v2.Compose(parts), " + ".join(["PIL", *(type(part).__name__ for part in parts)])


class PilImages:
    """The images of a source as PyTorch's users load them: read one by one, opened by PIL, transformed.

    Args:
        source: where they are.
        pipeline: what `torch_transforms` follows.
    """

    def __init__(self, source: Source, pipeline: Pipeline) -> None:
        self.source = source
        self.transform = torch_transforms(pipeline)[0]

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import io

        import numpy as np
        from PIL import Image

        (sample,) = self.source.read(np.array([number], np.int64))
        if isinstance(sample.image, np.ndarray):
            return self.transform(Image.fromarray(sample.image)), number
        with Image.open(io.BytesIO(sample.image)) as image:
            return self.transform(image.convert("RGB")), number


def _resflow(source: Source, pipeline: Pipeline, batch_size: int, workers: int, seconds: float, step: float) -> Round:
    from resflow.loader import DataLoader

    loader: DataLoader[Any] = DataLoader(
        source, batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        pipeline=pipeline,
    )  # fmt: skip
    passes: list[Any] = []
    images, spent = _run(loader, seconds, step, lambda: passes.append(loader.stats()))
    later = (replace(one, first=0.0) for one in passes[1:])  # their workers run already: what they wait is no start
    return Round(images, spent, (*passes[:1], *later))


def _torch(
    source: Source, pipeline: Pipeline, batch_size: int, workers: int, seconds: float, step: float, *, seed: int
) -> Round:
    import torch

    dataset: Any = PilImages(source, pipeline)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    images, spent = _run(loader, seconds, step, lambda: None)
    return Round(images, spent)


def _run(loader: Any, seconds: float, step: float, ended: Any) -> tuple[int, float]:
    """Images and seconds from the first batch of the first pass on; at least one batch more than that, if there is."""
    start, images = None, 0
    for batch in _repeated(loader, ended):
        now = time.perf_counter()
        if start is None:
            start = now
        else:
            images += len(batch[0] if isinstance(batch, list | tuple) else batch)
            if now - start > seconds:
                break
        if step:
            time.sleep(step)
    return images, (time.perf_counter() - start) if start is not None else 0.0


def _repeated(loader: Any, ended: Any) -> Iterator[Any]:
    while True:
        iterator = iter(loader)
        try:
            yield from iterator
        finally:
            ended()
            del iterator


def _median(rounds: Sequence[Round]) -> float:
    from statistics import median

    return median(part.rate for part in rounds)


def _as_text(told: Mapping[str, Any], stats: Stats, transforms: str) -> str:
    lines = [
        f"resolution {told['resolution']}, {plural(told['batch_size'], 'image')} per batch, "
        f"{plural(told['workers'], 'worker')} on {plural(told['cpus'], 'CPU')}",
        f"resflow          {told['rate']:>9,.0f} images/s (rounds: {_rounds(told['images_per_second'])})",
    ]
    if told["torch"] is not None:
        lines.append(
            f"torch DataLoader {told['torch']:>9,.0f} images/s (rounds: {_rounds(told['torch_images_per_second'])})"
        )
        lines.append(f"ratio            {told['ratio']:>9.2f} (torch: {transforms}, squares of as many pixels)")
    return "\n".join([*lines, "", *str(stats).splitlines()[1:]])


def _rounds(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:,.0f}" for rate in rates)
