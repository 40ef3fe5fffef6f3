"""NVIDIA DALI on the CPU: decode only the random window, resize, flip; one pipeline, threads, no worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from contestants.job import Batches, Job, renewed


@pipeline_def
def _images(job: Job, size: int) -> Any:
    encoded, labels = fn.readers.file(
        file_list=str(job.listing), shuffle_after_epoch=job.train, prefetch_queue_depth=2, name="reader"
    )
    if job.train:
        images = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_area=list(job.SCALE),
            random_aspect_ratio=list(job.RATIO),
        )
    else:
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
    if job.train:
        images = fn.flip(images, horizontal=fn.random.coin_flip())
    return images, labels


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""

    def make(size: int) -> Batches:
        pipeline = _images(job, size, batch_size=job.batch_size, num_threads=job.workers, device_id=None)
        names = ["images", "labels"]
        return _Pairs(
            DALIGenericIterator(
                pipeline, names, reader_name="reader", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
            )
        )

    return renewed(job, make)


class _Pairs:
    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return ((batch[0]["images"], batch[0]["labels"]) for batch in self.batches)
