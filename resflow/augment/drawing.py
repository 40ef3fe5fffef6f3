"""What a module draws at random, and for whom: learned by running copies of it on a batch of one image, repeated.

An operation for single images, such as torchvision's, takes a batch for one image: it draws once for all of it.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from kornia.augmentation.base import _BasicAugmentationBase
from torch import nn

from resflow.augment.per_image_kinds import check, library, named
from resflow.errors import ConfigError

_SIDE, _BATCH, _TRIES = 32, 4, 32
_PER_IMAGE = ("torchvision", "albumentations", "timm")  # libraries whose transforms take one image at a time
_PER_ELEMENT = ("GaussianNoise",)  # of these, what draws for each pixel of a batch


class Drawing(NamedTuple):
    """How a module behaves over many seeds.

    Args:
        draws: whether it takes random numbers.
        varies: whether its results differ from seed to seed.
        by_image: whether images that are alike come out different within a batch.
    """

    draws: bool
    varies: bool
    by_image: bool


def drawing(module: nn.Module) -> Drawing | None:
    """Watch a module draw.

    Args:
        module: takes images float32 [B, 3, H, W] in [0, 1]; a copy of it is run, on the CPU.

    Returns:
        What was seen; None where it cannot be run so: it fails, or has parameters, so that it is a network.
    """
    if next(module.parameters(), None) is not None:
        return None
    image = torch.linspace(0, 1, 3 * _SIDE * _SIDE).reshape(1, 3, _SIDE, _SIDE).sqrt()
    results: list[torch.Tensor] = []
    draws = False
    with _own_random_state(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            copied = copy.deepcopy(module).cpu()
            for seed in range(_TRIES):
                _seed(seed)
                before = _random_state()
                results.append(copied(image.repeat(_BATCH, 1, 1, 1)))
                draws = draws or _random_state() != before
        except Exception:  # noqa: BLE001  of any kind: it is somebody else's module, and is run on real images later
            return None
    if not all(isinstance(one, torch.Tensor) and one.ndim == 4 and len(one) == _BATCH for one in results):
        return None
    varies = any(not torch.equal(one, results[0]) for one in results)
    return Drawing(draws, varies, any(not torch.equal(one, one[:1].expand_as(one)) for one in results))


def is_deterministic(module: nn.Module) -> bool:
    """Whether nothing that a module does is left to chance.

    Args:
        module: as in `drawing`.
    """
    seen = drawing(module)
    if seen is None:
        return False
    rolls = [part for part in module.modules() if isinstance(part, _BasicAugmentationBase)]
    certain = bool(rolls) and all(part.p in (0, 1) and part.p_batch in (0, 1) for part in rolls)
    return not seen.draws or (certain and not seen.varies)


def check_drawing(operation: Any) -> None:
    """Refuse what draws once for a whole batch.

    Args:
        operation: what was given as an augmentation: a module, or anything else.

    Raises:
        ConfigError: names the operation and the way out.
    """
    if not isinstance(operation, nn.Module):
        if library(operation) in _PER_IMAGE:
            raise _per_image_error(operation)
        return
    if library(operation) == "kornia":
        return
    parts = [part for part in operation.modules() if library(part) in _PER_IMAGE]
    for part in parts:
        if type(part).__name__ not in _PER_ELEMENT and not _is_harmless(part):
            raise _per_image_error(part)
    if not parts and not any(library(part) == "kornia" for part in operation.modules()):
        seen = drawing(operation)
        if seen is not None and seen.draws and seen.varies and not seen.by_image:
            raise _per_image_error(operation)


def _is_harmless(part: nn.Module) -> bool:
    """Whether an operation for single images does the same to all, whatever the random numbers."""
    seen = drawing(part)
    if seen is None:
        return not type(part).__name__.startswith(("Random", "Auto", "Trivial", "AugMix", "Color"))
    return not seen.draws or (not seen.varies and getattr(part, "p", None) in (0, 1))


def _per_image_error(operation: Any) -> ConfigError:
    name, whose = named(operation), library(operation)
    if not whose:
        way_out = (
            "Draw for each image (torch.rand(len(images), 1, 1, 1)); or, where one draw for all is meant, make "
            f"{name} a kornia.augmentation.IntensityAugmentationBase2D with same_on_batch=True."
        )
    else:
        try:
            check(operation, spatial=False)
            way_out = f"Put it in Pipeline(transforms=[{name}(...)]), which runs on each image."
        except ConfigError as error:
            way_out = f"It belongs elsewhere: {error}"
    return ConfigError(
        f"augment: {name} of {whose or type(operation).__module__} draws once for a whole batch, so that all of its "
        f"images would be changed alike. {way_out}"
    )


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _random_state() -> tuple[Any, ...]:
    array = np.random.get_state(legacy=False)
    return torch.get_rng_state().numpy().tobytes(), repr(array), random.getstate()


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Leave the global generators as they were."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
