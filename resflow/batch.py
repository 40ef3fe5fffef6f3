"""What a loader hands out: fixed-shape images, their targets, and how each image came to lie where it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from resflow.errors import ConfigError, TargetError
from resflow.geometry import Geometry
from resflow.skip import Skipped, Tolerated
from resflow.targets import KeypointPairs, invert_boxes, invert_keypoints, invert_masks, invert_predictions

Ragged: TypeAlias = Sequence[torch.Tensor] | torch.Tensor
"""One tensor for each image, or one over all whose first axis is the image."""

_WAY_OUT = (
    "Unpack it (images, targets = batch), or take batch.images. A Batch is no tuple or list; for a loop that asks "
    "isinstance(batch, (tuple, list)), DataLoader(collate_fn=tuple) gives the plain pair."
)


class Cost(NamedTuple):
    """What a batch cost where it was made: `DataLoader.stats` adds these up.

    Args:
        read: seconds in which its samples were read.
        place: seconds in which its geometry was drawn and its targets were moved.
        decode: seconds in which its images were decoded and resized.
        bytes_read: encoded bytes.
        shown: pixels of the batch that show an image.
        cropped: share of each image's area that is not shown, added up.
        transform: seconds in which per-image transforms ran.
    """

    read: float
    place: float
    decode: float
    bytes_read: int
    shown: int
    cropped: float
    transform: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of images of one shape; unpacks as `images, targets = batch`, and `batch[0]`, `batch[1]` are these two.

    It is no tuple: `len(batch)` is the number of images, and `isinstance(batch, (tuple, list))` is False. For a loop
    that asks for either, `DataLoader(collate_fn=tuple)` gives the plain pair.

    Args:
        images: [B, 3, H, W] in the pipeline's memory format: uint8, or the pipeline's dtype once normalised.
        targets: int64 [B] class labels; objects in the format of `Targets.format`; int64 [B, H, W] classes of pixels;
            with a dataset, what else it gives as targets, collated; None where there are none.
        transform: float32 [B, 3, 3], source pixels to output pixels, in continuous pixel edges.
        valid: int32 [B, 4], left, top, right, bottom of the part of each image that is not padding.
        source_size: int32 [B, 2], height and width of each source image, after EXIF orientation.
        sample_ids: int64 [B], the samples' numbers in the index.
        keys: the samples' keys.
        resolution: side in pixels of the square of about equal area that the schedule gave.
        seed: what was drawn for the batch as a whole follows from it.
        mixed: whether images were mixed with others of the batch, or may have been moved by what no matrix tells
            (RandAugment), so that `transform` tells only part of them.
        keypoint_pairs: places of left and right keypoints, which swapped names in images that were mirrored.
        present: bool [B], False where a bad sample left a blank place (docs/skip.md): with `on_error=Skip(...)`, else
            None.
        skipped: the bad samples of those places, in order.
        tolerated: images that were decoded in spite of damage, or cut to 8 bits (docs/skip.md).
        names: where the dataset's items are dicts, their keys, that of the image first: `batch["label"]`.
        cost: what it took to make the batch.
    """

    images: torch.Tensor
    targets: Any
    transform: torch.Tensor
    valid: torch.Tensor
    source_size: torch.Tensor
    sample_ids: torch.Tensor
    keys: tuple[str, ...]
    resolution: int
    seed: int = 0
    mixed: bool = False
    keypoint_pairs: KeypointPairs = ()
    present: torch.Tensor | None = None
    skipped: tuple[Skipped, ...] = ()
    tolerated: tuple[Tolerated, ...] = ()
    names: tuple[str, ...] = ()
    cost: Cost | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.images, self.targets))

    def __getitem__(self, place: int | slice | str) -> Any:
        """Images (0), targets (1), or both ([:]), as of the pair that a batch unpacks to.

        Where the dataset's items are dicts, also what became of a key of theirs.
        """
        if isinstance(place, str):
            return self._named(place)
        try:
            return (self.images, self.targets)[place]
        except (IndexError, TypeError) as error:
            raise type(error)(
                f"a Batch is indexed like the pair (images, targets), by 0 and 1; got {place!r}. len(batch) is the "
                f"number of its images, {len(self)}; batch.images[i] is one of them."
            ) from None

    def _named(self, name: str) -> Any:
        image, others = self.names[:1], self.names[1:]
        if name in image:
            return self.images
        if name in others and isinstance(self.targets, Mapping) and name in self.targets:
            return self.targets[name]
        if others == (name,):
            return self.targets
        if name in others and isinstance(self.targets, list):
            return [target[name] for target in self.targets]
        raise KeyError(
            f"a Batch has batch[0], its images, and batch[1], its targets"
            f"{''.join(f', and batch[{known!r}]' for known in self.names)}; got {name!r}"
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getattr__(self, name: str) -> Any:
        hint = f" A tensor has it: {_WAY_OUT[0].lower()}{_WAY_OUT[1:]}" if hasattr(torch.Tensor, name) else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}.{hint}")

    @classmethod
    def __torch_function__(cls, func: Any, *_: Any) -> Any:
        """Say what is wrong where a batch is given to a model or a function of torch's in place of its images."""
        raise TypeError(f"{getattr(func, '__name__', func)} takes tensors; got a Batch. {_WAY_OUT}")

    @property
    def geometry(self) -> Geometry:
        """The batch's placement as float64 NumPy arrays."""
        height, width = self.images.shape[2:]
        matrix = self.transform.cpu().numpy().astype(np.float64)
        return Geometry(matrix, self.source_size.cpu().numpy(), (height, width))

    def invert(
        self,
        predictions: Sequence[Mapping[str, torch.Tensor]] | None = None,
        *,
        boxes: Ragged | None = None,
        masks: Ragged | None = None,
        keypoints: Ragged | None = None,
        clip: bool = True,
        keypoint_pairs: KeypointPairs | None = None,
    ) -> Any:
        """Take what a model found in this batch to the pixels of the source images.

        Give either the predictions as torchvision's detectors return them, or one of boxes, masks and keypoints. Boxes
        of a turned image become the upright boxes around their corners.

        Args:
            predictions: B dicts, whose "boxes", "masks" and "keypoints" are inverted and all else is kept.
            boxes: B tensors [N, 4], or one [B, N, 4]: left, top, right, bottom in pixel edges of this batch.
            masks: B tensors [N, H, W] or [N, 1, H, W], or one [B, N, H, W]; bool and integers by the nearest pixel,
                floating probabilities and logits by interpolation.
            keypoints: B tensors [N, K, 2] or [N, K, 3], or one [B, N, K, 2 or 3]; a third column is kept.
            clip: whether boxes are cut at the source image's borders.
            keypoint_pairs: places of left and right keypoints, which take their names back where images were mirrored;
                None takes those of the batch's own targets.

        Returns:
            The same in source pixels, on the same device: a list of B dicts or tensors, or one tensor where one was
            given; masks always as a list, as source images differ in size.

        Raises:
            TargetError: the images were mixed (`mixed`), or a tensor has another shape than these.
            ConfigError: not exactly one thing was given.
        """
        given = {"predictions": predictions, "boxes": boxes, "masks": masks, "keypoints": keypoints}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ConfigError(
                "Batch.invert takes exactly one of predictions, boxes, masks and keypoints; got "
                f"{', '.join(named) or 'none'}"
            )
        if self.mixed:
            raise TargetError(
                "a mixed batch cannot be inverted: its images show parts of several source images. Evaluate without "
                "mixing, as Pipeline.evaluation() does."
            )
        geometry, pairs = self.geometry, self.keypoint_pairs if keypoint_pairs is None else keypoint_pairs
        if predictions is not None:
            return invert_predictions(predictions, geometry, clip=clip, pairs=pairs)
        if boxes is not None:
            return invert_boxes(boxes, geometry, clip=clip)
        if masks is not None:
            return invert_masks(masks, geometry)
        return invert_keypoints([] if keypoints is None else keypoints, geometry, pairs=pairs)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with all of its tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: torch.device | str | None = None) -> Batch:
        """The same batch with all of its tensors in pinned memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {field.name: map_tensors(getattr(self, field.name), change) for field in fields(self)}
        return replace(self, **changed)


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A value with its tensors changed, also those in the lists, tuples, dicts and records of targets."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: map_tensors(getattr(value, part.name), change) for part in fields(value)})
    if isinstance(value, dict):
        return {name: map_tensors(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [map_tensors(part, change) for part in value]
    if type(value) is tuple:
        return tuple(map_tensors(part, change) for part in value)
    return value
