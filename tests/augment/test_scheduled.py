"""ScheduledResize: the schedule's resolution as a Kornia augmentation, targets in step with the pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from kornia.augmentation import AugmentationSequential
from torchvision.transforms.v2 import functional as tv

from resflow.augment.scheduled import ScheduledResize
from resflow.errors import ConfigError
from resflow.plan import Constant, Cosine, Cyclic, Linear, RandomMultiScale, Steps
from tests.decode.samples import picture

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZES = ((37, 61), (200, 150), (64, 64), (200, 40))


def batch(size: tuple[int, int]) -> torch.Tensor:
    """float32 [2, 3, H, W] in [0, 1]."""
    pictures = [picture(*size, seed).transpose(2, 0, 1) for seed in range(2)]
    return torch.from_numpy(np.stack(pictures)).float() / 255


def scaling(size: tuple[int, int], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """float64 [3, 3]: the whole of one image onto the whole of another, continuous edges."""
    return np.diag([shape[1] / size[1], shape[0] / size[0], 1.0])


def check(operation: ScheduledResize, size: tuple[int, int], device: str = "cpu") -> tuple[int, int]:
    """Hold images, boxes, keypoints and masks against torchvision and a float64 matrix; the shape that came out."""
    images = batch(size)
    corners = np.sort(np.random.default_rng(1).uniform(0, 1, (2, 5, 2, 2)), axis=2) * [size[1], size[0]]
    boxes = torch.tensor(corners.reshape(2, 5, 4), dtype=torch.float32)
    points = boxes[..., :2]
    rectangles = torch.zeros(2, 5, *size)
    for image in range(2):
        for number, (left, top, right, bottom) in enumerate(boxes[image].round().int().tolist()):
            rectangles[image, number, top:bottom, left:right] = 1
    sequence = AugmentationSequential(operation, data_keys=["input", "mask", "bbox_xyxy", "keypoints"])
    sent = [tensor.to(device) for tensor in (images, rectangles, boxes - 0.5, points - 0.5)]
    resized, masks, moved, spots = (result.cpu() for result in sequence(*sent))
    shape = (int(resized.shape[2]), int(resized.shape[3]))

    expected = tv.resize(images, list(shape), antialias=True)
    gap = float((resized - expected).abs().max())
    assert gap <= 1e-5, f"pixels {gap:.1e} off"
    matrix = scaling(size, shape)
    limit = 4e-7 * max(*size, *shape, 100)
    for got, given in ((moved.view(2, -1, 2), boxes.view(2, -1, 2)), (spots, points)):
        exact = given.double().numpy() @ matrix[:2, :2].T
        gap = float(np.abs(got.double().numpy() + 0.5 - exact).max())
        assert gap <= limit, f"points {gap:.1e} off"
    nearest = torch.nn.functional.interpolate(rectangles.double(), shape, mode="nearest-exact").float()
    assert torch.equal(masks, nearest), "masks are off"
    for mask, whole in zip(masks.flatten(0, 1), boxes.round().flatten(0, 1).double().numpy(), strict=True):
        shown = mask.nonzero()
        if len(shown):  # the mask's own box lies within a pixel of the moved box
            found = np.array([*shown.amin(0).flip(0).tolist(), *(shown.amax(0).flip(0) + 1).tolist()])
            gap = float(np.abs(found - whole * np.tile(np.diag(matrix)[:2], 2)).max())
            assert gap <= 1.0, f"masks and boxes {gap:.2f} apart"
    return shape


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("square", [False, True])
def test_targets_follow_the_pixels_at_every_resolution(square: bool, device: str) -> None:
    operation = ScheduledResize(Linear(64, 128, epochs=3), square=square)
    for epoch, resolution in enumerate((64, 96, 128, 128)):
        operation.set_epoch(epoch)
        assert operation.resolution == resolution
        for size in SIZES:
            height, width = check(operation, size, device)
            assert height % 32 == width % 32 == 0
            if square:
                assert height == width == resolution
            else:
                exact = resolution * np.sqrt(size[0] / size[1]), resolution * np.sqrt(size[1] / size[0])
                assert abs(height - max(32, exact[0])) <= 16
                assert abs(width - max(32, exact[1])) <= 16


def test_ratio_and_area_are_kept_where_the_stride_allows() -> None:
    for size in SIZES:
        height, width = check(ScheduledResize(120, stride=1), size)
        assert height * width == pytest.approx(120**2, rel=0.02)
        assert width / height == pytest.approx(size[1] / size[0], rel=0.02)


class AlignedCorners(ScheduledResize):
    """A planted fault: align_corners=True."""

    def apply_transform(self, images: torch.Tensor, params: object, flags: object, transform: object = None) -> object:
        size = self.choose(tuple(images.shape[-2:]))
        return torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=True)


class Aliased(ScheduledResize):
    """A planted fault: no antialias."""

    def apply_transform(self, images: torch.Tensor, params: object, flags: object, transform: object = None) -> object:
        return torch.nn.functional.interpolate(images, self.choose(tuple(images.shape[-2:])), mode="bilinear")


class NoHalfPixel(ScheduledResize):
    """A planted fault: the matrix of edges where Kornia counts centres."""

    def compute_transformation(self, images: torch.Tensor, params: object, flags: object) -> torch.Tensor:
        size = tuple(images.shape[-2:])
        return torch.tensor(scaling(size, self.choose(size)), dtype=torch.float32).expand(len(images), 3, 3)


class Transposed(ScheduledResize):
    """A planted fault: masks are a pixel away."""

    def apply_transform_mask(self, *arguments: object, **options: object) -> torch.Tensor:
        return super().apply_transform_mask(*arguments, **options).roll(1, -1)


@pytest.mark.parametrize(
    ("fault", "caught"),
    [(AlignedCorners, "pixels"), (Aliased, "pixels"), (NoHalfPixel, "points"), (Transposed, "masks")],
)
def test_planted_faults_are_caught(fault: type[ScheduledResize], caught: str) -> None:
    check(ScheduledResize(96), (200, 150))
    with pytest.raises(AssertionError, match=caught):
        check(fault(96), (200, 150))


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(64),
        Linear(64, 128, epochs=5),
        Cosine(64, 128, epochs=5),
        Steps({0: 64, 2: 96}),
        Cyclic(64, 128, period=4),
        Linear(64, 128, epochs=3, within_epoch=True),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_the_resolution_is_the_schedules(schedule: Linear) -> None:
    size = 1000
    by_epoch = ScheduledResize(schedule)
    by_samples = ScheduledResize(schedule, epoch_size=size)
    for epoch in range(7):
        expected = int(schedule(np.array([epoch * size]), size, 0)[0])
        by_epoch.set_epoch(epoch)
        by_samples.set_epoch(epoch)
        assert by_epoch.resolution == by_samples.resolution == expected
        by_samples.set_progress(epoch * size + 500)
        assert by_samples.resolution == int(schedule(np.array([epoch * size + 500]), size, 0)[0])


def test_random_resolutions_are_those_of_the_loader() -> None:
    schedule, samples = RandomMultiScale((64, 96, 128), every=320), np.arange(0, 6400, 64)
    operation = ScheduledResize(schedule, epoch_size=1000, seed=7)
    drawn = []
    for used in samples.tolist():
        operation.set_progress(used)
        drawn.append(operation.resolution)
    assert drawn == schedule(samples, 1000, 7).tolist()
    assert set(drawn) == {64, 96, 128}


def test_a_replay_keeps_the_shape_it_was_drawn_with() -> None:
    operation = ScheduledResize(Steps({0: 64, 1: 96}))
    sequence = AugmentationSequential(operation, data_keys=["input", "bbox_xyxy"])
    images, boxes = batch((64, 64)), torch.tensor([[[1.0, 2, 30, 40]]]).repeat(2, 1, 1)
    first = sequence(images, boxes)
    drawn = sequence._params
    operation.set_epoch(1)
    assert sequence(images, boxes)[0].shape[2:] == (96, 96)
    again = sequence(images, boxes, params=drawn)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    back = sequence.inverse(*first, params=drawn)
    assert back[0].shape == images.shape
    assert torch.allclose(back[1], boxes, atol=1e-4)


def test_any_channels_and_gradients() -> None:
    images = torch.rand(2, 5, 20, 30, dtype=torch.float64, requires_grad=True)
    resized = ScheduledResize(32, stride=4)(images)
    assert resized.shape == (2, 5, 28, 40)
    resized.sum().backward()
    assert images.grad is not None
    assert float(images.grad.sum()) == pytest.approx(28 * 40 * 10)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="resolution must be a whole number of pixels or a schedule; got 'big'"):
        ScheduledResize("big")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"ScheduledResize.stride must be a whole number of at least 1; got 0"):
        ScheduledResize(64, stride=0)
    with pytest.raises(ConfigError, match="needs epoch_size with RandomMultiScale, which counts samples; got None"):
        ScheduledResize(RandomMultiScale((64, 96)))
    with pytest.raises(ConfigError, match=r"ScheduledResize.seed must be a whole number in \[0, 2\*\*64\); got -1"):
        ScheduledResize(64, seed=-1)
    with pytest.raises(ConfigError, match=r"set_progress counts samples.*Pass epoch_size=, or call set_epoch"):
        ScheduledResize(64).set_progress(5)
    with pytest.raises(ConfigError, match="set_epoch: epoch must be a whole number of at least 0; got -1"):
        ScheduledResize(64).set_epoch(-1)
