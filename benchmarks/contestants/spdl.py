"""SPDL: a pipeline of threads; FFmpeg decodes, crops, scales (bilinear, antialiased) and flips each image."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import spdl.io
from spdl.pipeline import PipelineBuilder

from contestants.job import Batches, Job


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass."""
    files = job.files()
    one_thread = spdl.io.decode_config(decoder_options={"threads": "1"})
    for size in job.sizes:
        scale = f"scale={size}:{size}:flags=bilinear,format=pix_fmts=rgb24"

        def read(item: tuple[str, int], scale: str = scale) -> tuple[Any, int]:
            path, label = item
            filters = scale if not job.train else _window(job) + scale + random.choice(["", ",hflip"])
            return spdl.io.decode_packets(spdl.io.demux_image(path), filters, one_thread), label

        def collate(items: list[tuple[Any, int]]) -> tuple[Any, list[int]]:
            buffer = spdl.io.convert_frames([frames for frames, _ in items])
            return spdl.io.to_torch(buffer), [label for _, label in items]

        order = random.sample(files, len(files)) if job.train else files
        pipeline = (
            PipelineBuilder()
            .add_source(order)
            .pipe(read, concurrency=job.workers, output_order="completion" if job.train else "input")
            .aggregate(job.batch_size)
            .pipe(collate)
            .add_sink(job.prefetch)
            .build(num_threads=job.workers)
        )
        yield _walk(pipeline)


def _walk(pipeline: Any) -> Iterator[tuple[Any, Any]]:
    with pipeline.auto_stop():
        yield from pipeline.get_iterator(timeout=60)


def _window(job: Job) -> str:
    """A random window in FFmpeg's words; width and height of the image are known only there."""
    area = random.uniform(*job.SCALE)
    ratio = math.exp(random.uniform(*map(math.log, job.RATIO)))
    width, height = (f"min({side},sqrt(iw*ih*{area * factor}))" for side, factor in (("iw", ratio), ("ih", 1 / ratio)))
    return f"crop=w='{width}':h='{height}':x='(iw-ow)*{random.random()}':y='(ih-oh)*{random.random()}',"
