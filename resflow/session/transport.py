"""A batch on its way from a worker process to the loop: in shared memory where that has room, else through the pipe.

PyTorch puts every tensor into shared memory, in a thread of the worker that drops the batch where that fails: the loop
then waits for it for ever. Here a tensor that finds no room travels as bytes, and a batch that cannot be sent at all
becomes an error. Small tensors always travel as bytes, so that they take no file descriptor.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from resflow.errors import ConfigError
from resflow.session.finalize import Failure
from resflow.session.shared_memory import SMALL, allocated
from resflow.session.stream_dataset import StreamMessage


class BatchMessage:
    """Whatever a worker hands over; where it is unpickled, it is that again.

    Args:
        content: the batch, or what went wrong.
    """

    def __init__(self, content: Any) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (_packed(self.content),)


def _packed(content: Any) -> bytes:
    try:
        return _pickled(content)
    except Exception as error:  # noqa: BLE001 - sent to the loop, which raises it
        failure = Failure(ConfigError(f"a batch cannot be sent from its worker process: {error}. {_way_out(error)}"))
        return _pickled(
            dataclasses.replace(content, payload=failure) if isinstance(content, StreamMessage) else failure
        )


def _way_out(error: Exception) -> str:
    if isinstance(error, OSError) or "shared memory" in str(error) or "file descriptor" in str(error):
        return (
            "Give /dev/shm more room (docker run --shm-size=2g), let a process open more files (ulimit -n), or lower "
            "num_workers or prefetch_factor."
        )
    return "Have the dataset give targets that can be pickled, or pass num_workers=0."


def _pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(content)
    return buffer.getvalue()


class _Pickler(ForkingPickler):
    """Pickles tensors as PyTorch does between processes, or as bytes."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            return NotImplemented
        storage = value.untyped_storage()
        if storage.nbytes() > SMALL and (storage.is_shared() or allocated(storage.share_memory_) is not None):
            return NotImplemented
        if value.dtype in _SIGNED:
            return _viewed, (pickle.dumps(value.view(_SIGNED[value.dtype]), pickle.HIGHEST_PROTOCOL), value.dtype)
        return pickle.loads, (pickle.dumps(value, pickle.HIGHEST_PROTOCOL),)


# PyTorch cannot read back what it pickles of these.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def _viewed(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    tensor: torch.Tensor = pickle.loads(data)
    return tensor.view(dtype)
