import numpy as np
import pytest

from resflow.errors import ConfigError, PlanError
from resflow.plan import Buckets
from resflow.plan.buckets import fit_loss


def make_buckets(**changes: object) -> Buckets:
    fields = {
        "edges": np.array([0.8, 1.25]),
        "resolutions": np.array([128, 224], dtype=np.int32),
        "shapes": np.array([[[160, 96], [128, 128], [96, 160]], [[256, 192], [224, 224], [192, 256]]], dtype=np.int32),
        "stride": 32,
    }
    return Buckets(**(fields | changes))  # type: ignore[arg-type]


def test_assign_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(1, 500, (5000, 2), dtype=np.int32)
    buckets = make_buckets()
    expected = [sum(np.float32(w / h) >= edge for edge in (0.8, 1.25)) for h, w in size.tolist()]
    got = buckets.assign(size)
    assert got.dtype == np.int16
    assert got.tolist() == expected


def test_a_ratio_on_an_edge_belongs_above() -> None:
    size = np.array([[100, 125], [1000, 1249], [125, 100], [1, 1]], dtype=np.int32)
    assert make_buckets(edges=np.array([0.75, 1.25])).assign(size).tolist() == [2, 1, 1, 1]


def test_shape_of_one_and_of_many() -> None:
    buckets = make_buckets()
    assert buckets.shape(0, 224) == (256, 192)
    assert buckets.shape(np.array([2, 0, 1]), np.array([128, 224, 128])).tolist() == [[96, 160], [256, 192], [128, 128]]
    assert buckets.shape(np.array([2, 0]), 224).tolist() == [[192, 256], [256, 192]]
    assert buckets.shape(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).shape == (0, 2)


@pytest.mark.parametrize("resolution", [127, 129, 64, 320])
def test_an_unknown_resolution_is_refused(resolution: int) -> None:
    with pytest.raises(
        PlanError, match=rf"no shapes at resolution {resolution}; they have \[128, 224\]. Learn them with"
    ):
        make_buckets().shape(0, resolution)
    with pytest.raises(PlanError, match=f"no shapes at resolution {resolution}"):
        make_buckets().shape(np.array([0, 0]), np.array([128, resolution]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": np.array([1.25, 0.8])}, r"edges must be positive and ascending; got \[1.25, 0.8\]"),
        ({"edges": np.array([0.0, 0.8])}, "edges must be positive"),
        ({"edges": np.array([0.8])}, r"int32 \[R,K,2\].*here \[2, 2, 2\]; got \[2, 3, 2\]"),
        ({"edges": np.array([0.8, 1.25], dtype=np.float32)}, "edges must be float64 with 1 axes; got float32"),
        (
            {"resolutions": np.array([224, 128], dtype=np.int32)},
            r"resolutions must be positive and ascending; got \[224",
        ),
        ({"stride": 64}, "multiples of stride 64"),
        ({"max_crop": 1.5}, r"max_crop must be in \[0, 1\]; got 1.5"),
    ],
)
def test_bad_fields_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_buckets(**changes)


@pytest.mark.parametrize("max_crop", [0.0, 0.05, 0.3, 1.0])
def test_loss_is_that_of_placing_rectangles(max_crop: float) -> None:
    rng = np.random.default_rng(1)
    for height, width, h, w in rng.uniform(10, 300, (200, 4)).tolist():
        contain, cover = min(height / h, width / w), max(height / h, width / w)
        scale = min(cover, contain / (1 - max_crop)) if max_crop < 1 else cover
        seen = min(height, h * scale) * min(width, w * scale)  # area of the image inside the shape
        padded, cropped = fit_loss(np.log([w / h]), np.log([width / height]), max_crop)
        assert padded[0] == pytest.approx(1 - seen / (height * width), abs=1e-9)
        assert cropped[0] == pytest.approx(1 - seen / (h * w * scale**2), abs=1e-9)
        assert cropped[0] <= max_crop + 1e-9


def test_squares_are_one_bucket() -> None:
    buckets = Buckets.square(224, 160, 224, stride=32)
    assert len(buckets) == 1
    assert buckets.assign(np.array([[10, 999], [999, 10]], dtype=np.int32)).tolist() == [0, 0]
    assert buckets.shape(0, 160) == (160, 160)
    assert buckets.resolutions.tolist() == [160, 224]
    with pytest.raises(ConfigError, match="positive multiples of stride 32"):
        Buckets.square(100, stride=32)
    with pytest.raises(ConfigError):
        Buckets.square()
