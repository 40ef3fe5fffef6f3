"""DynamicPadCrop: Fit's geometry as a Kornia augmentation, images, masks, boxes and keypoints alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
from kornia.constants import DataKey

from resflow.augment.pad_crop import DynamicPadCrop
from resflow.augment.shape import snapped_shape
from resflow.errors import ConfigError, PlanError
from resflow.geometry import Fit
from resflow.plan import learn_buckets
from tests.decode.reference import reference_place
from tests.decode.samples import picture

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KEYS = ["input", "mask", "bbox", "bbox_xyxy", "keypoints"]
SIZES = ((37, 61), (61, 37), (40, 40), (9, 200), (130, 70))
SHAPES = ((64, 64), (32, 96), (45, 23))
FITS = (Fit(), Fit(max_crop=0.1), Fit(max_crop=1.0), Fit(max_upscale=1.0), Fit.stretch())


def expected_matrix(fit: Fit, size: tuple[int, int], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Fit's definition, written again: float64 [3, 3], continuous edges."""
    if fit.stretched:
        placed = [float(side) for side in shape]
    else:
        contain = min(shape[0] / size[0], shape[1] / size[1])
        cover = max(shape[0] / size[0], shape[1] / size[1])
        scale = cover if fit.max_crop == 1 else min(cover, contain / (1 - fit.max_crop))
        scale = min(scale, fit.max_upscale or scale)
        placed = [scale * side for side in size]
        placed = [min(max(1, round(p)), room) if p < room + 1e-6 else p for p, room in zip(placed, shape, strict=True)]
    offset = [(room - p) / 2 for p, room in zip(placed, shape, strict=True)]
    offset = [np.floor(o) if o >= 0 else o for o in offset]
    (high, wide), (top, left) = placed, offset
    return np.array([[wide / size[1], 0, left], [0, high / size[0], top], [0, 0, 1.0]])


def boxes_in(size: tuple[int, int], count: int = 6) -> torch.Tensor:
    """float32 [count, 4], left, top, right, bottom in continuous pixel edges."""
    rng = np.random.default_rng(3)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [size[1], size[0]]
    return torch.tensor(corners.reshape(count, 4), dtype=torch.float32)


def moved(matrix: npt.NDArray[np.float64], points: torch.Tensor) -> npt.NDArray[np.float64]:
    """Points [..., 2] in float64."""
    return points.double().numpy() @ matrix[:2, :2].T + matrix[:2, 2]


def check(
    operation: DynamicPadCrop,
    matrix: npt.NDArray[np.float64],
    size: tuple[int, int],
    shape: tuple[int, int],
    fill: tuple[float, float, float],
    device: str = "cpu",
) -> None:
    """Send everything through a container and hold it against one float64 matrix."""
    pixels = picture(*size)
    images = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div(255)[None].repeat(2, 1, 1, 1)
    label = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size).repeat(2, 1, 1, 1)
    boxes = boxes_in(size)[None].repeat(2, 1, 1)
    left, top, right, bottom = boxes.unbind(-1)
    vertices = torch.stack(
        [torch.stack(p, -1) for p in ((left, top), (right, top), (right, bottom), (left, bottom))], -2
    )
    points = boxes[..., :2]
    sequence = AugmentationSequential(operation, data_keys=KEYS)
    sent = (images, label, vertices - 0.5, boxes - 0.5, points - 0.5)
    results = [result.cpu() for result in sequence(*[tensor.to(device) for tensor in sent])]
    placed, masks, quads, corners, spots = results
    assert placed.shape == (2, 3, *shape)
    assert masks.shape == (2, 1, *shape)

    limit = 4e-7 * max(*size, *shape, 100) * max(1.0, *(s / t for s, t in zip(shape, size, strict=True)))
    for got, given in ((quads, vertices), (corners.view(2, -1, 2, 2), boxes.view(2, -1, 2, 2)), (spots, points)):
        gap = np.abs(got.double().numpy() + 0.5 - moved(matrix, given))
        assert gap.max() <= limit, f"points {gap.max():.2e} off"
    kornia = (
        np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]]) @ matrix @ np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    )
    assert np.allclose(sequence.transform_matrix.cpu().numpy(), kornia, rtol=1e-6, atol=1e-5)

    expected, inside = reference_place(pixels, matrix, shape)
    for image, mask in zip(placed, masks, strict=True):
        got = image.permute(1, 2, 0).double().numpy()
        assert np.abs(got[~inside] - fill).max(initial=0) < 1e-6, "padding is not the fill"
        gap = np.abs(got[inside] - expected[inside] / 255)
        assert gap.max(initial=0) < 1e-4, f"pixels {gap.max():.2e} off"
        assert (mask[0].numpy()[~inside] == operation.flags["mask_fill"]).all(), "padding of the mask is not its fill"
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
        back = np.linalg.inv(matrix)
        column = np.floor(np.round(back[0, 0] * x + back[0, 2], 6))
        row = np.floor(np.round(back[1, 1] * y + back[1, 2], 6))
        assert np.array_equal(mask[0].numpy()[inside], (row * size[1] + column)[inside]), "mask is off"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fit", FITS, ids=str)
