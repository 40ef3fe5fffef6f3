"""Share of padded pixels of ways to batch images of many ratios: `python benchmarks/padding.py [FOLDER RESOLUTION]...`.

Nothing is cropped. An image is scaled to be contained in its shape and its height and width are rounded to whole
pixels, at least 1; all other pixels of the shape are padding. The share is padded pixels over all pixels of an epoch.
The ways:

- square letterbox: one shape, resolution x resolution.
- two groups: short side scaled to the resolution, the long side to at most 5/3 of it (800 and 1333, the common
  setting of detectron2 and mmdetection); portrait (W < H) and landscape shuffled and batched apart, 16 a batch, each
  batch padded to its greatest height and width (detectron2's default), or these rounded up to multiples of 32
  (mmdetection's `pad_size_divisor`); the mean of 50 shuffles.
- grid of step 64: for each width the greatest height, both multiples of 64, of an area of at most resolution x
  resolution; an image takes the shape of nearest log ratio.
- learned: 8 buckets of stride 32; as assigned, and after leftovers have moved in plans of batch size 16 and 64.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from resflow.plan import Constant, group_samples, learn_buckets, plan_epoch

Sizes = npt.NDArray[np.int32]
"""int32 [N, 2], height and width."""

_SUFFIXES = {".jpg", ".jpeg", ".png"}


def read_sizes(folder: Path) -> Sizes:
    """Height and width of all images below a folder, in order of path, after EXIF orientation."""
    size = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES:
            with Image.open(path) as image:
                turned = image.getexif().get(0x0112, 1) >= 5
                size.append(image.size if turned else image.size[::-1])
    if not size:
        raise SystemExit(f"no images in {folder}")
    return np.array(size, dtype=np.int32)


def content(size: Sizes, scale: npt.NDArray[np.float64]) -> Sizes:
    """Scaled sizes in whole pixels."""
    return np.maximum(1, np.rint(size * scale[:, None])).astype(np.int32)


def padded(size: Sizes, shapes: Sizes) -> float:
    """Padded share when image i is contained in shape i."""
    placed = content(size, (shapes / size).min(axis=1))
    return 1.0 - int(placed.prod(axis=1, dtype=np.int64).sum()) / int(shapes.prod(axis=1, dtype=np.int64).sum())


def two_group_batches(
    size: Sizes, resolution: int, divisor: int, seed: int, batch_size: int = 16
) -> Iterator[tuple[npt.NDArray[np.int64], Sizes, npt.NDArray[np.int64]]]:
    """The batches of one shuffle: image numbers [B], their scaled sizes [B, 2], and the batch's height and width."""
    scale = np.minimum(resolution / size.min(axis=1), resolution * 5 / 3 / size.max(axis=1))
    placed = content(size, scale)
    order = np.random.default_rng(seed).permutation(len(size))
    tall = size[order, 1] < size[order, 0]
    for group in (order[tall], order[~tall]):
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            yield batch, placed[batch], -(-placed[batch].max(axis=0) // divisor) * divisor


def two_groups(size: Sizes, resolution: int, divisor: int, shuffles: int = 50) -> float:
    """Mean padded share of batches padded to their own greatest height and width."""
    used, total = 0, 0
    for seed in range(shuffles):
        for _, placed, shape in two_group_batches(size, resolution, divisor, seed):
            used += int(placed.prod(axis=1).sum())
            total += len(placed) * int(shape.prod())
    return 1.0 - used / total


def grid(size: Sizes, resolution: int, step: int = 64) -> float:
    """Padded share of the shapes of greatest area within the square's, one for each width."""
    width = np.arange(step, resolution**2 // step + 1, step)
    height = resolution**2 // width // step * step
    log_ratio = np.log(width / height)
    nearest = np.abs(np.log(size[:, 1] / size[:, 0])[:, None] - log_ratio).argmin(axis=1)
    return padded(size, np.stack([height, width], axis=1)[nearest].astype(np.int32))


def learned(size: Sizes, resolution: int, batch_size: int | None) -> float:
    """Padded share of 8 learned buckets, as assigned or as planned."""
    buckets = learn_buckets(size, 8, resolutions=[resolution], stride=32)
    if batch_size is None:
        return padded(size, buckets.shape(buckets.assign(size), resolution))
    plan = plan_epoch(group_samples(size, buckets), Constant(resolution), batch_size=batch_size, shuffle=True)
    return padded(size[plan.sample_ids], np.repeat(plan.shapes, np.diff(plan.offsets), axis=0))


WAYS: dict[str, Callable[[Sizes, int], float]] = {
    "square letterbox": lambda size, r: padded(size, np.full_like(size, r)),
    "two groups, padded to the batch's maximum": lambda size, r: two_groups(size, r, 1),
    "two groups, rounded up to 32": lambda size, r: two_groups(size, r, 32),
    "area-capped grid of step 64": grid,
    "learned, K=8": lambda size, r: learned(size, r, None),
    "learned, K=8, planned at batch size 16": lambda size, r: learned(size, r, 16),
    "learned, K=8, planned at batch size 64": lambda size, r: learned(size, r, 64),
}


def main() -> None:
    """Print the table."""
    data = Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    arguments = sys.argv[1:] or [str(data / "imagenet500"), "224", str(data / "coco-mini"), "640"]
    if len(arguments) % 2 or not all(number.isdigit() for number in arguments[1::2]):
        raise SystemExit(__doc__)
    sets = [(Path(folder), int(r)) for folder, r in zip(arguments[::2], arguments[1::2], strict=True)]
    sizes = [read_sizes(folder) for folder, _ in sets]
    print(f"{'padded pixels':45}" + "".join(f"{f'{folder.name} at {r}':>24}" for folder, r in sets))
    for name, way in WAYS.items():
        shares = [way(size, r) for size, (_, r) in zip(sizes, sets, strict=True)]
        print(f"{name:45}" + "".join(f"{share:>24.2%}" for share in shares))
    for size, (folder, r) in zip(sizes, sets, strict=True):
        buckets = learn_buckets(size, 8, resolutions=[r], stride=32)
        counts = np.bincount(buckets.assign(size), minlength=len(buckets)).tolist()
        print(f"{folder.name}, {len(size)} images; learned shapes (height x width: images): ", end="")
        print(", ".join(f"{h}x{w}: {n}" for (h, w), n in zip(buckets.shapes[0].tolist(), counts, strict=True)))


if __name__ == "__main__":
    main()
