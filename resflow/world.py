"""Which rank this process is."""

from __future__ import annotations

import os

import torch.distributed

from resflow.errors import ConfigError
from resflow.plan import World


def current_world() -> World:
    """This process's rank and the number of ranks.

    Taken from torch.distributed if a process group exists, else from RANK and WORLD_SIZE as torchrun sets them, else
    one rank alone. Lightning's launcher sets LOCAL_RANK and NODE_RANK but no RANK, and forms a group before training.

    Raises:
        ConfigError: only one of the two variables is set, or one is not a whole number.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and (size is None or {"LOCAL_RANK", "NODE_RANK"} <= os.environ.keys()):
        return World()
    try:
        return World(int(rank or ""), int(size or ""))
    except ValueError as error:
        raise ConfigError(
            f"RANK and WORLD_SIZE must both be whole numbers, or both unset; got RANK={rank!r}, WORLD_SIZE={size!r}. "
            "Pass DataLoader(world=World(rank, size)) to say it yourself."
        ) from error
