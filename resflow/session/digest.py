"""Checksums of samples and batches: whether a stream repeats itself, and whether two streams give the same."""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_TEXT = {int, float, bool, str, type(None)}  # of a sequence of these the text counts at once


def checksum(value: Any, start: int = 0, *, most: int | None = None) -> int:
    """CRC-32 of what a value holds, the same in every process.

    Args:
        value: bytes, arrays, tensors, PIL images, scalars and text, in any nest of mappings, sequences and
            dataclasses. Of other objects their text counts, without addresses.
        start: the checksum to go on from.
        most: numbers of each array or tensor that are looked at, evenly spread; None: all of them.

    Returns:
        In [0, 2**32).
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return zlib.crc32(value, start)
    if isinstance(value, torch.Tensor):
        value = _strided(value.detach(), most)
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        if most is not None and value.size > most:
            value = value.reshape(-1)[:: value.size // most] if value.flags.c_contiguous else value[:1]
        what = f"{value.dtype} {value.shape}".encode()
        flat = np.ascontiguousarray(value).reshape(-1)
        return zlib.crc32(flat.view(np.uint8).data if flat.size else b"", zlib.crc32(what, start))
    if isinstance(value, Mapping):
        value = list(value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, tuple | list) and not {*map(type, value)} <= _TEXT:
        start = zlib.crc32(f"{len(value)} parts".encode(), start)
        for part in value:
            start = checksum(part, start, most=most)
        return start
    return zlib.crc32(_ADDRESS.sub("", repr(value)).encode(errors="surrogateescape"), start)


def _strided(tensor: torch.Tensor, most: int | None) -> Any:
    """The numbers of a tensor as an array, `most` of them in the order of its memory; of some tensors their kind."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return f"{tensor.layout} {tensor.dtype} {tuple(tensor.shape)}"
    flat = tensor.as_subclass(torch.Tensor)
    if most is not None and flat.numel() > most:
        memory = sorted(range(flat.ndim), key=flat.stride, reverse=True)
        flat = flat.permute(memory)
        flat = (flat.view(-1) if flat.is_contiguous() else flat.flatten())[:: flat.numel() // most]
    return flat.contiguous().view(torch.uint8).cpu().numpy() if flat.dtype == torch.bfloat16 else flat.cpu().numpy()
