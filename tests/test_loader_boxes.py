"""Boxes in every form become the same pixels; shares are not taken for pixels, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import CocoDetection
from torchvision.ops import box_convert

import resflow as rf
from resflow.errors import ConfigError, TargetError
from tests.sources.annotated_sets import coco_set, picture

HEIGHT, WIDTH = 48, 64
EDGES = torch.tensor([[6.0, 4.0, 38.0, 28.0], [10.5, 20.25, 60.0, 47.0]])
FORMATS = ("xyxy", "xywh", "cxcywh")


def boxes_in(form: str) -> torch.Tensor:
    converted = box_convert(EDGES, "xyxy", form.removesuffix("_norm"))
    return converted / torch.tensor([WIDTH, HEIGHT] * 2) if form.endswith("_norm") else converted


class Own(Dataset[Any]):
    def __init__(self, boxes: Any, kind: str = "dict", **extra: Any) -> None:
        self.boxes, self.kind, self.extra = torch.as_tensor(boxes), kind, extra

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> Any:
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        if self.kind == "dict":
            return image, {"boxes": self.boxes, "labels": torch.ones(len(self.boxes), dtype=torch.int64)} | self.extra
        return image, [{"bbox": box, "category_id": 1, "area": 0.3} for box in self.boxes.tolist()]


class Stream(IterableDataset[Any]):
    def __init__(self, dataset: Own) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        return (self.dataset[number] for number in range(len(self.dataset)))


def loader(source: Any, resolution: int = 64, **targets: Any) -> rf.DataLoader:
    pipeline = rf.Pipeline(resolution=resolution, targets=rf.Targets(**targets))
    return rf.DataLoader(source, batch_size=2, pipeline=pipeline)


def home(source: Any, **targets: Any) -> torch.Tensor:
    batch = next(iter(loader(source, **targets)))
    return batch.invert(boxes=[one["boxes"] for one in batch.targets])[1]


@pytest.mark.parametrize("form", [*FORMATS, *(f"{form}_norm" for form in FORMATS)])
@pytest.mark.parametrize("kind", ["dict", "records"])
def test_every_form_gives_the_same_boxes(form: str, kind: str) -> None:
    dataset = Own(boxes_in(form), kind, area=torch.ones(2))
    if form.endswith("_norm"):  # an area is of unknown unit beside shares
        sides = (EDGES[:, 2:] - EDGES[:, :2]).prod(1)
        batch = next(iter(loader(dataset, box_format=form)))
        scale = torch.linalg.det(batch.transform[0, :2, :2])
        torch.testing.assert_close(batch.targets[0]["area"], sides * scale, rtol=1e-4, atol=0)
    torch.testing.assert_close(home(dataset, box_format=form), EDGES, rtol=0, atol=1e-3)
    torch.testing.assert_close(home(Stream(dataset), box_format=form), EDGES, rtol=0, atol=1e-3)


@pytest.mark.parametrize("form", ["xyxy_norm", "xywh_norm", "cxcywh_norm"])
@pytest.mark.parametrize("kind", ["dict", "records"])
def test_shares_are_not_taken_for_pixels(form: str, kind: str) -> None:
    with pytest.raises(TargetError, match=r"look like shares of the image.*rf\.Targets\(box_format=.*'cxcywh_norm'"):
        next(iter(loader(Own(boxes_in(form), kind))))


def test_small_boxes_are_pixels_where_they_are_whole_or_said_to_be() -> None:
    tiny = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 1]])
    assert len(home(Own(tiny), min_side=0.0)) == 1
    assert len(home(Own(torch.tensor([[0.2, 0.2, 1.4, 1.4]])), box_format="xyxy")) == 1
    mixed = torch.tensor([[0.2, 0.2, 1.4, 1.4], [3.0, 3.0, 30.0, 30.0]])
    assert len(home(Own(mixed), min_side=0.0)) == 2


def test_shares_in_coco_files(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", HEIGHT, WIDTH)
    path = tmp_path / "c.json"
    for form in (*FORMATS, "xywh_norm", "cxcywh_norm"):
        records = [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 0.5, "iscrowd": 0}
            for n, box in enumerate(boxes_in(form).tolist())
        ]
        images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
        data = {"images": images, "annotations": records, "categories": [{"id": 1, "name": "a"}]}
        path.write_text(json.dumps(data))
        found = rf.sources.Coco(tmp_path, path, box_format=form).target(0)
        np.testing.assert_allclose(found.boxes, EDGES, atol=1e-4)  # type: ignore[union-attr]
        if not form.endswith("_norm"):
            continue
        with pytest.raises(TargetError, match=r"all boxes of c\.json look like shares.*Coco\(box_format='xywh_norm'\)"):
            rf.sources.Coco(tmp_path, path, on_error="drop")
        detection = CocoDetection(str(tmp_path), str(path))
        with pytest.raises(TargetError, match="look like shares"):
            next(iter(loader(detection)))
        batch = next(iter(loader(detection, box_format=form)))
        torch.testing.assert_close(batch.invert(boxes=[batch.targets[0]["boxes"]])[0], EDGES, rtol=0, atol=1e-3)


def test_other_names_of_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Targets\.box_format must be one of xyxy.*got 'yolo'"):
        rf.Targets(box_format="yolo")
    with pytest.raises(ConfigError, match=r"box_format must be one of xyxy.*got 'yolo'"):
        rf.sources.Coco(*coco_set(tmp_path), box_format="yolo")


def test_keypoints_and_polygons_in_shares_are_refused() -> None:
    record = {"bbox": [4, 4, 20, 20], "category_id": 1}
    for extra in ({"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]}, {"keypoints": [0.1, 0.2, 2, 0.5, 0.5, 2]}):
        dataset = type("Records", (Own,), {"__getitem__": lambda self, n, e=extra: (_image(), [record | e])})
        with pytest.raises(TargetError, match=r"look like shares.*Multiply them by the image's width"):
            next(iter(loader(dataset(EDGES), masks=True)))


def _image() -> Any:
    return np.full((HEIGHT, WIDTH, 3), 90, np.uint8)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_left_out_is_counted_by_reason(workers: int) -> None:
    boxes = torch.tensor([[4, 4, 40, 40], [0, 10, 30, 40], [70, 10, 90, 20], [10, 10, 14, 14], [-20, 0, 6, 20]])
    pipeline = rf.Pipeline(resolution=64, targets=rf.Targets(min_side=8.0, min_visible=0.5))
    counted = rf.DataLoader(Own(boxes), batch_size=2, num_workers=workers, pipeline=pipeline)
    assert [len(one["boxes"]) for batch in counted for one in batch.targets] == [2, 2]
    stats = counted.stats()
    assert stats.objects == 4
    assert stats.removed == {"outside": 2, "min_visible": 2, "min_side": 2}
    assert "4 handed out; left out: 2 outside, 2 min_visible, 2 min_side" in str(stats)
    assert stats.to_json()["removed"]["min_side"] == 2
