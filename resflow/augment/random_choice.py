"""One of several mixings, chosen anew for each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from resflow.augment.copy_paste import CopyPaste
from resflow.augment.mixing import CutMix, MixUp
from resflow.augment.mosaic import Mosaic
from resflow.augment.state import Augmented
from resflow.checks import is_number
from resflow.errors import ConfigError
from resflow.targets import Targets

MIXINGS = (CopyPaste, CutMix, MixUp, Mosaic)


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """Do one of several mixings to each batch: `RandomChoice([MixUp(num_classes=10), CutMix(num_classes=10)])`.

    Args:
        operations: `MixUp`, `CutMix`, `Mosaic` and `CopyPaste`.
        p: how often each is chosen, relative to the others; None: equally often. To leave some batches as they are,
            give the operations a `p` of their own.

    Raises:
        ConfigError: something else to choose from, weights that are none, or mixings of different numbers of classes.

    Source: torchvision.transforms.v2.RandomChoice.
    """

    operations: Sequence[MixUp | CutMix | Mosaic | CopyPaste]
    p: Sequence[float] | None = None

    def __post_init__(self) -> None:
        operations = tuple(self.operations) if isinstance(self.operations, list | tuple) else ()
        if not operations or not all(isinstance(one, MIXINGS) for one in operations):
            raise ConfigError(
                "RandomChoice takes a list of MixUp, CutMix, Mosaic and CopyPaste of resflow.augment; got "
                f"{self.operations!r}. Among Kornia's modules, kornia.augmentation.AugmentationSequential(..., "
                "random_apply=1) chooses."
            )
        weights = (1.0,) * len(operations) if self.p is None else tuple(self.p) if _is_list(self.p) else ()
        if (
            len(weights) != len(operations)
            or not all(is_number(one) and one >= 0 for one in weights)
            or not sum(weights)
        ):
            raise ConfigError(
                f"RandomChoice.p must be {len(operations)} numbers of at least 0, one for each operation, not all 0; "
                f"got {self.p!r}"
            )
        classes = {one.num_classes for one in operations if isinstance(one, MixUp | CutMix)}
        if len(classes) > 1:
            raise ConfigError(
                "RandomChoice: its operations make shares of different numbers of classes: "
                f"{sorted(map(str, classes))}. Give all the same num_classes."
            )
        object.__setattr__(self, "operations", operations)
        object.__setattr__(self, "p", None if self.p is None else weights)

    def check(self, *, spatial: bool) -> None:
        """See `Mixing`."""
        for one in self.operations:
            one.check(spatial=spatial)

    def __call__(self, state: Augmented, options: Targets, generator: torch.Generator) -> Augmented:
        """See `Mixing`."""
        weights = torch.tensor(self.p or [1.0] * len(self.operations), dtype=torch.float64)
        chosen = int(torch.multinomial(weights, 1, generator=generator))
        return self.operations[chosen](state, options, generator)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
