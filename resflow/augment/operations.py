"""What Kornia's operations do to the places of pixels, as far as their classes tell."""

from __future__ import annotations

from collections.abc import Iterator

from kornia import augmentation as kornia
from kornia.augmentation.auto.operations import OperationBase
from kornia.augmentation.base import _BasicAugmentationBase
from kornia.augmentation.container.base import ImageSequentialBase
from torch import nn

from resflow.errors import ConfigError

SHAPE_CHANGING = frozenset(
    {"CenterCrop", "PadTo", "RandomCrop", "RandomResizedCrop", "Resize", "DynamicPadCrop", "ScheduledResize"}
)
FLIPS = (kornia.RandomHorizontalFlip, kornia.RandomVerticalFlip)
AFFINE = (
    *FLIPS,
    kornia.RandomAffine,
    kornia.RandomRotation,
    kornia.RandomRotation90,
    kornia.RandomShear,
    kornia.RandomTranslate,
)
_VOLUMES = (kornia.AugmentationBase3D, kornia.VideoSequential)
_DISPATCHERS = (kornia.ManyToManyAugmentationDispather, kornia.ManyToOneAugmentationDispather)
_PIXELWISE = ("kornia.color", "kornia.enhance", "kornia.filters")  # plain modules that leave pixels where they are


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The operations that a module is made of; one that works on patches counts as a whole."""
    if isinstance(module, OperationBase):
        yield from leaves(module.op)
    elif isinstance(module, ImageSequentialBase) and not isinstance(module, (kornia.PatchSequential, *_VOLUMES)):
        for child in module.children():
            yield from leaves(child)
    else:
        yield module


def is_geometric(leaf: nn.Module) -> bool:
    """Whether an operation moves pixels by a matrix for each image that it lets one read; it may yet be projective."""
    rigid = isinstance(leaf, kornia.RigidAffineAugmentationBase2D)
    return rigid and not isinstance(leaf, (kornia.IntensityAugmentationBase2D, kornia.RandomPerspective))


def is_untraceable(leaf: nn.Module) -> bool:
    """Whether an operation moves pixels in a way that no affine matrix tells, or may do so for all one knows."""
    if isinstance(leaf, kornia.PatchSequential):
        return not leaf.is_intensity_only(strict=True)
    pixelwise = isinstance(leaf, kornia.IntensityAugmentationBase2D) or type(leaf).__module__.startswith(_PIXELWISE)
    return not (pixelwise or is_geometric(leaf) or isinstance(leaf, nn.Identity))


def changes_shape(leaf: nn.Module) -> bool:
    """Whether an operation is known to give images another shape."""
    return not SHAPE_CHANGING.isdisjoint(cls.__name__ for cls in type(leaf).__mro__)


def shape_error(name: str, detail: str = "") -> ConfigError:
    """What to say to an operation that changes the shape."""
    return ConfigError(
        f"augment: {name} changes the shape of the images{detail}, but the plan owns the shape: it is decided before "
        "decoding, and the same on every rank. Use views=[rf.views.RandomResizedCrop(...)] to crop at random, "
        "rf.views.Affine to scale, fit=rf.Fit(...) to crop and pad, and resolution=... to resize."
    )


def check(module: object, *, spatial: bool) -> None:
    """Refuse what cannot stand in a pipeline.

    Args:
        module: what was given as an augmentation.
        spatial: whether targets have places in the images: boxes, masks, keypoints, label maps.

    Raises:
        ConfigError: names the operation, the reason and the way out.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"augment takes modules of kornia.augmentation and Ramped, Mosaic, MixUp, CutMix and CopyPaste of "
            f"resflow.augment; got {module!r}. Put a function into the forward of a torch.nn.Module."
        )
    for leaf in leaves(module):
        name = type(leaf).__name__
        if changes_shape(leaf):
            raise shape_error(name)
        if isinstance(leaf, kornia.MixAugmentationBaseV2) and not isinstance(leaf, kornia.RandomJigsaw):
            raise ConfigError(
                f"augment: {name} mixes images without their targets. Use MixUp, CutMix, Mosaic or CopyPaste of "
                "resflow.augment, which mix both."
            )
        if isinstance(leaf, (kornia.Normalize, kornia.Denormalize)):
            raise ConfigError(
                f"augment: {name} takes intensities out of [0, 1], where the other operations expect them. "
                "Pipeline(normalize=...) normalises after the last one."
            )
        if isinstance(leaf, (*_VOLUMES, *_DISPATCHERS)):
            raise ConfigError(f"augment: {name} is not for batches of images [B, 3, H, W]; name its parts one by one")
        if spatial and is_untraceable(leaf):
            raise _untraceable_error(leaf, name)


def _untraceable_error(leaf: nn.Module, name: str) -> ConfigError:
    if isinstance(leaf, (_BasicAugmentationBase, kornia.PatchSequential)):
        return ConfigError(
            f"augment: {name} moves pixels by no affine transform, so boxes, masks, keypoints and label maps cannot "
            "follow. Leave it out, or use RandomAffine, RandomRotation or RandomShear."
        )
    return ConfigError(
        f"augment: {name} is a module of which nobody can tell whether it moves pixels, so boxes, masks, keypoints "
        "and label maps cannot follow. If it does not, make it a kornia.augmentation.IntensityAugmentationBase2D; if "
        "it does, a GeometricAugmentationBase2D, whose compute_transformation gives the matrix."
    )
