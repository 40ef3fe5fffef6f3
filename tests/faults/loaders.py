"""Loaders for tests of faults."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

import resflow as rf
from benchmarks.worker_faults import BATCH


def make_loader(dataset: Dataset[Any], *, timeout: float) -> rf.DataLoader[Any]:
    return rf.DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=2,
        timeout=timeout,
        multiprocessing_context="fork",
        pipeline=rf.Pipeline(resolution=32, buckets=1, stride=8),
    )
