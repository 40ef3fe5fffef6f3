"""From samples and their plan to a finished batch: what planned batches and streamed ones have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from resflow.augment.per_image import sample_seeds, transform_images
from resflow.augment.per_image_kinds import is_untraced
from resflow.augment.place import place_pixels
from resflow.batch import Batch
from resflow.decode import open_engine
from resflow.decode.base import Encoded, Notice, Pixels
from resflow.decode.registry import LimitedDecoder, find_engine
from resflow.geometry import Geometry, apply_views
from resflow.pipeline import Pipeline
from resflow.plan import PlannedBatch
from resflow.plan.buckets import Sizes
from resflow.plan.tiers import on_tier
from resflow.session.labels import batch_targets
from resflow.session.meter import Stopwatch
from resflow.session.shared_memory import room_for_images
from resflow.skip import Tolerated
from resflow.sources import Sample


def decodes_on_gpu(pipeline: Pipeline) -> bool:
    """Whether the engine decodes on a GPU: in the loop's own process then, never in workers."""
    return pipeline.decoder == "dali" and torch.device(pipeline.device).type == "cuda"


class BatchBuilder:
    """Places and decodes planned batches; one engine for each process, opened when first used.

    Args:
        pipeline: what is done to the samples.
        seed: the loader's seed.
        max_batch: the most samples a batch holds.
        threads: decoding threads of the engine in the process that made this; workers use one.
    """

    def __init__(self, pipeline: Pipeline, *, seed: int, max_batch: int, threads: int) -> None:
        self.pipeline = pipeline
        self._seed, self._max_batch, self._threads = seed, max_batch, threads
        self._engine_kind, self._places_on_device = find_engine(pipeline.decoder), decodes_on_gpu(pipeline)
        self._engine_device = pipeline.device if self._places_on_device else "cpu"
        """Whether images that a dataset gives as pixels are placed on the engine's device, by `place_pixels`."""
        self._engine: LimitedDecoder | None = None
        self._looked = False
        self._engine_process = self._home_process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None}

    def place(self, planned: PlannedBatch, size: Sizes) -> Geometry:
        """The geometry of one batch: a function of the plan and the images' sizes, drawn before decoding.

        Args:
            planned: the batch.
            size: int32 [B, 2], height and width of its images in pixels.

        Returns:
            How each image is placed.
        """
        matrix = self.pipeline.fit.place(size, planned.shape)
        matrix = apply_views(
            self.pipeline.views,
            matrix,
            size,
            planned.shape,
            seed=self._seed,
            epoch=planned.epoch,
            sample_ids=planned.draw_ids.astype(np.int64),
            progress=self.pipeline.progress(planned.resolution),
        )
        return Geometry(matrix, size, planned.shape)

    def make(
        self,
        planned: PlannedBatch,
        geometry: Geometry,
        samples: Sequence[Sample],
        targets: Sequence[object],
        stored: Sizes | None = None,
        spent: Stopwatch | None = None,
    ) -> Batch:
        """Decode one batch.

        Args:
            planned: which samples, at which shape.
            geometry: how its images are placed, as `place` gives it.
            samples: B samples, whose images the engine takes.
            targets: B targets, as `labels.sample_target` gives them.
            stored: int32 [B, 2], height and width of the images that the samples bring, where some come out of tiers;
                the batch tells the geometry of the originals all the same.
            spent: takes the time of decoding, of placing targets and of per-image transforms.

        Returns:
            The batch, uint8, on the engine's device.

        Raises:
            DecodeError: an image cannot be decoded; carries its position.
            TransformError: a per-image transform failed on an image; carries its position.
            TargetError: targets are wrong, or of different kinds.
        """
        decoded = geometry
        if stored is not None:
            matrix = on_tier(geometry.matrix, geometry.source_size, stored)
            decoded = Geometry(matrix, stored, geometry.output_size)
        spent = spent or Stopwatch()
        with spent.on("decode"):
            images, notices = self._decoded([sample.image for sample in samples], decoded)
        with spent.on("place"):
            found = batch_targets(targets, samples, geometry, self.pipeline.targets, look=not self._looked)
            self._looked = True  # at the first batch in this process
        transforms = self.pipeline.transforms
        if transforms:
            with spent.on("transform"):
                seeds = sample_seeds(self._seed, planned.epoch, planned.draw_ids.astype(np.int64))
                transform_images(transforms, images, seeds.tolist())
        batch = assemble(images, found, planned, geometry, samples)
        tolerated = tuple(
            Tolerated(samples[at].key, samples[at].shard, kind, reason) for at, kind, reason in sorted(notices)
        )
        return replace(batch, mixed=any(map(is_untraced, transforms)), tolerated=tolerated)

    def close(self) -> None:
        """Close the engine of this process."""
        if self._engine is not None and self._engine_process == os.getpid():
            self._engine.close()
        self._engine = None

    def _decoded(self, images: Sequence[Encoded | Pixels], geometry: Geometry) -> tuple[torch.Tensor, Sequence[Notice]]:
        """The images placed: by the engine, or where they are pixels already and go to a GPU, there; its notices."""
        pixels = [image for image in images if isinstance(image, np.ndarray)]
        filters = self.pipeline.interpolation
        if not (self._places_on_device and pixels and len(pixels) == len(images) and filters == "bilinear"):
            kind, room = self.pipeline.pixels, None
            if not self._places_on_device and isinstance(kind.channels, int):  # else how many is known from the files
                dtype: torch.dtype = getattr(torch, kind.dtype)
                room = room_for_images(len(images), *geometry.output_size, kind.channels, dtype)
            engine = self._open()
            return engine.decode(images, geometry, room, filters), engine.notices
        device = torch.device(self._engine_device)
        tensors = [torch.from_numpy(image).to(device, non_blocking=True).permute(2, 0, 1) for image in pixels]
        return place_pixels(tensors, geometry, fill=self.pipeline.fit.fill), ()

    def _open(self) -> LimitedDecoder:
        here = os.getpid()
        if self._engine is None or self._engine_process != here:
            self._engine = open_engine(
                self._engine_kind,
                device=self._engine_device,
                fill=self.pipeline.padding,
                threads=self._threads if here == self._home_process else 1,
                max_batch=self._max_batch,
                max_pixels=self.pipeline.max_pixels,
                strict=self.pipeline.strict,
                pixels=self.pipeline.pixels,
            )
            self._engine_process = here
        return self._engine


def assemble(
    images: torch.Tensor, targets: object, planned: PlannedBatch, geometry: Geometry, samples: Sequence[Sample]
) -> Batch:
    """A batch of images and targets that are made, with what plan and geometry say of it."""
    return Batch(
        images=images,
        targets=targets,
        transform=torch.from_numpy(geometry.matrix.astype(np.float32)),
        valid=torch.from_numpy(geometry.valid),
        source_size=torch.from_numpy(geometry.source_size),
        sample_ids=torch.from_numpy(np.array(planned.sample_ids, dtype=np.int64)),
        keys=tuple(sample.key for sample in samples),
        resolution=planned.resolution,
        seed=batch_seed(planned),
        names=next((sample.names for sample in samples if sample.names), ()),
    )


def batch_seed(planned: PlannedBatch) -> int:
    """What is drawn for a batch as a whole follows from this: in [0, 2**63), other for each step and rank's part."""
    first = int(planned.sample_ids[0]) if len(planned) else 0
    state = np.random.SeedSequence((planned.seed, planned.epoch, planned.step, first)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
