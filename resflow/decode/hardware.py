"""A GPU's JPEG engines: how many there are, and what share of a batch they should decode."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

LOADS = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 1.0)
"""Shares that are tried."""
_HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE
_SHARE = 0.05  # of free device memory that may be kept for the engines' largest images


@dataclass(frozen=True, slots=True)
class Hardware:
    """The JPEG engines of a GPU.

    Args:
        engines: how many.
        cores: of each.
    """

    engines: int
    cores: int


def probe_hardware(device_index: int | None = None) -> Hardware:
    """Ask nvJPEG for a device's JPEG engines.

    Args:
        device_index: of a CUDA device; None asks for the current one.

    Returns:
        What it says; no engines where nvJPEG cannot be loaded or refuses its hardware backend, as on consumer chips.

    Source:
        nvJPEG's nvjpegCreateEx and nvjpegGetHardwareDecoderInfo.
    """
    library = _nvjpeg()
    if library is None:
        return Hardware(0, 0)
    on_device = contextlib.nullcontext() if device_index is None else torch.cuda.device(device_index)
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    with on_device:
        if library.nvjpegCreateEx(_HARDWARE, None, None, 0, ctypes.byref(handle)):
            return Hardware(0, 0)
        try:
            failed = library.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
        finally:
            library.nvjpegDestroy(handle)
    return Hardware(0, 0) if failed else Hardware(engines.value, cores.value)


def kept_size(sizes: Sequence[tuple[int, int]], max_batch: int, free: int) -> tuple[int, int]:
    """For how large an image the JPEG engines should keep memory, so that they need not ask for more later.

    Args:
        sizes: heights and widths of a batch's images, in pixels.
        max_batch: images for which memory is kept.
        free: bytes of free device memory.

    Returns:
        The largest height and width; (0, 0), which keeps none, where a whole batch of such would take more than a
        twentieth of the free memory.
    """
    height, width = max(height for height, _ in sizes), max(width for _, width in sizes)
    return (height, width) if 3 * height * width * max_batch <= _SHARE * free else (0, 0)


def measured_load(key: str, seconds: Callable[[float], float], memory: Path | None = None) -> float:
    """The share of a batch that the JPEG engines should decode: measured once for each machine, then remembered.

    It is remembered on disk, since the engines round differently: a run that resumes should split its batches alike.

    Args:
        key: names device, versions and threads.
        seconds: measures the time of a batch at one share.
        memory: the file; default: resflow/hardware.json in the user's cache folder.

    Returns:
        One of `LOADS`.
    """
    memory = memory or _cache_file()
    known = _remembered(memory)
    if key not in known:
        known[key] = min(LOADS, key=seconds)
        written = memory.with_name(f"{memory.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a folder that cannot be written only costs measuring again
            memory.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(json.dumps(known, indent=1))
            written.replace(memory)
    return known[key]


def _remembered(memory: Path) -> dict[str, float]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):  # none yet, or damaged: measured anew
        return {}
    return {key: value for key, value in known.items() if value in LOADS} if isinstance(known, dict) else {}


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resflow" / "hardware.json"


def _nvjpeg() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = [str(path) for folder in folders for path in sorted(folder.glob("nvjpeg/lib/libnvjpeg.so*"))]
    name = ctypes.util.find_library("nvjpeg")
    for candidate in found + ([name] if name else []):
        with contextlib.suppress(OSError):  # built for other systems
            return ctypes.CDLL(candidate)
    return None
