"""Images of plain rectangles on black, each object with a colour of its own, with a COCO file and label maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = ((96, 128), (128, 96), (112, 112), (80, 144))
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
"""Of the first, second and third object of each image."""


def figures(count: int, seed: int = 0) -> list[tuple[np.ndarray[Any, Any], list[list[int]], np.ndarray[Any, Any]]]:
    """Of each image: pixels [H, W, 3], boxes (left, top, right, bottom), and classes of pixels [H, W]."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        pixels, classes = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        boxes = []
        for place in range(1 + number % 3):
            third = width // 3
            left, right = place * third + int(rng.integers(2, 8)), (place + 1) * third - int(rng.integers(2, 8))
            top, bottom = int(rng.integers(4, height // 3)), int(rng.integers(height // 2, height - 4))
            pixels[top:bottom, left:right] = COLOURS[place]
            classes[top:bottom, left:right] = place + 1
            boxes.append([left, top, right, bottom])
        made.append((pixels, boxes, classes))
    return made


def coco_folder(folder: Path, count: int = 12) -> tuple[Path, Path]:
    """Write images, masks, and a COCO file with polygons and corners; returns the images' folder and that file."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (pixels, boxes, classes) in enumerate(figures(count)):
        name = f"{number:04d}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        Image.fromarray(classes).save(folder / "masks" / name)
        images.append({"id": number, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        for place, (left, top, right, bottom) in enumerate(boxes):
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": place + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "segmentation": [[value for corner in corners for value in corner]],
                    "keypoints": [value for corner in corners for value in (*corner, 2)],
                    "num_keypoints": 4,
                }
            )
    names = ["left_top", "right_top", "right_bottom", "left_bottom"]
    categories = [
        {"id": place, "name": name, "keypoints": names, "skeleton": []}
        for place, name in enumerate(("red", "green", "blue"), start=1)
    ]
    path = folder / "objects.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder / "images", path
