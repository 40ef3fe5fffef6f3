"""The physical limit: libjpeg-turbo decodes in threads, and nothing is done with the pixels."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import simplejpeg

from contestants.job import Batches, Job


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass, without images."""
    files = job.files()
    with ThreadPoolExecutor(job.workers) as pool:
        for size in job.sizes:
            yield _pass(job, files, size, pool)


def _pass(job: Job, files: list[tuple[str, int]], size: int, pool: ThreadPoolExecutor) -> Iterator[tuple[None, object]]:
    order = random.sample(files, len(files)) if job.train else files
    waiting: deque[Future[list[int]]] = deque()
    for start in range(0, len(order), job.batch_size):
        waiting.append(pool.submit(_decode, job, order[start : start + job.batch_size], size))
    while waiting:
        yield None, waiting.popleft().result()


def _decode(job: Job, items: list[tuple[str, int]], size: int) -> list[int]:
    for path, _ in items:
        encoded = Path(path).read_bytes()
        least = {"min_height": 0, "min_width": 0}
        if job.options.get("scaled"):
            height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
            share = math.sqrt(random.uniform(*job.SCALE)) if job.train else 1.0
            least = {"min_height": round(size / share), "min_width": round(size / share * width / height)}
        simplejpeg.decode_jpeg(encoded, **least)
    return [label for _, label in items]
