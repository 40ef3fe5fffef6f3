"""Resflow over the same shards with tiers beside them, made before as the other formats are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from contestants.job import Batches, Job
from contestants.resflow import passes_over
from resflow.sources.index_build import build_index
from resflow.sources.index_file import write_index
from resflow.sources.index_lookup import index_path
from resflow.sources.tier_writer import make_tiers

SIDES = (96, 160, 256)
LARGE = {"photos": (512,)}
"""Beside these, for a set of images: a crop of a quarter of a photo to 224 pixels needs about 448 of its short side."""


def _shards(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("*.tar")))


def prepare(job: Job, folder: Path) -> None:
    """Link the shards into a folder of their own, index them, and make tiers."""
    folder.mkdir()
    for shard in map(Path, job.shards):
        os.link(shard, folder / shard.name)
    shards = _shards(folder)
    write_index(build_index(shards), index_path(shards))
    make_tiers(shards, SIDES + LARGE.get(Path(job.folder).name.split("-")[0], ()), workers=1)


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""
    return passes_over(_shards(job.own("resflow_tiers")), job)
