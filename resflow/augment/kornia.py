"""Kornia's augmentations on whole batches, with targets, transform and valid parts along.

Kornia runs on the images alone. The matrix of each geometric operation is read off as it runs, whatever container it
stands in, and targets are moved by the functions that place them in the first place: Kornia's own would leave boxes
unclipped and move the zeros that pad them. Kornia counts pixel centres and Resflow pixel edges: M = T(1/2) K T(-1/2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from kornia.augmentation import AugmentationSequential
from kornia.augmentation.container.base import ImageSequentialBase
from torch import nn

from resflow.augment import operations as kinds
from resflow.augment.drawing import check_drawing, is_deterministic
from resflow.augment.ramped import Ramped
from resflow.augment.random_choice import MIXINGS, RandomChoice
from resflow.augment.state import Augmented, Moved, is_spatial, moved
from resflow.errors import ConfigError
from resflow.geometry import at
from resflow.targets import Targets

_FULL = {torch.uint8: 255, torch.uint16: 65_535}
_MIXINGS = (*MIXINGS, RandomChoice)

Move: TypeAlias = tuple[torch.Tensor, bool]
"""float64 [B, 3, 3], pixels before to pixels after, in continuous edges; and whether it is nothing but flips."""


@dataclass(frozen=True, slots=True, eq=False)
class Augment:
    """Augmentations of whole batches, done one after the other on the batch's device.

    The same seed gives the same result on the same kind of device, whatever drew random numbers before; torch's global
    generators are left as they were. Each operation draws from a seed of its own, so one more at the end changes
    nothing before it. Kornia's modules keep what they drew last, so one module is not for two threads at once.

    Args:
        operations: modules of kornia.augmentation, containers of them, `Ramped`, `Mosaic`, `MixUp`, `CutMix`,
            `CopyPaste`, `RandomChoice`. Other torch modules that keep the shape may stand here where no targets have
            places.

    Raises:
        ConfigError: an operation that cannot stand in a pipeline: names it, the reason and the way out.
    """

    operations: Sequence[Any]

    def __post_init__(self) -> None:
        if isinstance(self.operations, (nn.Module, Ramped, *_MIXINGS)) or not isinstance(self.operations, Sequence):
            raise ConfigError(
                f"augment must be a sequence of augmentations; got {self.operations!r}. Put it in a list."
            )
        object.__setattr__(self, "operations", tuple(self.operations))
        for operation in self.operations:
            if not isinstance(operation, _MIXINGS):
                module = _module(operation, 0.0)
                check_drawing(module)
                kinds.check(module, spatial=False)

    def deterministic(self, progress: float) -> tuple[nn.Module, ...]:
        """The operations that do the same to every image, whatever is drawn.

        Args:
            progress: of the resolution in its schedule, in [0, 1]; what ramps follow.
        """
        modules = [_module(operation, progress) for operation in self.operations if not isinstance(operation, _MIXINGS)]
        return tuple(module for module in modules if is_deterministic(module))

    def check(self, *, spatial: bool) -> None:
        """Refuse what cannot be done to a kind of targets, before any batch is made.

        Args:
            spatial: whether targets have places in the images: boxes, masks, keypoints, label maps.

        Raises:
            ConfigError: names the operation, the reason and the way out.
        """
        for operation in self.operations:
            if isinstance(operation, _MIXINGS):
                operation.check(spatial=spatial)
            else:
                kinds.check(_module(operation, 0.0), spatial=spatial)

    @property
    def mixed(self) -> bool:
        """Whether what comes out cannot be taken back to the source images by its transform."""
        return any(
            isinstance(operation, _MIXINGS) or any(map(kinds.is_untraceable, kinds.leaves(_module(operation, 0.0))))
            for operation in self.operations
        )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another, so that targets must be mixed with them."""
        return any(isinstance(operation, _MIXINGS) for operation in self.operations)

    def __call__(
        self,
        images: torch.Tensor,
        targets: Moved = None,
        *,
        transform: torch.Tensor | None = None,
        valid: torch.Tensor | None = None,
        options: Targets = Targets(),  # noqa: B008  (frozen)
        seed: int,
        progress: float = 0.0,
    ) -> Augmented:
        """Augment a batch.

        Args:
            images: [B, C, H, W], uint8, uint16 or floating in [0, 1], on any device.
            targets: classes int64 [B] or float [B, C], `Instances`, classes of pixels [B, H, W], or None; on the
                images' device.
            transform: [B, 3, 3], source pixels to the batch's; None takes the identity.
            valid: int32 [B, 4], the part of each image that is not padding; None takes all.
            options: how boxes, masks, keypoints and label maps are clipped, filtered and filled.
            seed: of the batch, at least 0.
            progress: of the resolution in its schedule, in [0, 1]; what ramps follow.

        Returns:
            images float32 in channels_last, mostly in [0, 1] (as far as the operations keep it); targets, transform
            (float32) and valid as the pixels were moved; `mixed` as the property says.

        Raises:
            ConfigError: images of another kind, or an operation that changes their shape.
            TargetError: an operation that targets such as these cannot follow.
        """
        if images.ndim != 4 or not (images.dtype in _FULL or images.is_floating_point()):
            raise ConfigError(
                f"images must be uint8, uint16 or floating [B,C,H,W]; got {images.dtype} {list(images.shape)}"
            )
        # Kornia takes a tenth to a half longer on channels_last (measured on a CPU), so that comes last, and once.
        floating = images.to(torch.float32, memory_format=torch.contiguous_format)
        if images.dtype in _FULL:
            floating.div_(_FULL[images.dtype])  # a copy: the dtype was another
        batch, _, height, width = images.shape
        if transform is None:
            transform = torch.eye(3, dtype=torch.float64, device=images.device).expand(batch, 3, 3)
        if valid is None:
            valid = torch.tensor([0, 0, width, height], dtype=torch.int32, device=images.device).expand(batch, 4)
        state = Augmented(floating, targets, transform.double(), valid)
        with torch.no_grad():
            moves: list[Move] = []  # that the images have made and the targets have not, yet
            for place, operation in enumerate(self.operations):
                drawn = int(np.random.SeedSequence((seed, place)).generate_state(1, np.uint64)[0])
                if isinstance(operation, _MIXINGS):
                    state, moves = _caught_up(state, moves, options), []
                    state = at(operation, progress)(state, options, torch.Generator().manual_seed(drawn))
                else:
                    module = _module(operation, progress)
                    if is_spatial(state.targets):
                        kinds.check(module, spatial=True)
                    with _seeded(drawn, images.device):
                        state = replace(state, images=_run(module, state.images, moves))
            state = _caught_up(state, moves, options)
        return replace(
            state,
            images=state.images.contiguous(memory_format=torch.channels_last),
            transform=state.transform.float(),
            mixed=self.mixed,
        )


