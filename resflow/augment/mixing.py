"""MixUp and CutMix: two images of a batch in one, and their targets with them.

Everything stays within the batch's shape and device. Partners are neighbours in a ring that is drawn anew for each
batch, so every image is partner once, and of itself only in a batch of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from resflow.augment.objects import join_objects, take_images
from resflow.augment.state import Augmented, Moved, around, is_spatial
from resflow.checks import is_number
from resflow.errors import ConfigError, TargetError
from resflow.geometry import Ramp, at
from resflow.geometry.ramp import Magnitude, check_probability, fixed
from resflow.targets import Instances, Targets

ABSENT = -100  # the class of a place without a sample, as CrossEntropyLoss ignores it


@dataclass(frozen=True, slots=True)
class MixUp:
    """Blend each image with a partner: lam * image + (1 - lam) * partner, one lam for the batch.

    Classes become float [B, num_classes] in the same shares; the objects of both images are kept. `transform` stays
    that of the first image, `valid` holds both. Not for label maps: a pixel has one class.

    Args:
        alpha: lam is drawn from Beta(alpha, alpha), at least 0; 0 mixes nothing.
        num_classes: needed where targets are classes int64 [B].
        p: probability that a batch is mixed, in [0, 1]; classes become shares either way.

    Raises:
        ConfigError: a value out of its range.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018); torchvision.transforms.v2.MixUp.
    """

    alpha: Magnitude = 0.2
    num_classes: int | None = None
    p: Magnitude = 1.0

    def __post_init__(self) -> None:
        _check_alpha("MixUp", self.alpha, self.num_classes)
        check_probability("MixUp", self.p)

    def check(self, *, spatial: bool) -> None:
        """See `Mixing`."""

    def __call__(self, state: Augmented, options: Targets, generator: torch.Generator) -> Augmented:
        """See `Mixing`."""
        targets = state.targets
        if is_spatial(targets) and not isinstance(targets, Instances):
            raise TargetError("MixUp cannot mix label maps: a pixel has one class. Use CutMix, Mosaic or CopyPaste.")
        if not _occurs(self.p, generator):
            return _unmixed(state, self.num_classes, "MixUp")
        partner = ring(len(state.images), generator)[1].to(state.images.device)
        lam = _beta(fixed("MixUp.alpha", self.alpha), generator)
        if isinstance(targets, Instances):
            targets = join_objects([targets, take_images(targets, partner)])
        else:
            targets = soft_labels(targets, partner, lam, self.num_classes, "MixUp")
        return replace(
            state,
            images=torch.lerp(state.images[partner], state.images, lam),
            targets=targets,
            valid=around(state.valid, state.valid[partner]),
        )


@dataclass(frozen=True, slots=True)
class CutMix:
    """Paste a rectangle of a partner into each image, at the same place, one rectangle for the batch.

    Classes become float [B, num_classes], in shares of pixels; label maps are pasted as the pixels are. `transform`
    stays that of the image pasted into, `valid` holds both. Not for objects, which a rectangle would cut.

    Args:
        alpha: the share of the image that stays is drawn from Beta(alpha, alpha), at least 0; 0 mixes nothing.
        num_classes: needed where targets are classes int64 [B].
        p: probability that a batch is mixed, in [0, 1]; classes become shares either way.

    Raises:
        ConfigError: a value out of its range.

    Source: Yun et al., "CutMix" (2019); torchvision.transforms.v2.CutMix.
    """

    alpha: Magnitude = 1.0
    num_classes: int | None = None
    p: Magnitude = 1.0

    def __post_init__(self) -> None:
        _check_alpha("CutMix", self.alpha, self.num_classes)
        check_probability("CutMix", self.p)

    def check(self, *, spatial: bool) -> None:
        """See `Mixing`."""

    def __call__(self, state: Augmented, options: Targets, generator: torch.Generator) -> Augmented:
        """See `Mixing`."""
        if isinstance(state.targets, Instances):
            raise TargetError(
                "CutMix cannot mix boxes, masks and keypoints: its rectangle cuts through objects. "
                "Use Mosaic, MixUp or CopyPaste."
            )
        if not _occurs(self.p, generator):
            return _unmixed(state, self.num_classes, "CutMix")
        height, width = state.shape
        partner = ring(len(state.images), generator)[1].to(state.images.device)
        left, top, right, bottom = _rectangle(
            _beta(fixed("CutMix.alpha", self.alpha), generator), state.shape, generator
        )
        rows, columns = slice(top, bottom), slice(left, right)
        images = state.images.clone()
        images[..., rows, columns] = state.images[partner][..., rows, columns]
        targets = state.targets
        if targets is not None and is_spatial(targets):
            pasted = targets[partner][:, rows, columns]
            targets = targets.clone()
            targets[:, rows, columns] = pasted
        else:
            share = 1 - (right - left) * (bottom - top) / (width * height)
            targets = soft_labels(targets, partner, share, self.num_classes, "CutMix")
        low, high = state.valid.new_tensor([left, top]), state.valid.new_tensor([right, bottom])
        visible = torch.cat([state.valid[partner][:, :2].maximum(low), state.valid[partner][:, 2:].minimum(high)], 1)
        return replace(state, images=images, targets=targets, valid=around(state.valid, visible))


def ring(count: int, generator: torch.Generator, turns: int = 1) -> list[torch.Tensor]:
    """Partners: int64 [count] each; first the images themselves, then their neighbours in a random ring, and so on."""
    order = torch.randperm(count, generator=generator)
    partners = [torch.arange(count)]
    for turn in range(1, turns + 1):
        shifted = torch.empty_like(order)
        shifted[order] = order.roll(-turn)
        partners.append(shifted)
    return partners


def soft_labels(
    classes: torch.Tensor | None, partner: torch.Tensor, share: float, num_classes: int | None, name: str
) -> torch.Tensor | None:
    """float32 [B, num_classes]: a share of each image's class, and the rest of its partner's.

    Args:
        classes: int64 [B], float [B, num_classes], or None; a place without a sample (-100) has no class at all.
        partner: int64 [B].
        share: of the image itself, in [0, 1].
        num_classes: needed for int64 [B].
        name: of the mixing, for messages.

    Raises:
        TargetError: neither, or classes out of range.
    """
    if classes is None:
        return None
    if classes.ndim == 1 and not classes.is_floating_point():
        if num_classes is None:
            raise TargetError(f"{name} needs num_classes to mix classes given as numbers: {name}(num_classes=1000)")
        present = classes != ABSENT
        if bool((present & ((classes < 0) | (classes >= num_classes))).any()):
            raise TargetError(f"{name}(num_classes={num_classes}) got the classes {classes.tolist()}")
        classes = (classes[:, None] == torch.arange(num_classes, device=classes.device)).float()
    elif classes.ndim != 2 or not classes.is_floating_point() or num_classes not in (None, classes.shape[1]):
        raise TargetError(
            f"{name} mixes classes int64 [B], or float [B,{num_classes or 'C'}]; got {classes.dtype} "
            f"{list(classes.shape)}"
        )
    return share * classes + (1 - share) * classes[partner]


def chosen(count: int, p: Magnitude, generator: torch.Generator) -> torch.Tensor:
    """bool [count]: which images of a batch are taken, each with probability p."""
    return torch.rand(count, generator=generator) < fixed("p", p)


def refuse_classes(name: str, targets: Moved) -> None:
    """Refuse targets that have no places in the images.

    Raises:
        TargetError: classes, or nothing.
    """
    if not is_spatial(targets):
        raise TargetError(f"{name} needs boxes, masks or label maps. For classes of images, use MixUp or CutMix.")


def _occurs(p: Magnitude, generator: torch.Generator) -> bool:
    """Whether a batch is mixed; nothing is drawn where it always is."""
    share = fixed("p", p)
    return share >= 1 or float(torch.rand((), generator=generator)) < share


def _unmixed(state: Augmented, num_classes: int | None, name: str) -> Augmented:
    """A batch that is left as it is, with its classes as shares like those of the others."""
    if state.targets is None or is_spatial(state.targets):
        return state
    own = torch.arange(len(state.images), device=state.images.device)
    return replace(state, targets=soft_labels(state.targets, own, 1.0, num_classes, name))  # type: ignore[arg-type]


def _check_alpha(name: str, alpha: Magnitude, num_classes: int | None) -> None:
    sound = isinstance(alpha, int | float | Ramp) and not isinstance(alpha, bool)
    if not sound or not all(is_number(end) and fixed(name, end) >= 0 for end in (at(alpha, 0.0), at(alpha, 1.0))):
        raise ConfigError(f"{name}.alpha must be a finite number, at least 0; got {alpha!r}")
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise ConfigError(f"{name}.num_classes must be a whole number above 0, or None; got {num_classes!r}")


def _beta(alpha: float, generator: torch.Generator) -> float:
    """From Beta(alpha, alpha), as a ratio of two gamma variates; 1 where alpha is 0."""
    if alpha == 0:
        return 1.0
    first, second = torch._standard_gamma(torch.full((2,), float(alpha), dtype=torch.float64), generator).tolist()
    return first / (first + second) if first + second > 0 else 1.0


def _rectangle(lam: float, shape: tuple[int, int], generator: torch.Generator) -> tuple[int, int, int, int]:
    """left, top, right, bottom of a rectangle of about the share 1 - lam, cut at the frame."""
    height, width = shape
    x, y = (int(torch.randint(side, (1,), generator=generator)) for side in (width, height))
    reach = 0.5 * math.sqrt(1 - lam)
    across, down = int(reach * width), int(reach * height)
    return max(x - across, 0), max(y - down, 0), min(x + across, width), min(y + down, height)
