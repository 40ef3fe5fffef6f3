import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from resflow.errors import ConfigError, PlanError
from resflow.plan import Buckets, learn_buckets
from tests.data import real

Sizes = npt.NDArray[np.int32]


def all_shapes(resolution: int, stride: int, tolerance: float) -> list[tuple[int, int]]:
    most = int(resolution**2 * 2 / stride)
    sides = range(stride, most + 1, stride)
    return [
        (h, w)
        for h in sides
        for w in range(stride, int(2 * resolution**2 / h) + stride, stride)
        if abs(h * w - resolution**2) <= tolerance * resolution**2 + 1e-9
    ]


def loss_of(size: tuple[int, int], shape: tuple[int, int], max_crop: float) -> float:
    """Share padded plus share cropped, by placing rectangles."""
    (h, w), (height, width) = size, shape
    contain, cover = min(height / h, width / w), max(height / h, width / w)
    scale = cover if max_crop == 1 else min(cover, contain / (1 - max_crop))
    seen = min(height, h * scale) * min(width, w * scale)
    return (1 - seen / (height * width)) + (1 - seen / (h * w * scale**2))


def wasted_share(size: Sizes, shapes: list[tuple[int, int]], max_crop: float) -> float:
    """Least share wasted when each image may take any of the shapes."""
    areas = np.array([h * w for h, w in shapes], dtype=float)
    loss = np.array([[loss_of(tuple(s), shape, max_crop) for shape in shapes] for s in size.tolist()]) * areas
    share = 1.0
    for _ in range(50):
        pick = (loss - share * areas).argmin(axis=1)
        better = loss[np.arange(len(size)), pick].sum() / areas[pick].sum()
        if better >= share - 1e-13:
            break
        share = better
    return float(share)


def share_of(size: Sizes, buckets: Buckets, resolution: int, max_crop: float) -> float:
    shapes = buckets.shape(buckets.assign(size), resolution).tolist()
    lost = sum(h * w * loss_of(tuple(s), (h, w), max_crop) for s, (h, w) in zip(size.tolist(), shapes, strict=True))
    return float(lost / sum(h * w for h, w in shapes))


def random_sizes(seed: int, n: int, spread: float = 0.4) -> Sizes:
    rng = np.random.default_rng(seed)
    height = rng.integers(200, 900, n)
    width = np.maximum(1, height * np.exp(rng.normal(0.1, spread, n)))
    return np.stack([height, width], axis=1).astype(np.int32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("resolution", "stride"), [(128, 32), (160, 32), (144, 32), (96, 16)])
@pytest.mark.parametrize("max_crop", [0.0, 0.1, 1.0])
def test_no_choice_of_shapes_wastes_less(seed: int, resolution: int, stride: int, max_crop: float) -> None:
    size = random_sizes(seed, 15)
    extreme = np.abs(np.log(size[:, 1] / size[:, 0])).max() + 0.5
    shapes = [s for s in all_shapes(resolution, stride, 0.15) if abs(math.log(s[1] / s[0])) < extreme]
    for k in (1, 2, 3):
        if math.comb(len(shapes), k) > 300:
            continue
        least = min(wasted_share(size, list(subset), max_crop) for subset in itertools.combinations(shapes, k))
        buckets = learn_buckets(size, k, resolutions=[resolution], stride=stride, max_crop=max_crop)
        assert len(buckets) <= k
        assert share_of(size, buckets, resolution, max_crop) == pytest.approx(least, abs=1e-9)


def test_a_worse_choice_is_seen_as_worse() -> None:
    size = random_sizes(0, 15)
    buckets = learn_buckets(size, 3, resolutions=[160], stride=32)
    moved = Buckets(buckets.edges, buckets.resolutions, np.roll(buckets.shapes, 1, axis=1), 32)
    assert share_of(size, moved, 160, 0.0) > share_of(size, buckets, 160, 0.0) + 0.01


@pytest.mark.parametrize("n", [40, 3000, 70_000])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_portrait_and_landscape_are_treated_alike(n: int, k: int) -> None:
    size = random_sizes(3, n)
    one = learn_buckets(size, k, resolutions=[128, 224], stride=32)
    other = learn_buckets(np.ascontiguousarray(size[:, ::-1]), k, resolutions=[128, 224], stride=32)
    assert one.shapes.tolist() == other.shapes[:, ::-1, ::-1].tolist()
    np.testing.assert_allclose(one.edges, 1 / other.edges[::-1], rtol=1e-9)


def test_shapes_are_multiples_within_the_area_and_in_order() -> None:
    size = random_sizes(4, 2000)
    for tolerance in (0.05, 0.15, 0.3):
        buckets = learn_buckets(size, 8, resolutions=[192, 224, 640], stride=32, area_tolerance=tolerance)
        target = buckets.resolutions[:, None].astype(float) ** 2
        assert (buckets.shapes % 32 == 0).all()
        assert (np.abs(buckets.shapes.prod(axis=2) - target) <= tolerance * target + 1e-6).all()
        ratios = buckets.shapes[:, :, 1] / buckets.shapes[:, :, 0]
        assert (np.diff(ratios, axis=1) >= 0).all()
        assert buckets.resolutions.tolist() == [192, 224, 640]


