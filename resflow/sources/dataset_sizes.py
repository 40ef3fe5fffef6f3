"""The sizes of a dataset's images: given, kept in a file, read from the files' headers, or measured in one pass."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from resflow.errors import ConfigError
from resflow.progress import PATIENCE, progress
from resflow.sources.folders import check_place

Sizes: TypeAlias = npt.ArrayLike | str | Path
"""Integers [N, 2], height and width in pixels; or the path of a file that keeps them."""

Measure: TypeAlias = Callable[[int], tuple[int, int]]
"""Height and width of an image by its number."""

Skips: TypeAlias = Callable[[Exception], bool]
"""Whether an error says that one sample is bad, and bad samples are to be skipped."""

_LOG = logging.getLogger("resflow")
_CHUNK = 256  # images a task that reads headers
_SLOW_CHUNK = 16  # and of one that may decode them


def find_sizes(
    sizes: Sizes | None,
    measure: Measure,
    count: int,
    *,
    identity: str,
    name: str,
    how: str,
    threads: int = 1,
    workers: int = 0,
    skips: Skips | None = None,
) -> npt.NDArray[np.int32]:
    """The sizes of all images: those given, those kept in a file, or measured (and kept, where a file is named).

    Args:
        sizes: integers [N, 2]; a path, which is read if it is there, else written; None measures.
        measure: gives the size of one image.
        count: N.
        identity: hash of what the dataset is; a file of another dataset is refused.
        name: the dataset's name, for messages.
        how: how `measure` goes about it, for the log.
        threads: threads that measure.
        workers: processes that measure what is left after two seconds, where `measure` takes long; 0: none.
        skips: tells the errors of `measure` that are to be passed over: such an image counts as one pixel, so that it
            is found bad when it is read. The log says how many, and no file is written.

    Returns:
        int32 [N, 2].

    Raises:
        ConfigError: sizes of another shape, dtype or length, below 1, or a file of another dataset.
    """
    if sizes is not None and not isinstance(sizes, str | os.PathLike):
        return checked_sizes(sizes, count, "sizes")
    if sizes is not None and Path(sizes).exists():
        return _load(Path(sizes), count, identity, name)
    if sizes is not None:
        check_place(Path(sizes))
    hint = "" if sizes is not None else "; sizes='FILE' would keep the result"
    _LOG.info("sizes of %d images of %s: %s%s", count, name, how, hint)
    start = time.perf_counter()

    def say(done: int, seconds: float) -> None:
        left = seconds / done * (count - done) / max(1, workers)
        kept = "which keeps the result" if sizes is None else "as here, keeps the result for the next time"
        _LOG.warning(
            "%s does not tell the sizes of its %d images, so each is loaded once, now (%s; %d workers; about %.0f s "
            "left). What avoids it: DataLoader(sizes='sizes.npz'), %s; a method get_height_and_width(i) of the "
            "dataset; or items with paths or encoded bytes in place of decoded images.",
            *(name, count, how, workers, left, kept),
        )

    measured = np.zeros((count, 2), np.int64)
    passed: list[int] = []
    with progress(f"sizes of {name}", count) as show:
        done = 0
        for numbers, found, bad in _chunks(_Measuring(measure, skips), count, threads, workers, say):
            measured[list(numbers)] = found
            passed += bad
            done += len(numbers)
            show(done)
    if passed:
        _LOG.warning("%d images of %s have no size that can be read; the first is %d", len(passed), name, min(passed))
    _LOG.info("sizes of %d images of %s took %.1f s", count, name, time.perf_counter() - start)
    checked = checked_sizes(measured, count, f"sizes of {name}")
    if sizes is not None and not passed:
        _save(Path(sizes), checked, identity)
    return checked


def checked_sizes(sizes: npt.ArrayLike, count: int, name: str) -> npt.NDArray[np.int32]:
    """Sizes as int32 [N, 2], once they are found to be so many heights and widths above 0.

    Args:
        sizes: integers [N, 2].
        count: N.
        name: what they are called in errors.

    Returns:
        int32 [N, 2].

    Raises:
        ConfigError: another shape, dtype or length, or a size below 1.
    """
    array = np.asarray(sizes)
    if array.shape != (count, 2) or (array.dtype.kind not in "iu" and count):
        raise ConfigError(
            f"{name} must be integers [{count}, 2], the height and width of each of the dataset's {count} images; got "
            f"{array.dtype} {list(array.shape)}"
        )
    if count and (int(array.min()) < 1 or int(array.max()) > np.iinfo(np.int32).max):
        first = int(np.argmax((array < 1).any(1) | (array > np.iinfo(np.int32).max).any(1)))
        raise ConfigError(f"{name} must be positive pixels; sample {first} has height, width {array[first].tolist()}")
    return array.astype(np.int32)


def asked_sizes(dataset: Any) -> Measure | None:
    """`dataset.get_height_and_width`, if it has it; torchvision's detection references ask datasets so."""
    method = getattr(dataset, "get_height_and_width", None)
    if not callable(method):
        return None

    def measure(number: int) -> tuple[int, int]:
        height, width = method(number)
        return int(height), int(width)

    return measure


