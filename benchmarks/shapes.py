"""What ways to batch images of many ratios do to pixels and objects: `python benchmarks/shapes.py [COCO_FOLDER]`.

COCO_FOLDER holds annotations/instances_*.json; by default coco-mini in RESFLOW_TEST_DATA. Every way places every
image by one matrix, from which all columns follow. Batch-dependent ways are the mean over 50 shuffles, batches of 16.

- padded: share of all pixels of an epoch that show no image.
- image cut: share of the images' area that no pixel shows.
- objects cut: share of the objects' area (boxes, crowds left out) that no pixel shows.
- lost: objects of which more than half is cut away, of all objects.
- distorted: by how much an image's ratio changes, max(sx / sy, sy / sx) - 1, in the mean and at most. Padded sides are
  rounded to whole pixels, which alone distorts a little.

The ways, at resolution 640 and stride 32:

- square stretch: each side scaled to 640.
- square letterbox: contained in 640 x 640.
- two groups: portrait and landscape apart, short side 640 and long side at most 5/3 of it, padded to the batch's
  greatest height and width, rounded up to 32 (`benchmarks/padding.py`; torchvision's GroupedBatchSampler with
  aspect-ratio-group-factor 0).
- DynamicInput: all images of a batch cropped to the ratio half-way between its extremes; in random batches, and in
  the batches of the learned buckets.
- learned, K=8: Resflow's buckets, planned at batch size 16, with max_crop 0 and 0.1, for the learning and the fit
  alike.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from padding import Sizes, two_group_batches

from resflow.geometry import Fit, Geometry
from resflow.geometry.affine import scale_translate, transform_points
from resflow.geometry.fit import coverage
from resflow.models import DynamicInput
from resflow.plan import Constant, group_samples, learn_buckets, plan_epoch

Batches = Iterable[tuple[npt.NDArray[np.int64], Geometry]]
"""Numbers of the images of each batch, and how they are placed."""

RESOLUTION, STRIDE, BATCH, SHUFFLES = 640, 32, 16, 50
COLUMNS = ("padded", "image cut", "objects cut", "lost", "distorted, mean", "distorted, most")


def read_objects(folder: Path) -> tuple[Sizes, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Sizes of all images; of all objects but crowds, the image's number and the box, left, top, right, bottom."""
    sizes: list[tuple[int, int]] = []
    images, boxes = [], []
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        content = json.loads(path.read_text())
        number = {image["id"]: len(sizes) + i for i, image in enumerate(content["images"])}
        sizes += [(image["height"], image["width"]) for image in content["images"]]
        for record in content["annotations"]:
            left, top, width, height = record["bbox"]
            if not record["iscrowd"] and width > 0 and height > 0:
                images.append(number[record["image_id"]])
                boxes.append((left, top, left + width, top + height))
    if not boxes:
        raise SystemExit(f"no annotations/instances_*.json with objects in {folder}")
    return np.array(sizes, dtype=np.int32), np.array(images), np.array(boxes, dtype=np.float64)


