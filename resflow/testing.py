"""What tests need: a source in memory, an engine that decodes nothing, and checkers of the laws of plans.

The checkers raise AssertionError and name the sample and the step at fault.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import torch

from resflow.decode.base import Encoded, Interpolations, Pixels, check_pixels, output_tensor
from resflow.decode.registry import EngineOptions
from resflow.errors import DecodeError
from resflow.geometry.affine import Geometry, transform_points
from resflow.plan import Buckets, EpochPlan, PlannedBatch, Schedule, World
from resflow.sources import DatasetSource, Sample


class MemorySource(DatasetSource):
    """A source whose samples lie in memory. It notes what is read, takes its time and fails where it is told to.

    Args:
        images: encoded images, or pixels, uint8 [H, W, 3], RGB.
        targets: one for each image; None for images without targets.
        delay: seconds that each call of `read` takes in addition.
        faults: what to raise instead of reading a sample, by its number.

    Attributes:
        reads: the sample numbers of each call of `read` in this process, in order.
        closed: how often `close` was called in this process.

    Raises:
        HeaderError: no size can be read from an encoded image.
        ValueError: there are not as many targets as images.
    """

    def __init__(
        self,
        images: Iterable[bytes | Pixels],
        targets: Iterable[object] | None = None,
        *,
        delay: float = 0.0,
        faults: Mapping[int, Exception] | None = None,
    ) -> None:
        super().__init__(list(images) if targets is None else list(zip(images, targets, strict=True)))
        self._name, self._delay, self._faults = type(self).__name__, delay, dict(faults or {})
        self.reads: list[list[int]] = []
        self.closed = 0

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Samples in the order asked for, see `Source.read`; the first fault among them is raised."""
        self.reads.append(sample_ids.tolist())
        time.sleep(self._delay)
        for number in self.reads[-1]:
            if number in self._faults:
                raise self._faults[number]
        return super().read(sample_ids)

    def close(self) -> None:
        """Count the call; the source can be read again."""
        self.closed += 1


class ArrayDecoder:
    """An engine that decodes nothing: it places pixels by their nearest neighbour, whatever filter is asked for.

    `register_engine("array", ArrayDecoder)` makes it known to `Pipeline(engine="array")`.

    Args:
        options: only the fill counts.

    Attributes:
        batches: images of each batch that was placed in this process, in order.
        closed: how often `close` was called in this process.
    """

    def __init__(self, options: EngineOptions = EngineOptions()) -> None:  # noqa: B008  # frozen
        self._fill = np.array(options.fill, np.uint8)
        self.batches: list[int] = []
        self.closed = 0

    def decode(
        self,
        encoded: Sequence[Encoded | Pixels],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """Place B images, see `Decoder.decode`; DecodeError for one that is encoded."""
        result = output_tensor(encoded, geometry, out, "cpu")
        height, width = geometry.output_size
        centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1).reshape(-1, 2)
        reached = transform_points(
            np.linalg.inv(geometry.matrix).astype(np.float64), centres[None]
        )  # [B, H * W, 2], x and y
        nearest = np.floor(reached.round(6)).astype(np.int64)
        for position, (image, size) in enumerate(zip(encoded, geometry.source_size.tolist(), strict=True)):
            if not isinstance(image, np.ndarray):
                message = f"ArrayDecoder takes pixels alone; image {position} of the batch is encoded"
                raise DecodeError(message, position=position)
            pixels = check_pixels("array", position, image, (size[0], size[1]))
            column, row = nearest[position].T
            inside = (column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])
            placed = np.where(inside[:, None], pixels[row * inside, column * inside], self._fill)
            result[position] = torch.from_numpy(placed).view(height, width, 3).permute(2, 0, 1)
        self.batches.append(len(encoded))
        return result

    def close(self) -> None:
        """Count the call."""
        self.closed += 1


def check_exactly_once(plan: EpochPlan, n: int, *, dropped: int = 0) -> None:
    """Check that an epoch uses each sample once, but for `dropped` of them.

    Args:
        plan: the epoch's plan.
        n: samples of the dataset.
        dropped: samples that are left out on purpose (`drop_last`).

    Raises:
        AssertionError: names a sample that is unknown, repeated or lost.
    """
    ids = plan.sample_ids
    foreign = np.flatnonzero((ids < 0) | (ids >= n))
    if len(foreign):
        raise AssertionError(
            f"{_place(plan, int(foreign[0]))} has sample {ids[foreign[0]]}; the dataset has samples 0 to {n - 1}"
        )
    uses = np.bincount(ids, minlength=n)
    if uses.max(initial=0) > 1:
        sample = int(uses.argmax())
        steps = [_step(plan, int(position)) for position in np.flatnonzero(ids == sample)]
        raise AssertionError(f"sample {sample} is used {len(steps)} times in epoch {plan.epoch}, at steps {steps}")
    lost = np.flatnonzero(uses == 0)
    if len(lost) != dropped:
        raise AssertionError(
            f"epoch {plan.epoch} leaves out {len(lost)} samples, expected {dropped}; the first is {lost[:1].tolist()}"
        )


