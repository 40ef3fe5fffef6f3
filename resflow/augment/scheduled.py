"""The resolution schedule as a Kornia augmentation, for batches of any loader."""

from __future__ import annotations

import numpy as np

from resflow.augment.reshaping import ShapeOperation
from resflow.augment.shape import snapped_shape
from resflow.checks import check_whole, is_whole
from resflow.errors import ConfigError
from resflow.geometry import Fit
from resflow.plan import RandomMultiScale, Schedule, as_schedule


class ScheduledResize(ShapeOperation):
    """Resize a batch, antialiased, to the resolution that a schedule gives.

    The batch keeps its ratio, but for the rounding of its sides to multiples of `stride`, and gets the area of the
    square of that resolution; nothing is padded or cropped. Progress is told from outside, since an augmentation does
    not see the training loop: call `set_epoch` once an epoch, or `set_progress` before batches.

    It is used as Kornia's own: alone on floating [B, C, H, W] or in an `AugmentationSequential` with `data_keys`.

    Args:
        schedule: any of `resflow.schedules`, or a whole number of pixels.
        stride: pixels; heights and widths are its multiples.
        epoch_size: samples that one epoch uses, on all ranks together. Without it only `set_epoch` is known, and an
            epoch counts as one sample, which is enough for schedules that count in epochs.
        seed: of schedules that draw at random; the same on every rank.
        square: make batches square, whatever their ratio, which distorts them.
        keepdim: give images without a batch axis back without one.

    Raises:
        ConfigError: an argument is out of range, or a schedule that counts samples comes without `epoch_size`.
    """

    def __init__(
        self,
        schedule: int | Schedule,
        *,
        stride: int = 32,
        epoch_size: int | None = None,
        seed: int = 0,
        square: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(Fit.stretch(), 0.0, 0.0, keepdim)
        self.schedule = as_schedule(schedule)
        self.stride = check_whole("ScheduledResize.stride", stride)
        if epoch_size is None and isinstance(self.schedule, RandomMultiScale):
            raise ConfigError(
                "ScheduledResize needs epoch_size with RandomMultiScale, which counts samples; got None. Pass the "
                "number of samples that an epoch uses."
            )
        self.epoch_size = None if epoch_size is None else check_whole("ScheduledResize.epoch_size", epoch_size)
        if not is_whole(seed, 0) or seed >= 2**64:
            raise ConfigError(f"ScheduledResize.seed must be a whole number in [0, 2**64); got {seed!r}")
        self.seed, self.square = int(seed), square
        self._samples = 0

    def set_epoch(self, epoch: int) -> None:
        """Say that an epoch begins.

        Args:
            epoch: counted from 0.

        Raises:
            ConfigError: a negative or fractional epoch.
        """
        self._samples = check_whole("set_epoch: epoch", epoch, 0) * (self.epoch_size or 1)

    def set_progress(self, samples: int) -> None:
        """Say how many samples were used since training began.

        Args:
            samples: on all ranks together, batches times their global size.

        Raises:
            ConfigError: a negative or fractional number, or no `epoch_size` was given.
        """
        if self.epoch_size is None:
            raise ConfigError(
                "set_progress counts samples, so ScheduledResize must know how many an epoch has. Pass epoch_size=, or "
                "call set_epoch."
            )
        self._samples = check_whole("set_progress: samples", samples, 0)

    @property
    def resolution(self) -> int:
        """The resolution at the present progress, pixels."""
        samples = np.array([self._samples], dtype=np.int64)
        return int(self.schedule(samples, self.epoch_size or 1, self.seed)[0])

    def choose(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the batch that comes out.

        Args:
            size: height and width of the batch that goes in.
        """
        return snapped_shape(1.0 if self.square else size[1] / size[0], self.resolution, self.stride)
