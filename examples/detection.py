"""Train torchvision's detectors on buckets of many shapes, at several resolutions: boxes, masks and keypoints follow.

    python examples/detection.py                                  # 8 drawn images, learned by heart, in about a minute
    python examples/detection.py --model maskrcnn --images coco/val2017 --annotations coco/instances_val2017.json

Prints the loss as it falls, then the average precision that pycocotools finds after the predictions were taken to the
pixels of the source images with `batch.invert`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torchvision.models import detection, resnet18
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import resflow as rf
from resflow.normalize import UNIT

MODELS = ("fasterrcnn", "retinanet", "maskrcnn", "keypointrcnn")
CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


def detector(name: str, classes: int, keypoints: int = len(CORNERS)) -> nn.Module:
    """One of torchvision's detectors, small: ResNet-18, 64 channels in the pyramid, few proposals, no weights."""
    body = resnet18(weights=None, norm_layer=lambda channels: nn.GroupNorm(8, channels))
    layers = {f"layer{level}": str(level) for level in ((2, 3, 4) if name == "retinanet" else (1, 2, 3, 4))}
    channels = [64 * 2 ** (int(level) - 1) for level in layers.values()]
    extra = LastLevelP6P7(64, 64) if name == "retinanet" else None
    backbone = BackboneWithFPN(body, layers, channels, 64, extra)
    few = {"rpn_pre_nms_top_n_train": 500, "rpn_post_nms_top_n_train": 100, "box_batch_size_per_image": 32}
    made: dict[str, Callable[[], nn.Module]] = {
        "fasterrcnn": lambda: detection.FasterRCNN(backbone, classes, **few),
        "retinanet": lambda: detection.RetinaNet(backbone, classes),
        "maskrcnn": lambda: detection.MaskRCNN(backbone, classes, **few),
        "keypointrcnn": lambda: detection.KeypointRCNN(backbone, classes, num_keypoints=keypoints, **few),
    }
    return made[name]()


def at_its_own_size(model: Any, images: torch.Tensor) -> nn.Module:
    """Have a detector take images at the size they have: the loader has chosen it, so its own resize is a no-op."""
    height, width = images.shape[2:]
    model.transform.fixed_size = (width, height)
    return model


def pipeline(model: str, resolutions: tuple[int, ...]) -> rf.Pipeline:
    """Batches of one shape each, at a resolution drawn for each batch."""
    return rf.Pipeline(
        resolution=rf.schedules.RandomMultiScale(resolutions),
        buckets=3,
        views=[rf.views.HorizontalFlip()],
        targets=rf.Targets(masks=model == "maskrcnn", keypoints=model == "keypointrcnn"),
        normalize=UNIT,  # the detector subtracts its own mean
    )


def train(model: Any, batches: rf.DataLoader, epochs: int, rate: float = 1e-3) -> list[float]:
    """Train, and return the mean loss of each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses: list[float] = []
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for images, targets in batches:
            parts = at_its_own_size(model, images)(list(images), targets)
            loss = sum(parts.values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            total += loss.item()
        losses.append(total / len(batches))
        if epoch % max(1, epochs // 10) == 0 or epoch == epochs - 1:
            print(f"epoch {epoch:3d}   loss {losses[-1]:.3f}")
    return losses


@torch.no_grad()
def precision(model: Any, evaluation: rf.DataLoader, truth: COCO, kind: str) -> float:
    """Average precision over the source images, in their own pixels."""
    model.eval()
    found: list[dict[str, Any]] = []
    for batch in evaluation:
        outputs = at_its_own_size(model, batch.images)(list(batch.images))
        for target, output in zip(batch.targets, batch.invert(outputs), strict=True):
            for place in range(len(output["boxes"])):
                left, top, right, bottom = output["boxes"][place].tolist()
                entry = {
                    "image_id": int(target["image_id"]),
                    "category_id": int(output["labels"][place]),
                    "score": float(output["scores"][place]),
                    "bbox": [left, top, right - left, bottom - top],
                }
                if kind == "keypoints":
                    points = output["keypoints"][place].clone()
                    points[:, 2] = 1
                    entry["keypoints"] = points.flatten().tolist()
                found.append(entry)
    if not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, truth.loadRes(found), kind)
        if kind == "keypoints" and (count := len(found[0]["keypoints"]) // 3) != len(evaluator.params.kpt_oks_sigmas):
            evaluator.params.kpt_oks_sigmas = np.full(count, 0.05)  # pycocotools knows those of persons alone
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def draw(folder: Path, count: int = 8, seed: int = 0) -> Path:
    """Images of two kinds of figures, tilted rectangles and discs, with a COCO file beside them."""
    random.seed(seed)
    images, annotations = [], []
    for number in range(count):
        width, height = random.choice([(200, 150), (150, 200), (180, 180)])
        image = Image.new("RGB", (width, height), tuple(random.randrange(90) for _ in "rgb"))
        pen = ImageDraw.Draw(image)
        for place in range(2):
            half = random.uniform(0.3, 0.45) * min(width, height) / 2
            x, y = width * (0.27 + 0.46 * place), random.uniform(half, height - half)
            tilt, sides = random.uniform(-0.3, 0.3), (4, 24)[(number + place) % 2]
            turn = [tilt - 3 * math.pi / 4 + 2 * math.pi * side / sides for side in range(sides)]
            points = [(x + half * math.cos(angle), y + half * math.sin(angle)) for angle in turn]
            pen.polygon(points, fill=((240, 180, 60), (90, 200, 240))[sides > 4])
            xs, ys = zip(*points, strict=True)
            corners = [points[side * sides // 4] for side in range(4)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + (sides > 4),
                    "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                    "area": (max(xs) - min(xs)) * (max(ys) - min(ys)),
                    "iscrowd": 0,
                    "segmentation": [[value for point in points for value in point]],
                    "keypoints": [value for corner in corners for value in (*corner, 2)],
                    "num_keypoints": 4,
                }
            )
        image.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    kinds = [{"id": 1, "name": "box"}, {"id": 2, "name": "disc"}]
    for kind in kinds:
        kind |= {"supercategory": "figure", "keypoints": list(CORNERS), "skeleton": []}
    path = folder / "figures.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": kinds}))
    return path


def main(arguments: list[str] | None = None) -> tuple[list[float], float]:
    """Train and evaluate; returns the losses and the average precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="fasterrcnn")
    parser.add_argument("--images", type=Path, help="folder of images; drawn if left out")
    parser.add_argument("--annotations", type=Path, help="COCO file of these images")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[96, 128, 160])
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as drawn:
        images, annotations = given.images or Path(drawn), given.annotations or draw(Path(drawn))
        source = rf.sources.Coco(images, annotations)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(annotations))
        model = detector(given.model, 1 + max(truth.getCatIds()))
        training = pipeline(given.model, tuple(given.resolutions))
        batches = rf.DataLoader(source, batch_size=given.batch_size, shuffle=True, pipeline=training)
        print(f"{given.model} on {len(source)} images, shapes {batches.buckets.shapes[-1].tolist()}")
        losses = train(model, batches, given.epochs)
        evaluation = rf.DataLoader(source, batch_size=given.batch_size, pipeline=training.evaluation())
        kind = "keypoints" if given.model == "keypointrcnn" else "bbox"
        result = precision(model, evaluation, truth, kind)
        print(f"average precision ({kind}, in source pixels): {result:.3f}")
    return losses, result


if __name__ == "__main__":
    main()