_Chunk: TypeAlias = tuple[Sequence[int], list[tuple[int, int]], list[int]]
"""Numbers of images, their sizes, and the numbers of those that are passed over."""


class _Measuring(Dataset[Any]):
    """Measures images by the chunk, in this process or in a worker, which hands an error on as it is."""

    def __init__(self, measure: Measure, skips: Skips | None) -> None:
        self._measure, self._skips = measure, skips

    def chunk(self, numbers: Sequence[int]) -> _Chunk:
        sizes, passed = [], []
        for number in numbers:
            try:
                sizes.append(self._measure(number))
            except Exception as error:
                if self._skips is None or not self._skips(error):
                    raise
                passed.append(number)
                sizes.append((1, 1))
        return numbers, sizes, passed

    def __getitem__(self, numbers: Sequence[int]) -> _Chunk | Exception:
        try:
            return self.chunk(numbers)
        except Exception as error:  # noqa: BLE001 - sent to the process that asked, which raises it
            return error


def _chunks(
    measuring: _Measuring, count: int, threads: int, workers: int, say: Callable[[int, float], None]
) -> Iterator[_Chunk]:
    """Measure all images; after two seconds `say` how many are done, and have worker processes do the rest."""
    start, first, told = time.perf_counter(), 0, False
    workers = 0 if multiprocessing.current_process().daemon else workers  # which may have no children
    if threads > 1:
        pool = ThreadPoolExecutor(threads)
        try:
            yield from pool.map(measuring.chunk, _parts(0, count, _CHUNK))
        finally:
            pool.shutdown(cancel_futures=True)
        return
    for part in _parts(0, count, _SLOW_CHUNK):
        yield measuring.chunk(part)
        first = part.stop
        seconds = time.perf_counter() - start
        if seconds > PATIENCE and not told and first < count:
            told = True
            say(first, seconds)
            if workers:
                break
    if first < count:
        parts = list(_parts(first, count, _SLOW_CHUNK))
        own = torch.Generator()  # so that the global one is left alone
        made: Any = DataLoader(measuring, None, sampler=parts, num_workers=workers, collate_fn=_same, generator=own)
        for found in made:
            if isinstance(found, Exception):
                raise found
            yield found


def _parts(first: int, count: int, length: int) -> Iterator[range]:
    return (range(start, min(start + length, count)) for start in range(first, count, length))


def _same(value: Any) -> Any:
    return value


def _load(path: Path, count: int, identity: str, name: str) -> npt.NDArray[np.int32]:
    try:
        with path.open("rb") as file:
            loaded: Any = np.load(file, allow_pickle=False)
            plain = isinstance(loaded, np.ndarray)
            sizes, found = (loaded, identity) if plain else (loaded["sizes"], str(loaded["identity"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} does not hold sizes ({error}). Name another file, or remove it.") from error
    sizes = checked_sizes(sizes, count, f"sizes in {path}")
    if found != identity:
        raise ConfigError(
            f"the sizes in {path} belong to another dataset than this {name} of {count} images. Name another file, or "
            "remove it to have it written again."
        )
    return sizes


def _save(path: Path, sizes: npt.NDArray[np.int32], identity: str) -> None:
    """Whoever opens `path` meanwhile sees no file, or a whole one."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, sizes=sizes, identity=np.array(identity))
            file.flush()
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise ConfigError(
            f"the sizes cannot be kept in {path}: {error.strerror or error}. Name a file in a folder that can be "
            "written to, or pass no sizes."
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