def check_one_short(plan: EpochPlan, batch_size: int, *, drop_last: bool = False) -> None:
    """Check that all batches are full but one, or all with `drop_last`.

    Args:
        plan: the epoch's plan.
        batch_size: samples of a full global batch.
        drop_last: whether a short batch is wrong, too.

    Raises:
        AssertionError: names a step whose batch is short, the second if one may be, or too large.
    """
    sizes = np.diff(plan.offsets)
    wrong = np.flatnonzero(sizes > batch_size)
    if not len(wrong):
        wrong = np.flatnonzero(sizes < batch_size)[0 if drop_last else 1 :]
    if len(wrong):
        step = int(wrong[0])
        allowed = "none may be short" if drop_last else "one may be short"
        raise AssertionError(
            f"step {step} of epoch {plan.epoch} has {sizes[step]} samples, the batch size is {batch_size} and {allowed}"
        )


def check_shapes(plan: EpochPlan, buckets: Buckets) -> None:
    """Check that each batch has the shape of some bucket at its resolution.

    Args:
        plan: the epoch's plan.
        buckets: the buckets it was planned with.

    Raises:
        AssertionError: names a step and its shape.
    """
    for step, (shape, resolution) in enumerate(zip(plan.shapes.tolist(), plan.resolutions.tolist(), strict=True)):
        known = buckets.shape(np.arange(len(buckets)), resolution).tolist()
        if shape not in known:
            raise AssertionError(
                f"step {step} of epoch {plan.epoch} has shape {shape}; at resolution {resolution} there are {known}"
            )


def check_resolutions(plan: EpochPlan, schedule: Schedule) -> None:
    """Check that each batch has the resolution of the schedule after the samples before it.

    Args:
        plan: the epoch's plan.
        schedule: the schedule it was planned with.

    Raises:
        AssertionError: names the first step at another resolution.
    """
    used = len(plan.sample_ids)
    expected = schedule(plan.epoch * used + plan.offsets[:-1], used, plan.seed)
    wrong = np.flatnonzero(plan.resolutions != expected)
    if len(wrong):
        step = int(wrong[0])
        raise AssertionError(
            f"step {step} of epoch {plan.epoch} is at resolution {plan.resolutions[step]}, "
            f"the schedule says {expected[step]}"
        )


def check_same_plan(plan: EpochPlan, other: EpochPlan) -> None:
    """Check that two plans have the same batches of the same samples in the same order.

    Args:
        plan: what is expected.
        other: what was got.

    Raises:
        AssertionError: names the first sample and step that differ.
    """
    for position, (expected, got) in enumerate(zip_longest(plan.sample_ids.tolist(), other.sample_ids.tolist())):
        if expected != got:
            raise AssertionError(f"{_place(plan, position)} should have sample {expected}; got {got}")
    for name in ("offsets", "shapes", "resolutions"):
        for step, (expected, got) in enumerate(
            zip_longest(getattr(plan, name).tolist(), getattr(other, name).tolist())
        ):
            if expected != got:
                raise AssertionError(f"step {step} of epoch {plan.epoch}: {name} should be {expected}; got {got}")


def check_ranks(plan: EpochPlan, world_size: int) -> None:
    """Check that the ranks' batches make up the global batches.

    Args:
        plan: the epoch's plan.
        world_size: ranks.

    Raises:
        AssertionError: see `check_rank_batches`.
    """
    check_rank_batches(plan, [list(plan.rank(World(rank, world_size))) for rank in range(world_size)])


def check_rank_batches(plan: EpochPlan, ranks: Sequence[Sequence[PlannedBatch]]) -> None:
    """Check that batches handed to ranks make up the global batches, in order, evenly and at one shape.

    A global batch with fewer samples than there are ranks is repeated until every rank has one.

    Args:
        plan: the epoch's plan.
        ranks: the batches of each rank, in order.

    Raises:
        AssertionError: names the step and rank, and the sample if one is lost, repeated or out of place.
    """
    for rank, batches in enumerate(ranks):
        if len(batches) != len(plan):
            raise AssertionError(f"rank {rank} has {len(batches)} batches in epoch {plan.epoch}, expected {len(plan)}")
    for step in range(len(plan)):
        parts = [batches[step] for batches in ranks]
        expected_shape, resolution = tuple(plan.shapes[step].tolist()), int(plan.resolutions[step])
        for rank, part in enumerate(parts):
            where = (part.epoch, part.step, part.seed, part.resolution, part.shape)
            if where != (plan.epoch, step, plan.seed, resolution, expected_shape):
                raise AssertionError(
                    f"step {step} of epoch {plan.epoch}, rank {rank}: epoch, step, seed, resolution, shape should be "
                    f"{(plan.epoch, step, plan.seed, resolution, expected_shape)}; got {where}"
                )
        sizes = [len(part) for part in parts]
        got = [sample for part in parts for sample in part.sample_ids.tolist()]
        members = plan.sample_ids[plan.offsets[step] : plan.offsets[step + 1]]
        whole = np.resize(members, max(len(members), len(parts))).tolist()
        for place, (sample, found) in enumerate(zip_longest(whole, got)):
            if sample != found:
                raise AssertionError(
                    f"step {step} of epoch {plan.epoch}: the ranks together should have sample {sample} "
                    f"at place {place}; got {found}"
                )
        if max(sizes) - min(sizes) > 1:
            raise AssertionError(f"step {step} of epoch {plan.epoch}: the ranks have uneven batches of {sizes} samples")


def _step(plan: EpochPlan, position: int) -> int:
    """The step whose batch holds a position of `sample_ids`."""
    return int(np.searchsorted(plan.offsets, position, side="right")) - 1


def _place(plan: EpochPlan, position: int) -> str:
    """A position of `sample_ids` in words."""
    step = _step(plan, position)
    return f"place {position - int(plan.offsets[min(step, len(plan))])} of step {step} of epoch {plan.epoch}"
