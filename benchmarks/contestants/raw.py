"""The physical limits: libjpeg-turbo decodes in threads, and nothing is done with the pixels."""

from __future__ import annotations

import ctypes
import functools
import math
import random
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
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
        if job.options.get("crop"):
            height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
            crop_resize(encoded, _window(job, height, width), size)
            continue
        least = {"min_height": 0, "min_width": 0}
        if job.options.get("scaled"):
            height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
            share = math.sqrt(random.uniform(*job.SCALE)) if job.train else 1.0
            least = {"min_height": round(size / share), "min_width": round(size / share * width / height)}
        simplejpeg.decode_jpeg(encoded, **least)
    return [label for _, label in items]


def _window(job: Job, height: int, width: int) -> tuple[float, float, float, float]:
    """RandomResizedCrop's window of an image, or the whole: x, y, width, height in pixels."""
    for _ in range(10 if job.train else 0):
        area = height * width * random.uniform(*job.SCALE)
        ratio = math.exp(random.uniform(*map(math.log, job.RATIO)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if wide <= width and high <= height:
            return random.randint(0, width - wide), random.randint(0, height - high), wide, high
    return 0, 0, width, height


def crop_resize(encoded: bytes, window: tuple[float, float, float, float], size: int) -> npt.NDArray[np.uint8]:
    """A window of a JPEG, uint8 [size, size, 3], by libjpeg-turbo's cropping, skipping and scaling, and a plain resize.

    Args:
        encoded: the file.
        window: x, y, width, height in pixels of the source.
        size: side of the output in pixels.
    """
    out = np.empty((size, size, 3), np.uint8)
    if _library().crop(encoded, len(encoded), *map(ctypes.c_double, window), size, out.ctypes.data):
        raise RuntimeError("libjpeg-turbo refuses a file")
    return out


@functools.cache
def _library() -> ctypes.CDLL:
    """crop.c compiled for this processor.

    Raises:
        RuntimeError: there is no compiler or no header of libjpeg-turbo; says what to install.
    """
    compiler = shutil.which("cc")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "crop.so")
        source = Path(__file__).with_name("crop.c")
        command = [compiler or "cc", "-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC"]
        command += [str(source), "-o", str(library), "-ljpeg", "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if compiler else None
        if done is None or done.returncode:
            why = "there is no cc" if done is None else done.stderr.strip().splitlines()[0]
            raise RuntimeError(
                f"decode-crop needs a C compiler and libjpeg-turbo's header ({why}): "
                "apt-get install gcc libjpeg62-turbo-dev"
            )
        loaded = ctypes.CDLL(str(library))
    loaded.crop.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_double] * 4, ctypes.c_int, ctypes.c_void_p]
    return loaded