def test_all_targets_follow_one_matrix(fit: Fit, device: str) -> None:
    for size in SIZES:
        for shape in SHAPES:
            operation = DynamicPadCrop(shape, fit=fit, mask_fill=-7)
            fill = tuple(colour / 255 for colour in fit.fill)
            check(operation, expected_matrix(fit, size, shape), size, shape, fill, device)


class AlignedCorners(DynamicPadCrop):
    """A planted fault: corner pixels' centres are mapped onto each other."""

    def edge_matrix(self, size: tuple[int, int], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
        sy, sx = ((after - 1) / (before - 1) for before, after in zip(size, shape, strict=True))
        return np.array([[[sx, 0, 0.5 - 0.5 * sx], [0, sy, 0.5 - 0.5 * sy], [0, 0, 1.0]]])


class NoHalfPixel(DynamicPadCrop):
    """A planted fault: the edge matrix is handed to Kornia, which counts centres."""

    def compute_transformation(self, images: torch.Tensor, params: object, flags: object) -> torch.Tensor:
        matrix = self.edge_matrix(tuple(images.shape[-2:]), self.shape)
        return torch.as_tensor(matrix, dtype=torch.float32).expand(len(images), 3, 3)


class Aliased(DynamicPadCrop):
    """A planted fault: images are not antialiased."""

    def apply_transform(
        self, images: torch.Tensor, params: object, flags: object, transform: object = None
    ) -> torch.Tensor:
        return torch.nn.functional.interpolate(images, self.shape, mode="bilinear")


@pytest.mark.parametrize(
    ("fault", "caught"), [(AlignedCorners, "points"), (NoHalfPixel, "points"), (Aliased, "pixels")]
)
def test_planted_faults_are_caught(fault: type[DynamicPadCrop], caught: str) -> None:
    fit, size, shape = Fit.stretch(), (130, 70), (45, 23)
    matrix, fill = expected_matrix(fit, size, shape), (0.0, 0.0, 0.0)
    check(DynamicPadCrop(shape, fit=fit), matrix, size, shape, fill)
    with pytest.raises(AssertionError, match=caught):
        check(fault(shape, fit=fit), matrix, size, shape, fill)


def test_inverse_takes_everything_back() -> None:
    size, shape = (37, 61), (64, 64)
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij"))
    images = torch.cat([grid, grid[:1]])[None]  # smooth, so that resampling twice keeps it
    label = (grid[:1] > 0.5)[None].float() + 1
    boxes = boxes_in(size)[None]
    for fit, seen in ((Fit(), slice(0, 61)), (Fit.stretch(), slice(0, 61)), (Fit(max_crop=1.0), slice(13, 48))):
        sequence = AugmentationSequential(DynamicPadCrop(shape, fit=fit), data_keys=["input", "mask", "bbox_xyxy"])
        back = sequence.inverse(*sequence(images, label, boxes - 0.5))
        assert torch.allclose(back[0][..., seen], images[..., seen], atol=0.02)
        assert torch.equal(back[1][..., seen], label[..., seen])
        assert torch.allclose(back[2] + 0.5, boxes, atol=1e-4)
    assert torch.allclose(back[0][0, :, 0, 0], torch.tensor(Fit().fill) / 255)  # cut off by max_crop=1
    assert float(back[1][0, 0, 0, 0]) == 0.0


def test_it_composes_with_other_augmentations_and_replays() -> None:
    images, boxes = torch.rand(3, 3, 20, 31), boxes_in((20, 31))[None].repeat(3, 1, 1)
    sequence = AugmentationSequential(
        RandomHorizontalFlip(p=0.5), DynamicPadCrop((32, 32)), data_keys=["input", "bbox_xyxy"]
    )
    first = sequence(images, boxes - 0.5)
    again = sequence(images, boxes - 0.5, params=sequence._params)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    matrix = sequence.transform_matrix.double()
    corners = (boxes - 0.5).double().view(3, -1, 2, 2)
    expected = corners @ matrix[:, None, :2, :2].mT + matrix[:, None, None, :2, 2]
    low, high = expected.amin(-2), expected.amax(-2)
    assert torch.allclose(first[1].double(), torch.cat([low, high], -1), atol=1e-4)


def test_masks_of_many_kinds() -> None:
    images = torch.rand(2, 3, 20, 31)
    sequence = AugmentationSequential(DynamicPadCrop((32, 32)), data_keys=["input", "mask"])
    label = torch.randint(1, 200, (2, 20, 31))
    assert sequence(images, label)[1].dtype == torch.int64
    assert sequence(images, label)[1].shape == (2, 1, 32, 32)
    assert int(sequence(images, label)[1][0, 0, 0, 0]) == 0
    ignored = AugmentationSequential(
        DynamicPadCrop((32, 32)),
        data_keys=["input", "mask"],
        extra_args={DataKey.MASK: {"resample": "nearest", "mask_fill": 255}},
    )
    assert int(ignored(images, label)[1][0, 0, 0, 0]) == 255
    many = [torch.ones(4, 20, 31), torch.ones(0, 20, 31)]
    assert [tuple(mask.shape) for mask in sequence(images, many)[1]] == [(1, 4, 32, 32), (1, 0, 32, 32)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    operation = DynamicPadCrop((32, 48))
    placed = operation(torch.rand(2, 3, 20, 31, dtype=dtype))
    assert placed.dtype == dtype
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    assert operation.transform_matrix.dtype == exact
    with pytest.raises(TypeError, match="uint8"):
        operation(torch.zeros(2, 3, 20, 31, dtype=torch.uint8))


def test_one_image_and_none() -> None:
    assert DynamicPadCrop((32, 48))(torch.rand(3, 20, 31)).shape == (1, 3, 32, 48)
    assert DynamicPadCrop((32, 48), keepdim=True)(torch.rand(3, 20, 31)).shape == (3, 32, 48)
    assert DynamicPadCrop((32, 48))(torch.rand(0, 3, 20, 31)).shape == (0, 3, 32, 48)


def test_the_shape_follows_the_batch() -> None:
    sizes = np.array([[480, 640], [640, 480], [500, 500], [300, 900]] * 5, dtype=np.int32)
    buckets = learn_buckets(sizes, 4, resolutions=[64, 128], stride=16)
    for size in ((48, 64), (64, 48), (50, 50), (30, 90)):
        images = torch.rand(1, 3, *size)
        expected = tuple(buckets.shape(int(buckets.assign(np.array([size], dtype=np.int32))[0]), 64))
        assert tuple(DynamicPadCrop(buckets=buckets, resolution=64)(images).shape[2:]) == expected
        assert tuple(DynamicPadCrop(resolution=64, stride=16)(images).shape[2:]) == snapped_shape(
            size[1] / size[0], 64, 16
        )
    assert DynamicPadCrop(buckets=buckets)(torch.rand(1, 3, 50, 50)).shape[2:] == (128, 128)
    assert DynamicPadCrop(stride=16)(torch.rand(1, 3, 50, 90)).shape[2:] == (48, 96)
    assert DynamicPadCrop()(torch.rand(1, 3, 5, 9)).shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("ratio", "resolution", "stride", "shape"),
    [(1, 224, 32, (224, 224)), (4 / 3, 640, 32, (544, 736)), (3 / 4, 640, 32, (736, 544)), (100, 64, 32, (32, 640))],
)
def test_snapped_shape(ratio: float, resolution: int, stride: int, shape: tuple[int, int]) -> None:
    assert snapped_shape(ratio, resolution, stride) == shape


def test_wrong_arguments_are_refused() -> None:
    buckets = learn_buckets(np.array([[480, 640]] * 5, dtype=np.int32), 1, resolutions=[64], stride=16)
    with pytest.raises(ConfigError, match="takes a shape, or a resolution and buckets to choose one; got both"):
        DynamicPadCrop((32, 32), resolution=64)
    with pytest.raises(ConfigError, match=r"DynamicPadCrop.shape must be a height and a width in pixels; got 32"):
        DynamicPadCrop(32)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"DynamicPadCrop.shape must be a whole number of at least 1; got 0"):
        DynamicPadCrop((32, 0))
    with pytest.raises(ConfigError, match=r"DynamicPadCrop.stride must be a whole number of at least 1; got 1\.5"):
        DynamicPadCrop(stride=1.5)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="the buckets have no shapes at resolution 65"):
        DynamicPadCrop(buckets=buckets, resolution=65)
    with pytest.raises(ConfigError, match=r"got images with 1 channels. Pass fill=, in the images' own range"):
        DynamicPadCrop((32, 32))(torch.rand(2, 1, 20, 31))
    with pytest.raises(ConfigError, match="inverse needs the shape that went in"):
        DynamicPadCrop((32, 32)).inverse_transform(torch.rand(2, 3, 32, 32), {})
