from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resflow.errors import TargetError
from resflow.targets import Annotation, LabelMap
from tests.targets.scenes import annotation


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes": np.zeros((2, 5))}, r"boxes must be float64 \[2, 4\]; got float64 \[2, 5\]"),
        ({"boxes": np.zeros((2, 4), np.float32)}, r"boxes must be float64 \[2, 4\]; got float32 \[2, 4\]"),
        ({"labels": np.zeros(3, np.int64)}, r"labels must be int64 \[2\]; got int64 \[3\]"),
        ({"area": np.array([1.0, np.inf])}, "area must be finite; got inf for object 1"),
        (
            {"boxes": np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]])},
            r"boxes must be finite; got \[0.0, nan, 1.0, 1.0\] for",
        ),
        (
            {"boxes": np.array([[0, 0, 1, 1], [5, 0, 1, 1.0]])},
            r"got \[5.0, 0.0, 1.0, 1.0\] for object 1. For x, y, width",
        ),
        ({"masks": ((),)}, "masks must be one for each box; got 1 masks and 2 boxes"),
        ({"keypoints": np.zeros((2, 5))}, r"keypoints must be float64 \[2, K, 3\]; got float64 \[2, 5\]"),
        (
            {"keypoints": np.zeros((2, 5, 3)), "keypoint_pairs": ((1, 5),)},
            r"keypoint_pairs: got place 5; expected places from 0 to 4, of 5 keypoints",
        ),
    ],
)
def test_an_annotation_is_checked(fields: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {
        "boxes": np.array([[0, 0, 2, 2], [1, 1, 1, 4.0]]),
        "labels": np.zeros(2, np.int64),
        "area": np.ones(2),
        "iscrowd": np.zeros(2, np.bool_),
        "image_id": 3,
    }
    assert len(Annotation(**sound)) == 2
    with pytest.raises(TargetError, match=message):
        Annotation(**sound | fields)


def test_no_objects() -> None:
    assert len(Annotation.empty()) == 0
    assert Annotation.empty(5).image_id == 5
    assert len(annotation([])) == 0


def test_label_maps_of_arrays() -> None:
    assert LabelMap.from_array(np.ones((1, 4, 5), np.int64)).encoded.dtype == np.uint8  # type: ignore[union-attr]
    assert LabelMap.from_array(np.full((4, 5), -1)).encoded.dtype == np.int32  # type: ignore[union-attr]
    with pytest.raises(TargetError, match=r"whole numbers \[h, w\]; got float64 \[4, 5\]. Turn its colours"):
        LabelMap.from_array(np.ones((4, 5)))
    with pytest.raises(TargetError, match=r"whole numbers \[h, w\]; got uint8 \[3, 4, 5\]"):
        LabelMap.from_array(np.ones((3, 4, 5), np.uint8))
    with pytest.raises(TargetError, match="from -32768 to 65535; got 0 to 70000"):
        LabelMap.from_array(np.array([[0, 70000]]))
