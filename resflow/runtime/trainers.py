"""What trainers ask of a loader that shards, orders and resumes by itself.

Accelerate tracks the loader whose loop is under way, to know the last step of an epoch (gradient accumulation) and how
many samples of the last gathered batch are real (`gather_for_metrics`). Lightning, Accelerate and Hugging Face's
Trainer leave a loader's sampler alone if it is a DistributedSampler, and tell it the epoch.
"""

from __future__ import annotations

import sys
from typing import Any


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
