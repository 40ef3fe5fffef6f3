from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from resflow.errors import TargetError
from resflow.targets import decode_mask
from resflow.targets.masks import decode_block
from tests.data import real


def by_pycocotools(segmentation: Any, size: tuple[int, int]) -> Any:
    rle = coco.frPyObjects(segmentation, *size) if isinstance(segmentation, list) else segmentation
    if isinstance(rle, list):
        rle = coco.merge(rle)
    elif isinstance(rle["counts"], list):
        rle = coco.frPyObjects(rle, *size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' decode and NumPy 2
        return coco.decode(rle)


def test_made_up_masks_as_pycocotools_draws_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = tuple(int(side) for side in rng.integers(1, 90, 2))
        polygons = [rng.uniform(-5, max(size) + 5, 2 * rng.integers(3, 9)).tolist() for _ in range(rng.integers(1, 4))]
        np.testing.assert_array_equal(decode_mask(polygons, size), by_pycocotools(polygons, size))
        pixels = (rng.random(size) < rng.choice([0, 0.02, 0.5, 1])).astype(np.uint8)
        rle = coco.encode(np.asfortranarray(pixels))
        flat = pixels.T.reshape(-1)
        edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
        counts = np.diff([0, *edges, len(flat)]).tolist()
        for one in (
            pixels,
            pixels.astype(bool),
            rle,
            rle | {"counts": rle["counts"].decode()},
            {"size": size, "counts": counts},
        ):
            np.testing.assert_array_equal(decode_mask(one, size), pixels)
        if pixels.any():
            block = decode_block(rle, size)
            assert block.pixels.any(axis=0)[[0, -1]].all()
            assert block.pixels.any(axis=1)[[0, -1]].all()


def test_real_masks_as_pycocotools_draws_them() -> None:
    path = real("coco-mini/annotations/instances_val2017.json")
    dataset = json.loads(path.read_text())
    sizes = {one["id"]: (one["height"], one["width"]) for one in dataset["images"]}
    for record in dataset["annotations"]:
        size = sizes[record["image_id"]]
        right = by_pycocotools(record["segmentation"], size)
        assert np.array_equal(decode_mask(record["segmentation"], size), right), record["id"]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, r"no mask: masks were asked for. Set Targets\(masks=False\), give every object a mask"),
        ([[1, 2, 3, 4]], "a polygon has at least 3 points x, y; this one has 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "this one has 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon has finite coordinates in or near its image of 6x4 pixels"),
        ([[1, 2, 3, 4, 5, 1e9]], "a polygon has finite coordinates in or near its image"),
        ([["a"] * 6], "could not convert string to float"),
        (5, "a mask must be COCO polygons .* or run lengths .*; got 5"),
        ({"size": [4, 7], "counts": [28]}, r"its size is \[4, 7\], its image's is \[4, 6\]"),
        ({"size": [4, 6], "counts": [20]}, "its runs add up to 20 pixels, its image has 24"),
        ({"size": [4, 6], "counts": [30, -6]}, "its runs add up to 24 pixels"),
        ({"size": [4, 6], "counts": b""}, "its counts are cut short or no run lengths"),
        ({"size": [4, 6], "counts": "3"}, "its runs add up to 3 pixels, its image has 24"),
        ({"size": [4, 6], "counts": b"o" * 12 + b"0"}, "no run lengths"),
        ({"size": [4, 6], "counts": b"\xff"}, "no run lengths"),
        ({"size": [4, 6]}, "'counts'"),
        (np.zeros((4, 5), np.uint8), r"a mask must be uint8 \[4, 6\], of its image's size; got uint8 \[4, 5\]"),
        (np.zeros((4, 6)), "got float64"),
    ],
)
def test_a_broken_mask_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        decode_mask(segmentation, (4, 6))


def test_no_polygons_are_no_pixels() -> None:
    assert not decode_mask([], (4, 6)).any()
