from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from resflow.errors import TargetError
from resflow.geometry import Fit
from resflow.targets import invert_boxes, invert_keypoints, invert_masks, invert_predictions
from tests.targets.scenes import PAIRS, nearest, placed, single, turned

GEOMETRY = placed([(20, 30), (40, 10)], (20, 20))


def test_boxes_by_hand() -> None:
    first = torch.tensor([[0, 4, 20, 17.0], [2, 3, 25, 16]])
    boxes = invert_boxes([first, torch.zeros(0, 4)], GEOMETRY)
    # 20x30 is scaled by 13/20 and 20/30, 3 rows above it
    np.testing.assert_allclose(boxes[0], [[0, 20 / 13, 30, 20], [3, 0, 30, 20]], atol=1e-5)
    assert boxes[1].shape == (0, 4)
    free = invert_boxes([first, torch.zeros(0, 4)], GEOMETRY, clip=False)
    np.testing.assert_allclose(free[0][:, 2:], [[30, 14 * 20 / 13], [37.5, 20]], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_tensors_stay_tensors_and_are_precise(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[[4, 5, 16, 12]], [[8, 3, 9, 17]]], dtype=dtype)
    got = invert_boxes(boxes, GEOMETRY)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(got, torch.stack(invert_boxes(list(boxes), GEOMETRY)))
    points = torch.cat([boxes, boxes[..., :2]], -1).reshape(2, 1, 3, 2)
    assert invert_keypoints(points, GEOMETRY).shape == (2, 1, 3, 2)
    assert not got.requires_grad


def test_keypoints_not_labelled_stay_and_scores_are_kept() -> None:
    points = torch.tensor([[[0, 0, 0], [10, 10, 0.3], [0, 0, 2.0]]])
    got = invert_keypoints([points, points], GEOMETRY)
    np.testing.assert_allclose(got[0][0], [[0, 0, 0], [15, 7 * 20 / 13, 0.3], [0, -3 * 20 / 13, 2]], atol=1e-4)


def test_predictions_keep_what_they_have() -> None:
    geometry = placed([(20, 30), (40, 10)], (20, 20), flip="x")
    one = {
        "boxes": torch.tensor([[2, 3, 8, 9.0]]),
        "labels": torch.tensor([4]),
        "scores": torch.tensor([0.5]),
        "masks": torch.rand(1, 1, 20, 20),
        "keypoints": torch.rand(1, 5, 3) * 20,
        "keypoints_scores": torch.arange(5.0)[None],
    }
    none = {name: value[:0] for name, value in one.items() if name not in ("keypoints", "keypoints_scores")}
    got = invert_predictions([one, none], geometry, pairs=PAIRS)
    assert list(got[0]) == list(one)
    assert list(got[1]) == list(none)
    assert got[0]["labels"] is one["labels"]
    assert got[0]["masks"].shape == (1, 1, 20, 30)
    assert got[1]["masks"].shape == (0, 1, 40, 10)
    assert got[0]["keypoints_scores"].tolist() == [[0, 2, 1, 4, 3]]
    assert torch.equal(got[0]["boxes"], invert_boxes([one["boxes"], none["boxes"]], geometry)[0])
    straight = invert_predictions([one, none], placed([(20, 30), (40, 10)], (20, 20)), pairs=PAIRS)
    assert straight[0]["keypoints_scores"].tolist() == [[0, 1, 2, 3, 4]]


def test_whole_numbers_by_the_nearest() -> None:
    size, shape = (20, 30), (17, 23)
    rng = np.random.default_rng(0)
    for matrix in (placed([size], shape, Fit(max_crop=0.5), "x").matrix[0], turned(25, 0.8, size, shape)):
        for dtype in (torch.bool, torch.uint8, torch.int64):
            maps = torch.from_numpy(rng.integers(0, 2, (1, 2, *shape))).to(dtype)
            (got,) = invert_masks(maps, single(matrix, size, shape))
            assert got.dtype == dtype
            for plane, source in zip(got, maps[0], strict=True):
                right = nearest(source.numpy().astype(np.uint8), np.linalg.inv(matrix), size)
                np.testing.assert_array_equal(plane.numpy().astype(np.uint8), right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_probabilities_by_interpolation(dtype: torch.dtype) -> None:
    size, shape = (40, 60), (20, 30)
    scores = torch.rand(1, 3, *shape).to(dtype)
    (got,) = invert_masks(scores, placed([size], shape))
    right = functional.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)[0]
    assert got.dtype == dtype
    torch.testing.assert_close(got, right.to(dtype), atol=1e-5 if dtype == torch.float32 else 1e-3, rtol=0)
    (flipped,) = invert_masks(scores.flip(-1), placed([size], shape, flip="x"))
    torch.testing.assert_close(flipped, got, atol=1e-5 if dtype == torch.float32 else 1e-3, rtol=0)


def test_source_pixels_that_the_batch_does_not_show_are_filled() -> None:
    geometry = placed([(20, 60)], (20, 20), Fit(max_crop=1))
    shown = np.zeros((20, 60), bool)
    shown[:, 20:40] = True
    for maps in (torch.ones(1, 20, 20), torch.ones(1, 20, 20, dtype=torch.int64)):
        (got,) = invert_masks(maps, geometry, fill=-7)
        np.testing.assert_array_equal(got.numpy() == 1, shown)
        np.testing.assert_array_equal(got.numpy() == -7, ~shown)


def test_no_images() -> None:
    none = placed([], (20, 20))
    assert invert_boxes([], none) == []
    assert invert_boxes(torch.zeros(0, 5, 4), none).shape == (0, 5, 4)
    assert invert_masks(torch.zeros(0, 20, 20), none) == []
    assert invert_predictions([], none) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: invert_boxes([torch.zeros(1, 4)], GEOMETRY),
            "boxes must be one for each of the batch's 2 images; got 1",
        ),
        (lambda: invert_boxes(None, GEOMETRY), "boxes must be one for each of the batch's 2 images; got NoneType"),  # type: ignore[arg-type]
        (
            lambda: invert_boxes([torch.zeros(1, 4), torch.zeros(4)], GEOMETRY),
            r"boxes of an image must be a tensor \[N, 4\]; got torch.float32 \[4\] for image 1 of the batch",
        ),
        (
            lambda: invert_keypoints(torch.zeros(2, 1, 5, 4), GEOMETRY),
            r"must be a tensor \[N, K, 2 or 3\]; got torch.float32 \[1, 5, 4\]",
        ),
        (
            lambda: invert_masks([torch.zeros(20, 21)] * 2, GEOMETRY),
            r"must be a tensor \[..., 20, 20\]; got torch.float32 \[20, 21\]",
        ),
        (lambda: invert_masks([np.zeros((20, 20))] * 2, GEOMETRY), "must be a tensor .* got ndarray for image 0"),  # type: ignore[list-item]
        (lambda: invert_predictions([{}], GEOMETRY), "predictions must be one for each of the batch's 2 images; got 1"),
    ],
)
def test_wrong_shapes_are_refused(call: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        call()
