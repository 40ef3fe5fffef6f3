"""Small shards that tests make for themselves."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from resflow.sources import build_index, index_path, write_index, write_shards


def jpeg(height: int, width: int, seed: int = 0) -> bytes:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def samples(count: int, seed: int = 0) -> Iterator[Mapping[str, object]]:
    """Pictures of many aspect ratios; the class of number i is i % 7."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        ratio, side = np.exp(rng.normal(0, 0.5)), rng.uniform(40, 120)
        height, width = max(1, round(side / np.sqrt(ratio))), max(1, round(side * np.sqrt(ratio)))
        yield {"__key__": f"{number:05d}", "jpg": jpeg(height, width, number), "cls": str(number % 7)}


def make_shards(folder: Path, count: int = 61, *, per_shard: int = 20) -> str:
    """Write and index shards; returns their pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = write_shards(samples(count), str(folder / "train-%06d.tar"), max_samples=per_shard, max_bytes=1 << 30)
    pattern = f"{folder}/train-{{000000..{len(paths) - 1:06d}}}.tar"
    write_index(build_index(pattern, workers=1), index_path(pattern))
    return pattern
