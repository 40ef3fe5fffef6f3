"""One run of one contestant in a process of its own: `python -m contestants.run MODULE JOB [prepare]`.

Lines that begin with MARK are for the parent: one when the warm pass has ended, one with the result, all JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from typing import Any

import numpy as np
import psutil
from PIL import Image

from contestants.job import Job

MARK = "@@ "
_TOLERANCE = 12.0
"""Levels of 255 by which whole images may differ from Pillow's antialiased bilinear resize, in the mean."""
_COMPARED = 16  # images


class WrongWork(Exception):
    """The contestant did something else than was asked for."""


def measure(contestant: Any, job: Job) -> dict[str, Any]:
    """Run all passes and time them.

    Args:
        contestant: its module, imported already.
        job: what to do.

    Returns:
        samples: of the timed passes (all but the first); seconds: of these; cpu: seconds of processor time that the
        process and its descendants took for them; read: bytes that these read by system calls meanwhile, from files
        or elsewhere, but not out of files mapped into memory; first_batch: seconds from the making of the loader to its
        first batch; first_batch_at: the same moment as `time.time()`; difference: mean absolute
        difference to Pillow's resize in levels, or None where windows are random.

    Raises:
        WrongWork: a wrong shape, dtype, label, a sample lost or repeated, other pixels.
    """
    ends: list[float] = []
    first: tuple[Any, Any] | None = None
    first_batch = first_batch_at = spent = 0.0
    read = 0
    seen: list[list[Any]] = []
    begin = time.perf_counter()
    for size, batches in zip(job.sizes, contestant.passes(job), strict=True):
        labels: list[Any] = []
        for images, numbers in batches:
            if not first_batch:
                first_batch, first_batch_at = time.perf_counter() - begin, time.time()
            if images is not None:
                _check(images, size)
            labels.append(_array(numbers).reshape(-1))
            if first is None and images is not None and not job.train:
                first = _channels_last(_array(images[:_COMPARED])), labels[0]
        seen.append(labels)
        ends.append(time.perf_counter())
        if len(ends) == 1:
            spent, read = _used()
            _tell({"warm": True})
    spent, read = (after - before for after, before in zip(_used(), (spent, read), strict=True))
    count = len(job.files())
    for number, labels in enumerate(seen):
        _check_labels(np.concatenate(labels), count, number)
    return {
        "samples": count * (len(ends) - 1),
        "seconds": ends[-1] - ends[0],
        "cpu": spent,
        "read": read,
        "first_batch": first_batch,
        "first_batch_at": first_batch_at,
        "difference": None if first is None else _difference(job, *first),
    }


def _check(images: Any, size: int) -> None:
    shape, dtype = tuple(images.shape[1:]), str(images.dtype)
    if dtype not in ("torch.uint8", "uint8") or shape not in ((3, size, size), (size, size, 3)):
        raise WrongWork(f"a batch must be uint8 [B,3,{size},{size}] or [B,{size},{size},3]; got {dtype} {list(shape)}")


def _check_labels(labels: Any, count: int, number: int) -> None:
    times = np.bincount(labels.astype(np.int64), minlength=count)
    if len(times) != count or (times != 1).any():
        raise WrongWork(
            f"pass {number} must give each of {count} samples once; {(times == 0).sum()} are missing, "
            f"{(times > 1).sum()} came more than once"
        )


def _array(values: Any) -> Any:
    """A copy, so that no memory that workers share is held."""
    return np.array(values.numpy() if hasattr(values, "numpy") else values)


def _channels_last(images: Any) -> Any:
    return images if images.shape[-1] == 3 else images.transpose(0, 2, 3, 1)


def _difference(job: Job, images: Any, labels: Any) -> float:
    """Mean absolute difference to Pillow's antialiased bilinear resize of the whole images, in levels of 255."""
    files = {label: path for path, label in job.files()}
    size, total = job.sizes[0], 0.0
    for image, label in zip(images, labels, strict=False):
        with Image.open(files[int(label)]) as opened:
            expected = opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        total += float(np.abs(np.asarray(expected, np.float64) - image).mean())
    if total / len(images) > _TOLERANCE:
        raise WrongWork(f"whole images differ from Pillow's by {total / len(images):.1f} levels in the mean")
    return total / len(images)


def _used() -> tuple[float, int]:
    """Seconds of processor time and bytes read, by this process and its descendants, also those that have ended."""
    seconds, read = 0.0, 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            seconds += sum(process.cpu_times()[:4])  # user and system, own and of children that were waited for
            read += process.io_counters().read_chars  # own and of children that were waited for
    return seconds, read


def _tell(message: dict[str, Any]) -> None:
    print(f"\n{MARK}{json.dumps(message)}", flush=True)


def main() -> None:
    """Prepare or measure."""
    module, path, *rest = sys.argv[1:]
    contestant, job = importlib.import_module(f"contestants.{module}"), Job.load(path)
    if rest:
        contestant.prepare(job, job.own(module))
        return
    _tell(measure(contestant, job))


if __name__ == "__main__":
    main()
