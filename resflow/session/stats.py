"""Where a pass over a loader spends its time, and one sentence on what that means."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

MADE = ("read", "place", "decode", "transform")
"""Stages of making a batch: in workers, in threads, or without either in the loop's own process."""
LOOP = ("copy", "augment", "wait", "step")
"""Stages of the loop's own process: what it does to a batch, waiting for it, and the training step."""
_IDLE = 0.1  # share of the time that a step may wait before the loader is said to hold it up
_FULL = 0.7  # share of the time from which makers are said to be at work all the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Where a pass over a loader has spent its time so far.

    The loop's own stages make up its wall time: wait + copy + augment + step. Those of making batches add up over
    worker processes, beside it; with none of these, the loop makes its batches itself, and they are part of its time.
    On a GPU the host's time is counted, which prepares and enqueues; kernels run behind it.

    Args:
        epoch: of the pass.
        batches: handed out.
        images: in them.
        wall: seconds since the pass began, until its end or now.
        first: seconds until the first batch was there, part of `wait`.
        seconds: by stage: "read" (bytes from shards or the dataset), "place" (geometry and targets), "decode" (with
            resizing, which engines do in the same step), "transform" (`Pipeline.transforms`), "copy" (to the device),
            "augment" (with normalisation and the user's collate), "wait" (the loop for a batch), "step" (what the loop
            does between two batches).
        workers: worker processes; 0 where this process makes the batches.
        threads: of this process that make batches ahead: one reads, one decodes; 0 where none do.
        queue_depth: finished batches that waited when one was asked for, on average; None where that is not known.
        queue_size: the most that may wait.
        padded: share of all pixels handed out that show no image, in [0, 1].
        cropped: share of an image's area that is not shown, in [0, 1], averaged over images.
        bytes_read: encoded bytes, of tars without their headers.
        tolerated: images that `Pipeline(strict=True)` would refuse, by kind: "damaged", and "cut off" (to 8 bits).
        objects: objects (boxes) that were handed out.
        removed: objects that were left out, by reason: "outside" (nothing of the box is in the frame), "min_visible",
            "min_side" (a side is too short), "mask" (it shows no pixel, or too few).
    """

    epoch: int
    batches: int
    images: int
    wall: float
    first: float
    seconds: dict[str, float]
    workers: int
    threads: int
    queue_depth: float | None
    queue_size: int
    padded: float
    cropped: float
    bytes_read: int
    tolerated: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    removed: dict[str, int] = field(default_factory=dict)

    @property
    def images_per_second(self) -> dict[str, float]:
        """Images by seconds of each stage that took any; of one worker, where stages run in several."""
        return {stage: self.images / value for stage, value in self.seconds.items() if value > 0}

    @property
    def rate(self) -> float:
        """Images a second of the whole pass."""
        return self.images / self.wall if self.wall else 0.0

    @property
    def busy(self) -> float:
        """Share of the time since the first batch that makers of batches were at work, in [0, 1]."""
        made = [self.seconds[stage] for stage in MADE]
        if self.threads:  # one reads while the other does the rest
            made = [max(made[0], sum(made[1:]))]
        wall = self.wall - self.first if self.batches > 1 else self.wall
        return min(1.0, sum(made) / (max(self.workers, 1) * wall)) if wall > 0 else 0.0

    @property
    def advice(self) -> str:
        """One sentence: what bounds the pass, and the way out."""
        return advice(self)

    def to_json(self) -> dict[str, Any]:
        """All figures as plain JSON values."""
        derived = {"images_per_second": self.images_per_second, "rate": self.rate, "busy": self.busy}
        return asdict(self) | derived | {"advice": self.advice}

    def write(self, writer: Any, step: int, *, prefix: str = "loader") -> None:
        """Write the figures to TensorBoard, or to anything else that takes scalars.

        Args:
            writer: has `add_scalar(name, value, step)`, as torch.utils.tensorboard's SummaryWriter does.
            step: of the training.
            prefix: first part of the names.
        """
        scalars = {f"seconds/{stage}": value for stage, value in self.seconds.items()}
        names = ("rate", "busy", "queue_depth", "padded", "cropped", "bytes_read")
        scalars |= {"images_per_second" if name == "rate" else name: getattr(self, name) for name in names}
        for name, value in scalars.items():
            if value is not None:
                writer.add_scalar(f"{prefix}/{name}", value, step)

    def __str__(self) -> str:
        makers = f"{self.workers} workers" if self.workers else "threads" if self.threads else "the loop's process"
        lines = [
            f"epoch {self.epoch}: {self.images:,} images in {self.batches:,} batches, {self.wall:.2f} s, "
            f"{self.rate:,.0f} images/s; {self.bytes_read / 1e6:,.1f} MB read; {self.padded:.1%} padded, "
            f"{self.cropped:.1%} cropped",
            f"{'stage':<9}{'seconds':>9}{'images/s':>11}  where",
        ]
        rates = self.images_per_second
        for stage, value in self.seconds.items():
            rate = f"{rates[stage]:,.0f}" if stage in rates else "-"
            lines.append(f"{stage:<9}{value:>9.3f}{rate:>11}  {makers if stage in MADE else 'the loop'}")
        if self.queue_depth is not None:
            lines.append(f"queue    {self.queue_depth:.1f} of {self.queue_size} batches ready when one was asked for")
        if self.tolerated:
            lines.append("images " + ", ".join(f"{kind}: {count:,}" for kind, count in self.tolerated.items()))
        if self.objects or self.removed:
            lost = ", ".join(f"{count:,} {reason}" for reason, count in self.removed.items()) or "none"
            lines.append(f"objects  {self.objects:,} handed out; left out: {lost}")
        return "\n".join([*lines, self.advice])


def advice(stats: Stats) -> str:
    """What bounds a pass, and the way out, in one sentence.

    Args:
        stats: of the pass.
    """
    if not stats.batches:
        return "No batch was handed out yet."
    wall = max(stats.wall - stats.first, 1e-9) if stats.batches > 1 else max(stats.wall, 1e-9)
    seconds = stats.seconds
    waited = max(0.0, seconds["wait"] - (stats.first if stats.batches > 1 else 0.0)) / wall
    stage = max(MADE, key=lambda name: seconds[name])
    doing = {
        "read": "Reading",
        "place": "Placing (views and targets)",
        "decode": "Decoding",
        "transform": "Transforming",
    }[stage]
    finishing = (seconds["copy"] + seconds["augment"]) / wall
    made = sum(seconds[name] for name in MADE) / stats.wall
    if not (stats.workers or stats.threads) and made > max(finishing, seconds["step"] / wall * _IDLE):
        return (
            f"Nothing is made ahead: the loop makes its batches itself, {made:.0%} of its time, most of it in "
            f"{doing.lower()}; set num_workers (this machine has {cpus()} CPUs)."
        )
    if finishing > max(waited, seconds["step"] / wall):
        part = "Augmentation, with normalisation," if seconds["augment"] >= seconds["copy"] else "Copying to the device"
        return (
            f"{part} is the bottleneck: it takes {finishing:.0%} of the loop's own time; use lighter operations, "
            "views instead of augmentations, or a faster device."
        )
    if not (stats.workers or stats.threads):
        return f"Your training step is the bottleneck: making batches takes {made:.0%} of the time, without workers."
    if waited < _IDLE:
        return f"Your training step is the bottleneck: the loader waits {1 - stats.busy:.0%} of the time."
    who = f"{stats.workers} worker{'s' * (stats.workers != 1)}" if stats.workers else "the threads"
    if stats.busy < _FULL:
        return (
            f"The loop waits {waited:.0%} of the time though {who} work only {stats.busy:.0%} of it: batches are held "
            "up on their way, or the pass is too short to tell; raise prefetch_factor, or give /dev/shm more room."
        )
    ways = {
        "read": "keep the shards on a faster disk, cache them, or add workers",
        "place": "use fewer views or targets, or add workers",
        "decode": "add workers or tiers (resflow tiers)",
        "transform": "add workers, or use lighter transforms",
    }
    if stats.workers >= cpus():
        ways["decode"] = "add tiers (resflow tiers), lower the resolution, or decode on a GPU"
    return (
        f"{doing} is the bottleneck: {who} at {stats.busy:.0%}, and the loop waits {waited:.0%} of the time; "
        f"{ways[stage]}."
    )


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
