"""DistributedDataParallel over planned loaders: one process a rank, each with its own part of the same plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.common import COUNT, make_data
from tests.trainers.ranks import in_ranks

SIZE = 2


def check_ranks(ranks: list[dict[str, Any]], device: str) -> None:
    """Each step has one shape on all ranks, each epoch every sample once, and all ranks the same weights."""
    assert [rank["devices"] for rank in ranks] == [[device]] * SIZE
    assert ranks[0]["weights"] == ranks[1]["weights"]
    for steps in zip(*(rank["seen"] for rank in ranks), strict=True):
        assert len({(epoch, *shape) for epoch, _, shape in steps}) == 1
    for epoch in range(3):
        ids = [number for rank in ranks for at, numbers, _ in rank["seen"] if at == epoch for number in numbers]
        assert len(set(ids)) == len(ids) == COUNT - COUNT % (3 * SIZE)


def test_two_ranks_train_as_one_on_the_cpu(tmp_path: Path) -> None:
    make_data(tmp_path)
    check_ranks(in_ranks("tests.trainers.ddp_ranks", [("train", SIZE)], tmp_path)[f"train/{SIZE}"], "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_ranks_train_as_one_on_one_gpu(tmp_path: Path) -> None:
    make_data(tmp_path)
    name = "train_on_gpu"
    check_ranks(in_ranks("tests.trainers.ddp_ranks", [(name, SIZE)], tmp_path)[f"{name}/{SIZE}"], "cuda:0")
