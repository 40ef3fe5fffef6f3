"""Which rank this process is."""

from __future__ import annotations

import os
import warnings
from types import FrameType

import torch.distributed

from resflow.errors import ConfigError
from resflow.plan import World
from resflow.runtime.trainers import accelerate_in_use, called_by_lightning, trainer_of


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


class Ranks:
    """Which rank a loader's epochs are for, and whether a trainer has taken the loader over.

    Under Accelerate and Lightning a loader of PyTorch's holds all samples until the trainer has prepared it, and then a
    rank's part; schedulers and progress count on it. So does a loader with a pipeline: until `Accelerator.prepare`, or
    until Lightning or the Trainer of transformers asks for its length or its batches, it is one process's.

    Args:
        given: the rank as the user gave it, which always holds; None asks at each turn.
    """

    def __init__(self, given: World | None) -> None:
        self._given = given
        self._lightning = self._warned = False
        self._told: int | None = None
        self.prepared = False
        """Whether a trainer has taken the loader over."""
        self.split = False
        """Whether `batch_size` is that of all ranks together (`Accelerator(split_batches=True)`)."""
        self.fills = False
        """Whether Accelerate expects all ranks' batches to be equally long (`even_batches`)."""

    @property
    def world(self) -> World:
        """The rank."""
        if self._given is not None:
            return self._given
        world = current_world()
        whole = world.size > 1 and not self.prepared and (self._lightning or accelerate_in_use())
        return World() if whole else world

    def warn_of_repeats(self) -> None:
        """Say, once, that every process goes through the whole epoch, since no trainer has prepared the loader."""
        size = current_world().size
        if self._given is None and self.world.size < size and not self._warned:
            self._warned = True
            warnings.warn(
                f"this loader was not prepared, so each of the {size} processes goes through the whole epoch, as with "
                "PyTorch's DataLoader. For a part of it on each, pass it to accelerator.prepare(...); where this is "
                "meant, say so with DataLoader(world=World(0, 1)).",
                stacklevel=4,
            )

    def asked(self, frame: FrameType) -> None:
        """Note who asks for the loader's length, its batches, or whether it is prepared.

        Args:
            frame: of the code that asks.
        """
        if self._given is not None or self.prepared:
            return
        trainer = trainer_of(frame)
        if trainer is None:
            self._lightning = called_by_lightning(frame)
            return
        self.prepared = True
        self.split, self.fills = (bool(getattr(trainer, name, False)) for name in ("split_batches", "even_batches"))

    def told(self, length: int) -> None:
        """Note a length that was told to other code than a trainer's."""
        self._told = None if self.prepared else length

    def check(self, whole: int) -> None:
        """Warn where a length that was told before a trainer was there is not the one that PyTorch's loader tells.

        Args:
            whole: batches of an epoch if one process went through all of it.
        """
        told, self._told = self._told, None
        if told is not None and told != whole:
            warnings.warn(
                f"len(loader) was {told}, one rank's batches, when it was asked for before the trainer was made; "
                f"PyTorch's DataLoader would have told {whole}, and a learning rate schedule made from it is off. "
                "Make the Accelerator first, or take the length after prepare, or from the trainer.",
                stacklevel=4,
            )
