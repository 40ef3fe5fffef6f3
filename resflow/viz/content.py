"""What a batch holds, image by image, in NumPy: its pixels, its objects, its classes of pixels, its labels in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from resflow.errors import ConfigError
from resflow.viz.plotting import Classes, class_name

if TYPE_CHECKING:
    from resflow.batch import Batch
    from resflow.normalize import Normalize

_NAMED = 3  # classes of a mixed label that are named
_LEAST = 0.005  # share of a mixed label below which a class is not named
_OF_OBJECTS = ("boxes", "labels", "iscrowd", "masks", "keypoints")


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of one image, in its pixels.

    Args:
        boxes: float [N, 4], left, top, right, bottom in pixel edges.
        labels: int [N], None where there are none.
        iscrowd: bool [N].
        masks: bool [N, H, W], None where there are none.
        keypoints: float [N, K, 3], x and y in pixel edges and visibility, None where there are none.
    """

    boxes: npt.NDArray[Any]
    labels: npt.NDArray[Any] | None
    iscrowd: npt.NDArray[np.bool_]
    masks: npt.NDArray[np.bool_] | None
    keypoints: npt.NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What is drawn on one image.

    Args:
        caption: its class or classes in words; empty where it has none.
        objects: None where there are none.
        label_map: int [H, W], None where there is none.
    """

    caption: str = ""
    objects: Objects | None = None
    label_map: npt.NDArray[Any] | None = None


def shown(batch: Batch, classes: Classes | None = None) -> list[Shown]:
    """What is drawn on each image of a batch; targets of a kind that is not known are left out.

    Args:
        batch: its targets are int64 [B] classes, floating [B, C] mixed classes, int64 [B, H, W] classes of pixels,
            B dicts of objects, a dict of padded tensors with `count`, or anything else.
        classes: names by number.

    Returns:
        B of them.
    """
    targets, count = batch.targets, len(batch)
    if isinstance(targets, torch.Tensor) and targets.shape[:1] == (count,):
        array = _array(targets)
        if array.ndim == 1 and array.dtype.kind in "iu":
            return [Shown(class_name(number, classes)) for number in array.tolist()]
        if array.ndim == 2 and array.dtype.kind == "f":
            return [Shown(_mixed(row, classes)) for row in array]
        if array.dtype.kind in "iu" and array.shape == (count, *batch.images.shape[2:]):
            return [Shown(label_map=label_map) for label_map in array]
    if isinstance(targets, Mapping) and isinstance(counts := targets.get("count"), torch.Tensor):
        parts = {name: targets[name] for name in _OF_OBJECTS if isinstance(targets.get(name), torch.Tensor)}
        if all(part.shape[:1] == (count,) for part in (counts, *parts.values())):
            targets = [
                {name: part[place, :number] for name, part in parts.items() if part.ndim > 1}
                for place, number in enumerate(counts.tolist())
            ]
    if isinstance(targets, Sequence) and len(targets) == count:
        return [Shown(objects=_objects(target)) for target in targets]
    return [Shown()] * count


def pixels(batch: Batch, denormalize: Normalize | None, count: int) -> npt.NDArray[np.uint8]:
    """A batch's images as bytes.

    Args:
        batch: images uint8, or floating.
        denormalize: the normalisation to undo; None for bytes and for floating images in [0, 1].
        count: the most images wanted.

    Returns:
        uint8 [min(B, count), H, W, 3].

    Raises:
        ConfigError: floating images that leave [0, 1], and nothing to denormalise them with.
    """
    images = batch.images[:count].detach().permute(0, 2, 3, 1).cpu()
    if not images.dtype.is_floating_point:
        return np.asarray(images.numpy())
    shares = images.float().numpy()
    if denormalize is not None:
        shares = shares * np.asarray(denormalize.std) + np.asarray(denormalize.mean)
    elif shares.size and not (shares.min() >= -0.01 and shares.max() <= 1.01):
        raise ConfigError(
            f"contact_sheet was given {images.dtype} images from {shares.min():.3g} to {shares.max():.3g}, which have "
            "been normalised; expected [0, 1]. Pass denormalize= the pipeline's `normalize`."
        )
    return np.asarray(np.clip(np.round(255 * shares), 0, 255), dtype=np.uint8)


def _mixed(shares: npt.NDArray[Any], classes: Classes | None) -> str:
    largest = np.argsort(-shares, kind="stable")[:_NAMED].tolist()
    named = [f"{class_name(number, classes)} {shares[number]:.0%}" for number in largest if shares[number] > _LEAST]
    return " + ".join(named)


def _objects(target: object) -> Objects | None:
    """The objects of one dict; None where it is none, or has no boxes."""
    if not isinstance(target, Mapping):
        return None
    found = {name: _array(target[name]) for name in _OF_OBJECTS if isinstance(target.get(name), torch.Tensor)}
    boxes = found.get("boxes", np.zeros(0))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return None
    found = {name: part for name, part in found.items() if len(part) == len(boxes)}
    masks = found.get("masks")
    return Objects(
        boxes,
        found.get("labels"),
        found.get("iscrowd", np.zeros(len(boxes))).astype(np.bool_),
        None if masks is None else (masks.reshape(len(boxes), *masks.shape[-2:]) > 0.5),
        found.get("keypoints"),
    )


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    plain = tensor.detach().as_subclass(torch.Tensor).cpu()
    return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
