"""What each rank does in the test of DistributedDataParallel; no device but the CPU, or all on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

import resflow as rf
import resflow.decode.turbo  # once, before the ranks are forked
from tests.trainers.common import PIPELINE, Net, make_loader


def train(data: Path) -> dict[str, Any]:
    """Three epochs on the CPU."""
    return _trained(data, "cpu")


def train_on_gpu(data: Path) -> dict[str, Any]:
    """Three epochs on the first GPU, which all ranks share."""
    torch.cuda.set_device(0)
    return _trained(data, "cuda")


def _trained(data: Path, device: str) -> dict[str, Any]:
    """Samples and shape of each step, where batches are, and what the weights have become."""
    torch.distributed.init_process_group("gloo")  # nccl refuses two ranks on one GPU
    torch.manual_seed(0)
    pipeline = rf.Pipeline(
        resolution=PIPELINE.resolution, buckets=3, stride=8, views=PIPELINE.views, normalize=rf.IMAGENET, device=device
    )
    loader = make_loader(data, pipeline=pipeline, batch_size=3, shuffle=True, drop_last=True)
    model = DistributedDataParallel(Net().to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen, devices = [], set()
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch.images), batch.targets).backward()
            optimizer.step()
            seen.append((epoch, batch.sample_ids.tolist(), list(batch.images.shape)))
            devices.add(str(batch.images.device))
    weights = [float(parameter.detach().double().sum()) for parameter in model.parameters()]
    torch.distributed.destroy_process_group()
    return {"seen": seen, "devices": sorted(devices), "weights": weights}
