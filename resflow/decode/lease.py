"""Device memory that torch shares with DALI, kept until the GPU has done with it."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch


class Leases:
    """Shares DALI's output memory with torch, without a copy.

    DALI may use its memory again as soon as nobody holds it. Torch lets go of a tensor when Python does, while kernels
    that read it may still wait in a stream. So the last holder gives the memory back here, together with its stream,
    and it is let go once all that this stream had to do by then is done. Torch's own memory is guarded likewise, by
    `Tensor.record_stream`, which does nothing for memory of others.

    Args:
        device: the CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._returned: deque[tuple[Any, torch.cuda.Stream]] = deque()  # by whichever thread lets go
        self._waiting: deque[tuple[torch.cuda.Event, Any]] = deque()

    def share(self, owner: Any) -> torch.Tensor:
        """A tensor on DALI's memory.

        Args:
            owner: DALI's TensorGPU, uint8 [B, H, W, 3]; bound to the current stream already.

        Returns:
            The same memory as a tensor; it, and whatever views it, keeps the memory.
        """
        return torch.as_tensor(_Lease(owner, self), device=self._device)

    def collect(self) -> None:
        """Let go of what the GPU has done with; never waits."""
        while self._returned:
            owner, stream = self._returned.popleft()
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
            self._waiting.append((event, owner))
        while self._waiting and self._waiting[0][0].query():  # type: ignore[no-untyped-call]
            self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._returned) + len(self._waiting)

    def give_back(self, owner: Any) -> None:
        """Take memory back from its last holder, on the thread that let go."""
        self._returned.append((owner, torch.cuda.current_stream(self._device)))


class _Lease:
    """What a tensor holds on to; torch and NumPy drop it with the last tensor on the memory."""

    def __init__(self, owner: Any, leases: Leases) -> None:
        self._owner, self._leases = owner, leases
        memory = {"shape": tuple(owner.shape()), "typestr": "|u1", "data": (owner.data_ptr(), False), "version": 2}
        self.__cuda_array_interface__ = memory

    def __del__(self) -> None:
        self._leases.give_back(self._owner)
