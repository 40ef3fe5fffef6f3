"""Batches of workers are made where the loop finds them, as long as there is room."""

from __future__ import annotations

import gc
import logging

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from resflow.session import shared_memory as shared
from resflow.session.shared_memory import SMALL, allocated, room_for_images
from resflow.session.workers import WorkerInit


class Rooms(Dataset[tuple[bool, bool, int]]):
    """What a worker is given for a batch's images, and how much garbage collection leaves alone."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> tuple[bool, bool, int]:
        room = room_for_images(2, 64, 96 if number else 4)
        if room is None:
            return False, False, gc.get_freeze_count()
        room.fill_(number)
        whole = room.shape == (2, 3, 64, 96) and room.is_contiguous(memory_format=torch.channels_last)
        return room.is_shared(), whole, gc.get_freeze_count()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_worker_makes_large_batches_in_shared_memory(start: str) -> None:
    assert SMALL >= 2 * 3 * 64 * 4
    loader = DataLoader(
        Rooms(), batch_size=None, num_workers=1, worker_init_fn=WorkerInit(), multiprocessing_context=start
    )
    (small, _, frozen), (large, whole, _) = loader
    assert (small, large, whole) == (False, True, True)
    assert frozen > 0


def test_the_process_of_the_loop_makes_its_own() -> None:
    assert room_for_images(64, 224, 224) is None


def test_without_room_it_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(shared, "_told", False)

    def refused() -> torch.UntypedStorage:
        raise RuntimeError("unable to resize file </torch_0_none> to the right size: No space left on device (28)")

    with caplog.at_level(logging.WARNING, "resflow"):
        assert allocated(refused) is None
        assert allocated(refused) is None
    (record,) = caplog.records
    assert "shared memory has no room for a batch (unable to resize" in record.getMessage()
    assert "docker run --shm-size=2g" in record.getMessage()