def area(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [N]: the area of boxes [N, 4]."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1))


def measure(
    image: npt.NDArray[np.int64], boxes: npt.NDArray[np.float64], batches: Batches
) -> tuple[float, float, float, float, float, float]:
    """The columns of the table, over the batches of one or more epochs."""
    shown = pixels = source = cut = whole = gone = lost = seen = 0.0
    distortion = []
    for numbers, geometry in batches:
        height, width = geometry.output_size
        shown += float(geometry.valid_pixels().sum())
        pixels += len(geometry) * height * width
        of_source = geometry.source_size.prod(axis=1)
        source += float(of_source.sum())
        cut += float((of_source * coverage(geometry)[1]).sum())
        place = np.full(int(max(image.max(), numbers.max())) + 1, -1)
        place[numbers] = np.arange(len(numbers))
        here = place[image] >= 0
        matrix = geometry.matrix[place[image[here]]]
        moved = transform_points(matrix, boxes[here].reshape(-1, 2, 2)).reshape(-1, 4)
        share = area(moved.clip(0, np.array([width, height] * 2))) / area(moved)
        whole += float(area(boxes[here]).sum())
        gone += float(((1 - share) * area(boxes[here])).sum())
        lost += int((share < 0.5).sum())
        seen += len(share)
        log_ratio = np.log(geometry.matrix[:, 0, 0] / geometry.matrix[:, 1, 1])
        distortion.append(np.expm1(np.abs(log_ratio)))
    spread = np.concatenate(distortion)
    return 1 - shown / pixels, cut / source, gone / whole, lost / seen, float(spread.mean()), float(spread.max())


def square(size: Sizes, fit: Fit) -> Batches:
    """All images in one square."""
    shape = (RESOLUTION, RESOLUTION)
    return [(np.arange(len(size)), Geometry(fit.place(size, shape), size, shape))]


def two_groups(size: Sizes) -> Batches:
    """Portrait and landscape apart, each image in the left top corner of its batch."""
    for seed in range(SHUFFLES):
        for batch, placed, (height, width) in two_group_batches(size, RESOLUTION, STRIDE, seed, BATCH):
            scale = (placed / size[batch])[:, ::-1]
            yield batch, Geometry(scale_translate(scale, np.zeros_like(scale)), size[batch], (int(height), int(width)))


def random_batches(size: Sizes) -> Iterator[npt.NDArray[np.int64]]:
    """Image numbers of the batches of all shuffles."""
    for seed in range(SHUFFLES):
        order = np.random.default_rng(seed).permutation(len(size)).astype(np.int64)
        yield from (order[start : start + BATCH] for start in range(0, len(order), BATCH))


def planned_batches(size: Sizes, max_crop: float) -> Iterator[tuple[npt.NDArray[np.int64], tuple[int, int]]]:
    """Image numbers and shapes of the batches of all shuffles, by learned buckets."""
    buckets = learn_buckets(size, 8, resolutions=[RESOLUTION], stride=STRIDE, max_crop=max_crop)
    groups = group_samples(size, buckets)
    for seed in range(SHUFFLES):
        plan = plan_epoch(groups, Constant(RESOLUTION), batch_size=BATCH, shuffle=True, seed=seed)
        for start, stop, shape in zip(plan.offsets[:-1], plan.offsets[1:], plan.shapes.tolist(), strict=True):
            yield plan.sample_ids[start:stop].astype(np.int64), (shape[0], shape[1])


def dynamic_input(size: Sizes, batches: Iterable[npt.NDArray[np.int64]]) -> Batches:
    """Batches through DynamicInput."""
    module = DynamicInput(RESOLUTION, stride=STRIDE)
    return ((batch, module.place(size[batch])) for batch in batches)


def learned(size: Sizes, max_crop: float) -> Batches:
    """Batches of learned buckets, each at its bucket's shape."""
    for batch, shape in planned_batches(size, max_crop):
        yield batch, Geometry(Fit(max_crop=max_crop).place(size[batch], shape), size[batch], shape)


WAYS: dict[str, Callable[[Sizes], Batches]] = {
    "square stretch": lambda size: square(size, Fit.stretch()),
    "square letterbox": lambda size: square(size, Fit()),
    "two groups": two_groups,
    "DynamicInput, random batches": lambda size: dynamic_input(size, random_batches(size)),
    "DynamicInput, batches of learned buckets": lambda size: dynamic_input(
        size, (batch for batch, _ in planned_batches(size, 0.0))
    ),
    "learned, K=8, max_crop=0": lambda size: learned(size, 0.0),
    "learned, K=8, max_crop=0.1": lambda size: learned(size, 0.1),
}


def main() -> None:
    """Print the table."""
    data = Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else data / "coco-mini"
    size, image, boxes = read_objects(folder)
    print(f"{folder.name}: {len(size)} images, {len(boxes)} objects; resolution {RESOLUTION}, stride {STRIDE}\n")
    print("| way | " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    for name, way in WAYS.items():
        shares = measure(image, boxes, way(size))
        print(f"| {name} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
