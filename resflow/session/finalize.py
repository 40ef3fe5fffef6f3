"""The last steps of a batch, in the loop's own process: errors raised, device, normalisation, the user's collate."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate, get_worker_info

from resflow.batch import Batch
from resflow.errors import ConfigError, ResflowError, TargetError
from resflow.pipeline import Pipeline
from resflow.session.labels import PixelClasses
from resflow.session.meter import Stopwatch
from resflow.session.placeholders import restore_placeholders
from resflow.targets import Instances, KeypointPairs, hand_out
from resflow.targets.types import REMOVED


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way from a worker to the loop, which raises it with its own type."""

    error: ResflowError


@dataclass(frozen=True, slots=True)
class BatchFinalizer:
    """Finishes batches; stands as the loader's `collate_fn`, so that loaders which trainers build anew finish, too.

    Args:
        pipeline: says the device, the augmentation, the normalisation, the dtype and the targets' format.
        collate: from the finished `Batch` to what the loop is given; None, and PyTorch's `default_collate`, give the
            `Batch`.
    """

    pipeline: Pipeline
    collate: Callable[[Any], Any] | None = None
    spent: Stopwatch = dataclasses.field(init=False, repr=False, compare=False, default_factory=Stopwatch)
    objects: Counter[str] = dataclasses.field(init=False, repr=False, compare=False, default_factory=Counter)
    """Objects handed out ("given") and left out, by reason, since they were last taken."""
    _augment: Any = dataclasses.field(init=False, repr=False, compare=False, default=None)
    _told: set[str] = dataclasses.field(init=False, repr=False, compare=False, default_factory=set)

    def __post_init__(self) -> None:
        if self.pipeline.augment:
            from resflow.augment import Augment  # with Kornia, which takes seconds

            object.__setattr__(self, "_augment", Augment(self.pipeline.augment))

    def __call__(self, batch: Batch | Failure) -> Any:
        """BatchFinalizer a batch.

        Args:
            batch: uint8, as a worker made it, or what went wrong there.

        Returns:
            The batch on the pipeline's device, augmented and normalised there, collated. In a worker process it stays
            on the CPU.

        Raises:
            ResflowError: what went wrong.
        """
        if isinstance(batch, Failure):
            raise batch.error
        pipeline = self.pipeline
        if torch.device(pipeline.device).type != "cpu" and get_worker_info() is None:
            with self.spent.on("copy"):
                batch = batch.to(pipeline.device, non_blocking=True)
        if isinstance(batch.targets, PixelClasses) and batch.targets.strange and "values" not in self._told:
            self._told.add("values")
            warnings.warn(batch.targets.strange, stacklevel=2)
        batch = self._augmented(batch)
        if batch.skipped and pipeline.augment:
            batch = restore_placeholders(batch, pipeline)
        images = batch.images.contiguous(memory_format=pipeline.memory_format)  # of bytes, where not augmented
        if pipeline.normalize is not None:
            images = pipeline.normalize(images, pipeline.dtype)
        elif pipeline.augment:
            images = images.to(pipeline.dtype)
        pairs = self._keypoint_pairs(batch)
        if isinstance(batch.targets, Instances):
            self.objects.update({"given": len(batch.targets.boxes)})
            if batch.targets.removed is not None:
                self.objects.update(dict(zip(REMOVED, batch.targets.removed.sum(0).tolist(), strict=True)))
        batch = dataclasses.replace(batch, images=images, targets=self._handed_out(batch), keypoint_pairs=pairs)
        if self.collate is None or self.collate is default_collate:  # a batch is collated already
            return batch
        try:
            collated = self.collate(batch)
        except Exception as error:
            error.add_note(
                "raised by collate_fn, which beside a pipeline is given a finished Batch, not a list of samples: take "
                "batch.images and batch.targets, or pass no collate_fn."
            )
            raise
        if _pairs_of_samples(collated, batch.images):
            raise ConfigError(
                "collate_fn takes a list of samples apart, as `lambda batch: tuple(zip(*batch))` does, but beside a "
                f"pipeline it is given a finished Batch: it made {len(batch)} pairs of one image and one target. Pass "
                "no collate_fn; each batch is (images, targets) already, and images that a detector wants as a list "
                "are list(images)."
            )
        return collated

    def _keypoint_pairs(self, batch: Batch) -> KeypointPairs:
        """Which keypoints swapped places in mirrored images; says once where that is not known."""
        found = batch.targets
        if not isinstance(found, Instances) or found.keypoints is None:
            return ()
        if found.keypoint_pairs is None and found.keypoints.shape[1] > 1 and "pairs" not in self._told:
            mirrored = torch.linalg.det(batch.transform[:, :2, :2].float()) < 0
            if bool((mirrored & (found.counts > 0)).any()):
                self._told.add("pairs")
                warnings.warn(
                    "images with keypoints are mirrored, and nothing says which of their keypoints are left and right, "
                    "so none swap places: a left eye stays named left. Pass keypoint_pairs=[(1, 2), ...] (or YOLO's "
                    "flip_idx) to the source or to rf.Targets(keypoints=True, keypoint_pairs=...); () if none swap.",
                    stacklevel=2,
                )
        return found.keypoint_pairs or ()

    def _augmented(self, batch: Batch) -> Batch:
        pipeline, targets = self.pipeline, batch.targets
        if self._augment is None:
            return batch
        known: Any = None  # else something of the dataset's own, which stays as it is
        if isinstance(targets, PixelClasses):
            known = targets.classes
        elif isinstance(targets, Instances) or _are_classes(targets):
            known = targets
        elif targets is not None and self._augment.mixes:
            got = (
                f"{targets.dtype} {list(targets.shape)}"
                if isinstance(targets, torch.Tensor)
                else type(targets).__name__
            )
            raise TargetError(
                "mixed images need targets that can be mixed: classes int64 [B], shares of classes float [B, C], "
                f"objects or label maps; got {got} for the batch. Have the dataset give one of these, or take MixUp, "
                "CutMix, Mosaic and CopyPaste out of Pipeline.augment."
            )
        augmented = self._augment(
            batch.images,
            known,
            transform=batch.transform,
            valid=batch.valid,
            options=pipeline.target_options,
            seed=batch.seed,
            progress=pipeline.progress(batch.resolution),
        )
        if isinstance(targets, PixelClasses) and isinstance(augmented.targets, torch.Tensor):
            targets = PixelClasses(augmented.targets)
        elif known is not None:
            targets = augmented.targets
        return dataclasses.replace(
            batch,
            images=augmented.images,
            targets=targets,
            transform=augmented.transform,
            valid=augmented.valid,
            mixed=batch.mixed or augmented.mixed,
        )

    def _handed_out(self, batch: Batch) -> Any:
        """The targets in the form in which the loop wants them."""
        targets, (height, width) = batch.targets, batch.images.shape[2:]
        if isinstance(targets, Instances):
            return hand_out(targets, self.pipeline.target_options, (height, width))
        return targets.classes.long() if isinstance(targets, PixelClasses) else targets


def _pairs_of_samples(collated: object, images: torch.Tensor) -> bool:
    """Whether a collate function gave one (image, target) for each sample of a batch, rather than a batch."""
    return (
        isinstance(collated, tuple | list)
        and len(collated) == len(images)
        and all(
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and isinstance(pair[0], torch.Tensor)
            and pair[0].shape == images.shape[1:]
            and not (isinstance(pair[1], torch.Tensor) and pair[1].shape == images.shape[1:])
            for pair in collated
        )
    )


def as_it_is(batch: Any) -> Any:
    """A collate function for what comes whole."""
    return batch


def _are_classes(targets: Any) -> bool:
    """Whether targets are one number for each image, or shares of classes."""
    return isinstance(targets, torch.Tensor) and (
        targets.ndim == 1 or (targets.ndim == 2 and targets.is_floating_point())
    )
