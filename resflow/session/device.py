"""Which device this process works on."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from resflow.errors import ConfigError


def local_device(name: str) -> str:
    """The device of this process: where "cuda" stands for any, the one that belongs to its rank.

    "cuda" is the device that the script chose (torch.cuda.set_device), else the one that LOCAL_RANK counts, as
    launchers of one process for each GPU set it, else the first. Where only one device is visible, it is that one:
    some launchers show each process its own.

    Args:
        name: "cpu", "cuda" or "cuda:N".

    Returns:
        "cpu" or "cuda:N".

    Raises:
        ConfigError: there is no such device, or LOCAL_RANK is not the number of one.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return name
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ConfigError(
            f'Pipeline.device is "{name}"; PyTorch {torch.__version__} sees {count} CUDA devices on this machine. '
            'Choose one of these, device="cpu", or install a build of PyTorch with CUDA and its driver.'
        )
    if ":" in name:
        return name
    # Asking before anything was chosen would take memory on the first device.
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    chosen = torch.cuda.current_device() if initialized else 0
    rank = os.environ.get("LOCAL_RANK")
    if chosen or rank is None or count == 1:
        return f"cuda:{chosen}"
    if not rank.isdecimal() or int(rank) >= count:
        raise ConfigError(
            f'Pipeline.device is "cuda" and LOCAL_RANK is {rank!r}, but this process sees {count} CUDA devices. '
            'Start as many processes as there are devices, or name one: device="cuda:N".'
        )
    return f"cuda:{int(rank)}"


def on_cpu() -> AbstractContextManager[object]:
    """While this lasts, tensors are made on the CPU, whatever `torch.set_default_device` was told."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
