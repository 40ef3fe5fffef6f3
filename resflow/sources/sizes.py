"""The sizes of a dataset's images: given, kept in a file, read from the files' headers, or measured in one pass."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.sources.folders import check_place

Sizes: TypeAlias = npt.ArrayLike | str | Path
"""Integers [N, 2], height and width in pixels; or the path of a file that keeps them."""

Measure: TypeAlias = Callable[[int], tuple[int, int]]
"""Height and width of an image by its number."""

Skips: TypeAlias = Callable[[Exception], bool]
"""Whether an error says that one sample is bad, and bad samples are to be skipped."""

_LOG = logging.getLogger("resflow")
_CHUNK = 256  # images a task


def find_sizes(
    sizes: Sizes | None,
    measure: Measure,
    count: int,
    *,
    identity: str,
    name: str,
    how: str,
    threads: int = 1,
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
    passed: list[int] = []

    def tolerant(number: int) -> tuple[int, int]:
        try:
            return measure(number)
        except Exception as error:
            if skips is None or not skips(error):
                raise
            passed.append(number)
            return 1, 1

    measured = _measured(tolerant, count, threads)
    if passed:
        _LOG.warning("%d images of %s have no size that can be read; the first is %d", len(passed), name, min(passed))
    _LOG.info("sizes of %d images of %s took %.1f s", count, name, time.perf_counter() - start)
    found = checked_sizes(measured, count, f"sizes of {name}")
    if sizes is not None and not passed:
        _save(Path(sizes), found, identity)
    return found


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


def _measured(measure: Measure, count: int, threads: int) -> npt.NDArray[np.int64]:
    sizes = np.zeros((count, 2), np.int64)

    def fill(start: int) -> None:
        stop = min(start + _CHUNK, count)
        sizes[start:stop] = [measure(number) for number in range(start, stop)]

    starts: Sequence[int] = range(0, count, _CHUNK)
    if threads == 1:
        for start in starts:
            fill(start)
        return sizes
    pool = ThreadPoolExecutor(threads)
    try:
        for _ in pool.map(fill, starts):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return sizes


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
