"""Which GPU a process takes."""

from __future__ import annotations

import pytest
import torch

from resflow.errors import ConfigError
from resflow.session.device import local_device


@pytest.fixture(autouse=True)
def no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def machine(monkeypatch: pytest.MonkeyPatch, devices: int, chosen: int | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: chosen is not None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen)


def test_the_cpu_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("name", "devices", "rank", "chosen", "expected"),
    [
        ("cuda", 4, None, None, "cuda:0"),
        ("cuda", 4, "2", None, "cuda:2"),
        ("cuda", 4, "2", 0, "cuda:2"),
        ("cuda", 4, "2", 3, "cuda:3"),  # torch.cuda.set_device(3) was called
        ("cuda", 4, None, 3, "cuda:3"),
        ("cuda", 1, "2", None, "cuda:0"),  # the launcher shows each process its own device
        ("cuda:1", 4, "2", 3, "cuda:1"),
    ],
)
def test_the_device_follows_the_rank(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: int, rank: str | None, chosen: int | None, expected: str
) -> None:
    machine(monkeypatch, devices, chosen)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert local_device(name) == expected


@pytest.mark.parametrize(("name", "devices"), [("cuda", 0), ("cuda:2", 2)])
def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, name: str, devices: int) -> None:
    machine(monkeypatch, devices)
    with pytest.raises(ConfigError, match=rf'device is "{name}"; .* sees {devices} CUDA devices.*device="cpu"'):
        local_device(name)


@pytest.mark.parametrize("rank", ["2", "-1", "first"])
def test_more_ranks_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    machine(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(ConfigError, match=rf"LOCAL_RANK is '{rank}', but this process sees 2 CUDA devices.*cuda:N"):
        local_device("cuda")