def test_more_shapes_never_waste_more() -> None:
    size = random_sizes(5, 500)
    shares = [share_of(size, learn_buckets(size, k, resolutions=[224], stride=32), 224, 0.0) for k in range(1, 10)]
    assert shares == sorted(shares, reverse=True)


def test_many_ratios_cost_little_precision() -> None:
    size = random_sizes(6, 100_000)
    binned = learn_buckets(size, 6, resolutions=[224], stride=32)
    sample = learn_buckets(size[:900], 6, resolutions=[224], stride=32)
    assert share_of(size[:3000], binned, 224, 0.0) <= share_of(size[:3000], sample, 224, 0.0) + 0.002


def test_fewer_buckets_when_fewer_help() -> None:
    square = np.full((10, 2), 300, dtype=np.int32)
    buckets = learn_buckets(square, 8, resolutions=[224], stride=32)
    assert buckets.shapes.tolist() == [[[224, 224]]]
    assert len(learn_buckets(random_sizes(0, 300), 50, resolutions=[64], stride=32)) < 8
    two = np.array([[300, 300], [300, 450]] * 5, dtype=np.int32)
    assert len(learn_buckets(two, 8, resolutions=[224], stride=32)) == 2


def test_no_wide_shape_for_an_image_that_is_a_line() -> None:
    size = np.concatenate([random_sizes(0, 100), np.array([[1, 60_000]], dtype=np.int32)])
    buckets = learn_buckets(size, 8, resolutions=[224], stride=32)
    assert (buckets.shapes[0, :, 1] / buckets.shapes[0, :, 0]).max() <= 10


@pytest.mark.parametrize("resolution", [8, 20, 31])
def test_resolution_below_the_stride_is_refused(resolution: int) -> None:
    message = f"no shape at resolution {resolution}: it is below stride 32, .* Raise the resolution or lower the stride"
    with pytest.raises(PlanError, match=message):
        learn_buckets(random_sizes(0, 10), 2, resolutions=[224, resolution], stride=32)


def test_resolution_beyond_any_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="resolutions must be at most 65535 pixels; got 1000000"):
        learn_buckets(random_sizes(0, 10), 2, resolutions=[10**6], stride=16)


@pytest.mark.parametrize("resolution", [38, 40, 50])
def test_resolution_without_a_shape_of_its_area_is_refused(resolution: int) -> None:
    message = (
        rf"no shape at resolution {resolution}: .*stride 32 have an area within 15% of {resolution}x{resolution}. "
        "Raise the resolution, lower the stride, or widen area_tolerance."
    )
    with pytest.raises(PlanError, match=message):
        learn_buckets(random_sizes(0, 5), 2, resolutions=[224, resolution], stride=32)


def test_no_images_are_refused() -> None:
    with pytest.raises(PlanError, match="no buckets can be learned from no images"):
        learn_buckets(np.empty((0, 2), dtype=np.int32), 8, resolutions=[224], stride=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must be at least 1; got 0"),
        ({"stride": 0}, "stride must be at least 1; got 0"),
        ({"resolutions": []}, r"resolutions must name at least one positive resolution; got \[\]"),
        ({"max_crop": -0.1}, r"max_crop must be in \[0, 1\]; got -0.1"),
        ({"area_tolerance": 1.0}, r"area_tolerance must be in \[0, 1\); got 1.0"),
        ({"size": np.array([[3, 0]], dtype=np.int32)}, "size must be positive; got 0 for sample 0"),
        ({"size": np.array([3, 4], dtype=np.int32)}, r"size must be int32 \[N,2\], height and width; got int32 \[2\]"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, object], message: str) -> None:
    arguments = {"size": random_sizes(0, 5), "k": 2, "resolutions": [224], "stride": 32} | changes
    with pytest.raises(ConfigError, match=message):
        learn_buckets(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("folder", "resolution", "most"), [("imagenet500", 224, 0.02), ("coco-mini", 640, 0.012)])
def test_padding_of_real_images(folder: str, resolution: int, most: float) -> None:
    paths = sorted(real(folder).rglob("*.[jJ][pP]*[gG]"))
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append(image.size[::-1])
    size = np.array(sizes, dtype=np.int32)
    buckets = learn_buckets(size, 8, resolutions=[resolution], stride=32)
    shapes = buckets.shape(buckets.assign(size), resolution)
    placed = np.maximum(1, np.rint(size * (shapes / size).min(axis=1)[:, None]))
    assert len(buckets) == 8
    assert 1 - placed.prod(axis=1).sum() / shapes.prod(axis=1).sum() <= most
