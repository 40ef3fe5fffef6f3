"""Which rank a loader's epochs are for, under trainers that take loaders over."""

from __future__ import annotations

import warnings
from types import FrameType

from resflow.plan import World
from resflow.session.trainers import accelerate_in_use, called_by_lightning, trainer_of
from resflow.world import current_world


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
