"""Memory that torch shares with DALI is let go once the last tensor on it is gone and the stream is done."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from resflow.decode.lease import Leases


class Owner:
    """Stands in for DALI's tensor."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def shape(self) -> list[int]:
        return list(self.pixels.shape)

    def data_ptr(self) -> int:
        return int(self.pixels.ctypes.data)


class OnCpu:
    """Gives NumPy what a lease gives torch on a GPU."""

    def __init__(self, lease: Any) -> None:
        self.lease = lease
        self.__array_interface__ = lease.__cuda_array_interface__ | {"version": 3}


class Event:
    done = False

    def record(self, stream: str) -> None:
        self.stream = stream

    def query(self) -> bool:
        return Event.done


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Leases:
    Event.done = False
    monkeypatch.setattr(torch, "as_tensor", lambda lease, device: torch.from_numpy(np.asarray(OnCpu(lease))))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: "the loop's stream")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return Leases(torch.device("cuda", 0))


def test_no_byte_is_copied(leases: Leases) -> None:
    owner = Owner(np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3))
    shared = leases.share(owner)
    assert shared.data_ptr() == owner.data_ptr()
    assert torch.equal(shared, torch.from_numpy(owner.pixels))


def test_views_keep_the_memory_and_so_does_the_stream(leases: Leases) -> None:
    shared = leases.share(Owner(np.zeros((2, 2, 2, 3), dtype=np.uint8)))
    view = shared.permute(0, 3, 1, 2)[1:]
    del shared
    gc.collect()
    leases.collect()
    assert len(leases) == 0
    assert view.sum() == 0
    del view
    assert len(leases) == 1  # nobody holds it; the stream may read it yet
    leases.collect()
    assert len(leases) == 1
    Event.done = True
    leases.collect()
    assert len(leases) == 0
