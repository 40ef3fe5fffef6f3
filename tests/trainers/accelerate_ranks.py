"""What each rank does in the tests of Accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tests.trainers.common import EVALUATION, Net, make_loader


def train(data: Path) -> list[Any]:
    """Three epochs, the last chosen with set_epoch."""
    accelerator = Accelerator(cpu=True)
    made = make_loader(data, batch_size=2, num_workers=1)
    model, loader = accelerator.prepare(Net(), made)
    assert loader is made
    seen = []
    for epoch in (0, 1, 5):
        if epoch == 5:
            loader.set_epoch(5)
        for batch in loader:
            accelerator.backward(torch.nn.functional.cross_entropy(model(batch.images), batch.targets))
            seen.append((epoch, batch.sample_ids.tolist(), batch.resolution))
    return seen


def gather(data: Path) -> dict[str, list[int]]:
    """What gather_for_metrics gives, by samples in a rank's batch and whether batches are shuffled."""
    accelerator = Accelerator(cpu=True)
    gathered = {}
    for batch_size in (1, 4, 7):
        for shuffle in (False, True):
            made = make_loader(data, pipeline=EVALUATION, batch_size=batch_size, shuffle=shuffle, even=True)
            loader = accelerator.prepare(made)
            ids: list[int] = []
            for batch in loader:
                numbers, doubled = accelerator.gather_for_metrics((batch.sample_ids, batch.sample_ids * 2))
                assert torch.equal(numbers * 2, doubled)
                ids += numbers.tolist()
            gathered[f"{batch_size}, shuffle={shuffle}"] = ids
    return gathered
