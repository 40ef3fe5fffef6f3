"""What trainers ask of a loader that shards, orders and resumes by itself.

Accelerate tracks the loader whose loop is under way, to know the last step of an epoch (gradient accumulation) and how
many samples of the last gathered batch are real (`gather_for_metrics`). Lightning, Accelerate and Hugging Face's
Trainer leave a loader's sampler alone if it is a DistributedSampler, and tell it the epoch.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

_TRAINERS = ("accelerate", "lightning", "pytorch_lightning", "transformers")


class TrackedLoop:
    """One loop over a loader, made known to Accelerate where that is in use.

    Args:
        loader: has `end_of_dataloader` and `remainder`.
    """

    def __init__(self, loader: Any) -> None:
        module = sys.modules.get("accelerate.state")
        in_use = module is not None and bool(module.GradientState._shared_state)
        self._state = module.GradientState() if module is not None and in_use else None
        self._loader = loader
        loader.end_of_dataloader = False
        if self._state is not None:
            self._state._add_dataloader(loader)

    def close(self) -> None:
        """The loop has ended; harmless when repeated."""
        state, self._state = self._state, None
        if state is not None and self._loader in state.dataloader_references:
            state._remove_dataloader(self._loader)


def accelerate_in_use() -> bool:
    """Whether this process has an Accelerator, its own or that of transformers' Trainer."""
    module = sys.modules.get("accelerate.state")
    return module is not None and bool(module.AcceleratorState._shared_state)


def trainer_of(frame: FrameType) -> Any:
    """The object of a trainer's whose code a frame runs, the frame's module where it is a function; None elsewhere.

    Args:
        frame: of the code that asks a loader for something.
    """
    if _package(frame) not in _TRAINERS:
        return None
    return frame.f_locals.get("self", sys.modules.get(frame.f_globals["__name__"]))


def called_by_lightning(frame: FrameType) -> bool:
    """Whether code runs within Lightning's loop: a hook of a module, of a callback, of data.

    Args:
        frame: of that code.
    """
    caller: FrameType | None = frame
    while caller is not None:
        if _package(caller) in ("lightning", "pytorch_lightning"):
            return True
        caller = caller.f_back
    return False


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
