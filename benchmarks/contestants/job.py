"""What a contestant is asked to do: one JSON file, the same for all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Batches = Iterable[tuple[Any, Any]]
"""A pass: (images, labels); images uint8 [B, 3, S, S] or [B, S, S, 3], labels integers [B]."""


@dataclass(frozen=True, slots=True)
class Job:
    """A task on one set of images.

    Args:
        folder: the set: `list.txt` (a line "path label" a sample; labels are the samples' numbers 0..N-1) and
            `shards/*.tar` (the same samples as members "NUMBER.jpg" and "NUMBER.cls").
        train: RandomResizedCrop(scale=SCALE) and flip, shuffled; else the whole image, in order.
        sizes: side of the outputs in pixels, one a pass; the first pass is the warm one.
        batch_size: samples in a batch.
        workers: processes or threads that decode.
        prefetch: batches ahead for each worker, where a loader takes that.
        options: what tells the contestants of one module apart.
    """

    folder: str
    train: bool
    sizes: tuple[int, ...]
    batch_size: int = 64
    workers: int = 2
    prefetch: int = 4
    options: dict[str, Any] = field(default_factory=dict)

    SCALE = (0.25, 1.0)
    RATIO = (3 / 4, 4 / 3)

    @classmethod
    def load(cls, path: str | Path) -> Job:
        """Read a job."""
        content = json.loads(Path(path).read_text())
        return cls(**content | {"sizes": tuple(content["sizes"])})

    def save(self, path: Path) -> None:
        """Write it for a process of its own."""
        path.write_text(json.dumps(asdict(self)))

    @property
    def listing(self) -> Path:
        """The list of files."""
        return Path(self.folder) / "list.txt"

    @property
    def shards(self) -> list[str]:
        """The tar shards."""
        return sorted(map(str, (Path(self.folder) / "shards").glob("*.tar")))

    def files(self) -> list[tuple[str, int]]:
        """Path and label of each sample."""
        pairs = (line.rsplit(" ", 1) for line in self.listing.read_text().splitlines())
        return [(path, int(label)) for path, label in pairs]

    def own(self, name: str) -> Path:
        """Where a contestant that has a format of its own keeps the set."""
        return Path(self.folder) / name


def renewed(job: Job, make: Callable[[int], Batches]) -> Iterator[Batches]:
    """The passes of a loader that has to be made anew for another size.

    Args:
        job: the job.
        make: a loader of one size, which may be walked several times.
    """
    for size, passes in itertools.groupby(job.sizes):
        loader = make(size)
        for _ in passes:
            yield loader
        del loader
