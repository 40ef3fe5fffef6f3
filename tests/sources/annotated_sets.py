"""Small annotated datasets that tests make for themselves, and how two targets are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resflow.targets import Annotation, LabelMap


def picture(path: Path, height: int, width: int, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    coarse = np.random.default_rng(height * 1000 + width).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {"exif": exif} if orientation != 1 else {}
    image.save(path, **options)


def mask(path: Path, values: Any, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def coco_set(root: Path, **changes: Any) -> tuple[Path, Path]:
    """Three images of 40 x 60, 30 x 20 and 50 x 50 pixels (H x W), the last without objects."""
    for number, (height, width) in enumerate([(40, 60), (30, 20), (50, 50)], 1):
        picture(root / "images" / f"{number}.jpg", height, width)
    sizes = [(1, 40, 60), (2, 30, 20), (3, 50, 50)]
    data: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": h, "width": w} for n, h, w in reversed(sizes)],
        "categories": [{"id": 7, "name": "seven"}, {"id": 1, "name": "one"}],
        "annotations": [
            {"id": 10, "image_id": 2, "category_id": 7, "bbox": [1.5, 2.25, 10, 20.5], "area": 99.5, "iscrowd": 0},
            {"id": 11, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 59.9, 39.8], "iscrowd": 1},
            {"id": 12, "image_id": 2, "category_id": 1, "bbox": [-0.5, 3, 21, 4], "area": 80},
        ],
    }
    data.update(changes)
    path = root / "instances.json"
    path.write_text(json.dumps(data))
    return root / "images", path


def check_same_target(one: Annotation | LabelMap, other: Annotation | LabelMap) -> None:
    """Bit by bit; of an image without objects, nothing but that it has none can differ."""
    if isinstance(one, LabelMap):
        assert isinstance(other, LabelMap)
        assert bytes(one.encoded) == bytes(other.encoded)
        return
    assert isinstance(other, Annotation)
    for field in ("boxes", "labels", "area", "iscrowd"):
        first, second = getattr(one, field), getattr(other, field)
        assert first.dtype == second.dtype
        assert np.array_equal(first, second), field
    assert one.image_id == other.image_id
    if len(one):
        assert (one.masks or ()) == (other.masks or ())
        points: list[Any] = [None if item.keypoints is None else item.keypoints.tolist() for item in (one, other)]
        assert points[0] == points[1]
        assert one.keypoint_pairs == other.keypoint_pairs
