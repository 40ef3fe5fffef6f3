"""Worker processes: they end with their parent, and their deaths come as typed errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from resflow.errors import WorkerError

_EVERY = 0.5  # seconds between looks at the parent


@dataclass(frozen=True, slots=True)
class WorkerInit:
    """First call in each worker: watches the parent, then does what the user asked for.

    Args:
        then: the user's worker_init_fn.
    """

    then: Callable[[int], None] | None = None

    def __call__(self, worker_id: int) -> None:
        """Start watching; `worker_id` as PyTorch gives it."""
        threading.Thread(target=_end_with, args=(os.getppid(),), name="resflow-parent", daemon=True).start()
        if self.then is not None:
            self.then(worker_id)


def raise_worker_error(error: RuntimeError) -> NoReturn:
    """Raise PyTorch's report of a dead worker as a WorkerError, any other error as it is.

    Args:
        error: what PyTorch raised.
    """
    if not str(error).startswith("DataLoader worker (pid"):
        raise error
    raise WorkerError(
        f"{error} The rest of this pass is lost with it; the next pass starts new workers, and "
        "load_state_dict(state_dict()) goes on from the last batch. If memory ran out, lower num_workers, "
        "prefetch_factor or batch_size."
    ) from error


def _end_with(parent: int) -> None:
    """End this process soon after its parent has ended: what it prepares nobody will read."""
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os._exit(1)
