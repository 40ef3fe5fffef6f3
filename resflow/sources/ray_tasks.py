"""Scanning and writing shards on Ray, with the same result as on one machine.

All places are of a file system that every machine of the cluster sees under the same names.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from resflow.errors import ConfigError, ResflowError, SampleError, WorkerError
from resflow.extras import needed_for
from resflow.sources.writer import checked_pattern, refuse_existing, sample_sizes, write_shards

Item = TypeVar("Item")
Result = TypeVar("Result")

Slice = Callable[[int, int], Iterable[Mapping[str, object]]]
"""Samples from a first number to before another; it is pickled, so it is a dataclass or a partial of a function."""

_TASK = 256  # samples that are measured at once
_TRIES = 3  # further tries of a task whose worker died


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """A connection to a Ray cluster, of which there is one in a program; one that is there is used and left.

    Args:
        address: of the cluster, such as "auto" or "ray://host:10001"; None: what RAY_ADDRESS says, else one on this
            machine, which ends with this.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    with needed_for("--engine ray needs Ray Data, from"):
        import ray
        import ray.data
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"the Ray cluster at {address or 'this machine'} cannot be reached: {error}. Start it (ray start "
                "--head), or correct --address."
            ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # a plan and a bar a pass
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if ours:
            ray.shutdown()


def ray_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items, each made by a task on the cluster; one whose worker dies is done again.

    Args:
        function: pickled, as are items and results; doing it again must do no harm.
        items: one a task.

    Raises:
        ResflowError: what the function raised, at its place.
        WorkerError: a task failed for another reason, as often as Ray tries it.
    """
    import ray
    from ray.exceptions import RayError

    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    if not rows:
        return
    tasks = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_Task(function), max_retries=_TRIES)
    waiting: dict[int, bytes] = {}
    place = 0
    try:
        for row in tasks.iter_rows():
            waiting[row["number"]] = row["result"]
            while place in waiting:
                result = pickle.loads(waiting.pop(place))
                if isinstance(result, ResflowError):
                    raise result
                yield result
                place += 1
    except RayError as error:
        raise WorkerError(
            f"a task on the Ray cluster failed: {str(error).strip().splitlines()[-1]}. Look at the cluster's logs; "
            "what was there before is as it was."
        ) from error


def ray_write_shards(
    part: Slice,
    count: int,
    pattern: str | Path,
    *,
    max_samples: int = 10_000,
    max_bytes: int = 1 << 30,
    overwrite: bool = False,
) -> list[Path]:
    """What `write_shards` writes of the same samples, byte for byte; none appears before all are complete.

    The samples are read twice: to learn where a shard ends, and to write it.

    Args:
        part: gives samples by their numbers.
        count: of all samples.
        pattern: as in `write_shards`, and so are the rest.

    Returns:
        The shards, in order.

    Raises:
        ConfigError: as in `write_shards`.
        SampleError: as in `write_shards`.
        WorkerError: a task failed as often as Ray tries it.
    """
    pattern = os.path.abspath(checked_pattern(pattern, max_samples, max_bytes))  # noqa: PTH100
    if not count:
        raise ConfigError("no samples to write; expected at least one.")
    starts = range(0, count, _TASK)
    measured = ray_map(_Measure(part), [(start, min(start + _TASK, count)) for start in starts])
    bounds = _bounds([item for items in measured for item in items], max_samples, max_bytes)
    paths = [Path(pattern % number) for number in range(len(bounds))]
    refuse_existing(paths, overwrite)
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{paths[0].name}.", suffix=".part", dir=paths[0].parent))
    except OSError as error:
        raise ConfigError(
            f"shard {paths[0]} cannot be written: {error.strerror}. Make room, or choose another folder."
        ) from error
    try:
        jobs = [_Job(start, end, str(stage / str(number))) for number, (start, end) in enumerate(bounds)]
        for path, written in zip(paths, list(ray_map(_Write(part), jobs)), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(written).replace(path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return paths


def _bounds(measured: Sequence[tuple[str, int]], max_samples: int, max_bytes: int) -> list[tuple[int, int]]:
    """First sample and end of each shard: one is closed once it holds so many samples, or so many bytes."""
    seen: set[str] = set()
    bounds, start, size = [], 0, 0
    for number, (key, length) in enumerate(measured):
        if key in seen:
            raise SampleError(f"key {key!r} came before. Give each sample its own", key=key, position=number)
        seen.add(key)
        if number > start and (number - start >= max_samples or size >= max_bytes):
            bounds.append((start, number))
            start, size = number, 0
        size += length
    return [*bounds, (start, len(measured))]


class _Job(NamedTuple):
    """A shard to be written."""

    start: int
    end: int
    name: str


class _Task:
    """A row of Ray Data in, a row out; errors of Resflow are results, which keep their types.

    It works in the folder in which it was made, so that relative names mean the same.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function, self._folder = function, Path.cwd()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        with suppress(OSError):  # names may be absolute
            os.chdir(self._folder)
        try:
            result = self._function(pickle.loads(row["item"]))
        except ResflowError as error:
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


class _Measure:
    """Key and bytes of each sample of a range."""

    def __init__(self, part: Slice) -> None:
        self._part = part

    def __call__(self, bounds: tuple[int, int]) -> list[tuple[str, int]]:
        return sample_sizes(self._part(*bounds))


class _Write:
    """Writes one shard under a name of the job's own."""

    def __init__(self, part: Slice) -> None:
        self._part = part

    def __call__(self, job: _Job) -> str:
        most = job.end - job.start
        [path] = write_shards(
            self._part(job.start, job.end), f"{job.name}-%d.tar", max_samples=most, max_bytes=1 << 62, overwrite=True
        )
        return str(path)