def _module(operation: Any, progress: float) -> nn.Module:
    module: nn.Module = operation.module(progress) if isinstance(operation, Ramped) else operation
    return module


def _caught_up(state: Augmented, moves: Sequence[Move], options: Targets) -> Augmented:
    for matrix, _ in moves:
        state = moved(state, matrix, options)
    return state


def _run(module: nn.Module, images: torch.Tensor, moves: list[Move]) -> torch.Tensor:
    """The images after a module; the matrices by which it moved them are added to `moves`.

    Flips lose no pixels, so they join the matrix before or after them; whatever else moves pixels loses those that
    leave the frame, even if a later operation moves their place back into it.
    """

    def record(leaf: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if output.shape != arguments[0].shape:
            raise kinds.shape_error(type(leaf).__name__, f" from {_size(arguments[0])} to {_size(output)}")
        matrix = _edges(torch.as_tensor(leaf.transform_matrix)).expand(len(output), 3, 3)
        if not isinstance(leaf, kinds.AFFINE) and not _is_affine(matrix):
            raise ConfigError(
                f"augment: {type(leaf).__name__} moves pixels by a projective matrix, which boxes, masks, keypoints, "
                "label maps and the batch's transform cannot follow. Use RandomAffine, or leave it out."
            )
        flips = isinstance(leaf, kinds.FLIPS)
        if moves and (flips or moves[-1][1]):
            before, both_flip = moves.pop()
            moves.append((matrix @ before, flips and both_flip))
        else:
            moves.append((matrix, flips))

    geometric = {leaf for leaf in kinds.leaves(module) if kinds.is_geometric(leaf)}
    hooks = [leaf.register_forward_hook(record) for leaf in geometric]
    try:
        if isinstance(module, AugmentationSequential):
            output = module.forward(images, data_keys=["input"])
        elif isinstance(module, ImageSequentialBase):
            output = module.forward(images)  # not __call__, which keeps a reference to the last images
        else:
            output = module(images)
    except ConfigError:
        raise
    except Exception as error:
        error.add_note(f"raised by the augmentation {module} on images {list(images.shape)}")
        raise
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, torch.Tensor) or output.shape != images.shape:
        got = _size(output) if isinstance(output, torch.Tensor) else type(output).__name__
        raise kinds.shape_error(type(module).__name__, f" from {_size(images)} to {got}")
    return output.to(images.dtype)


def _edges(centres: torch.Tensor) -> torch.Tensor:
    """float64 [..., 3, 3]: matrices of pixel edges from Kornia's of pixel centres, T(1/2) K T(-1/2)."""
    matrix = centres.double().clone()
    matrix[..., :2, 2] += 0.5 - 0.5 * matrix[..., :2, :2].sum(-1)
    return matrix


def _is_affine(matrix: torch.Tensor) -> bool:
    bottom = torch.tensor([0.0, 0.0, 1.0], dtype=matrix.dtype, device=matrix.device)
    return bool(torch.isclose(matrix[:, 2], bottom, atol=1e-9).all())


def _size(images: torch.Tensor) -> str:
    return str(list(images.shape))


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that Kornia draws from, and put them back as they were."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        place = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[place])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
