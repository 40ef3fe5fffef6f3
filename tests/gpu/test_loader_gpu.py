"""A loader on a GPU: batches are those of the CPU, memory stays flat, the loop does not wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resflow as rf
from resflow.session.prefetch import prefetched
from tests.shards import make_shards

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SCHEDULE = rf.schedules.Steps({0: 96, 1: 160, 2: 224})


def loader(shards: str, device: str, **fields: Any) -> rf.DataLoader[Any]:
    fields = {"resolution": SCHEDULE, "buckets": 8, "normalize": rf.IMAGENET, "device": device} | fields
    return rf.DataLoader(shards, batch_size=16, shuffle=True, num_workers=2, pipeline=rf.Pipeline(**fields))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards"), 320, per_shard=160)


def test_batches_are_those_of_the_cpu(shards: str) -> None:
    on_gpu, on_cpu = loader(shards, "cuda"), loader(shards, "cpu")
    for _ in range(3):
        for one, other in zip(on_gpu, on_cpu, strict=True):
            assert one.images.is_cuda
            assert one.targets.is_cuda
            assert one.images.is_contiguous()
            assert one.keys == other.keys
            assert torch.equal(one.transform.cpu(), other.transform)
            assert torch.equal(one.targets.cpu(), other.targets)
            assert one.images.shape == other.images.shape
            error = (one.images.cpu() - other.images).abs()
            assert error.mean() < 0.1  # of about 4.5 between black and white


def test_memory_of_the_device_stays_where_it_is(shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight shapes and three resolutions, over and over: neither torch's nor DALI's memory grows."""
    under_test, used = loader(shards, "cuda"), []
    for epoch in range(9):
        under_test.set_epoch(epoch)
        torch.cuda.reset_peak_memory_stats()
        for batch in under_test:
            batch.images.square().mean()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        used.append((total - free, torch.cuda.max_memory_allocated()))
    with capsys.disabled():
        print("\ndevice memory in use, peak of torch's, MB:", [(a >> 20, b >> 20) for a, b in used])
    for before, after in zip(used[3:6], used[6:], strict=True):
        assert after[0] <= max(one[0] for one in used[:6]) + (64 << 20)
        assert after[1] <= 1.05 * before[1] + (1 << 20)


def test_the_loop_waits_for_nothing(shards: str) -> None:
    under_test = loader(shards, "cuda")
    for batch in under_test:
        batch.images.mean()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch in under_test:
            batch.images.mean()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_work_ahead_overlaps_with_the_loops() -> None:
    """A loop that keeps the device busy is not held up by copies and kernels of the thread ahead."""
    device = torch.device("cuda", torch.cuda.current_device())
    numbers = np.arange(1 << 20)

    def make(n: int) -> torch.Tensor:
        return torch.from_numpy(numbers + n)

    results = list(prefetched(range(20), make, 2, device))
    assert all(result.is_cuda for result in results)
    for n, result in enumerate(results):
        assert torch.equal(result.cpu(), torch.from_numpy(numbers + n))


def test_resume_gives_the_same_bits(shards: str) -> None:
    whole, first, second = (loader(shards, "cuda") for _ in range(3))
    expected = [batch.images.cpu() for batch in whole]
    steps = iter(first)
    for _ in range(5):
        next(steps)
    second.load_state_dict(first.state_dict())
    rest = [batch.images.cpu() for batch in second]
    assert len(rest) == len(expected) - 5
    assert all(torch.equal(one, other) for one, other in zip(rest, expected[5:], strict=True))


def test_it_follows_its_rank(shards: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    last = torch.cuda.device_count() - 1
    monkeypatch.setenv("LOCAL_RANK", str(last))
    under_test = loader(shards, "cuda")
    assert next(iter(under_test)).images.device == torch.device("cuda", last)
