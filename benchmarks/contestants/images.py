"""The sets of images: real ones repeated, and photos that are drawn here."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from contestants.child import Failed

DATA = Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
_SHARDS = 8
_PHOTOS = 24
_SUFFIXES = {".jpg", ".jpeg"}


def image_set(name: str, count: int, cache: Path) -> Path:
    """A set of a number of samples, made when it is missing: the images in order of their names, over and over.

    Args:
        name: one of SETS.
        count: samples.
        cache: where sets are kept.

    Returns:
        Its folder, as `Job.folder` wants it.

    Raises:
        Failed: the images are not there.
    """
    folder = cache / "sets" / f"{name}-{count}"
    if (folder / "list.txt").exists():
        return folder
    found = SETS[name](cache)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shards").mkdir(parents=True)
    samples = list(enumerate(itertools.islice(itertools.cycle(found), count)))
    per_shard = -(-count // _SHARDS)
    for shard in range(_SHARDS):
        with tarfile.open(folder / "shards" / f"{shard:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, path in samples[shard * per_shard : (shard + 1) * per_shard]:
                _add(tar, f"{number:06d}.jpg", path.read_bytes())
                _add(tar, f"{number:06d}.cls", str(number).encode())
    (folder / "list.txt").write_text("".join(f"{path} {number}\n" for number, path in samples))
    return folder


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _real(folder: str, _cache: Path) -> list[Path]:
    found = sorted(path.resolve() for path in (DATA / folder).rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise Failed(f"no JPEGs in {DATA / folder}; set RESFLOW_TEST_DATA to the folder that holds {folder}")
    return found


def _drawn(name: str, count: int, size: tuple[int, int], cache: Path) -> list[Path]:
    """Drawn JPEGs, every third upright; made when they are missing."""
    folder = cache / "drawn" / name
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(number, path, size) for number, path in enumerate(paths) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(_draw, missing))
    return paths


def _draw(task: tuple[int, Path, tuple[int, int]]) -> None:
    """A picture whose detail falls off with its fineness as in photographs, with a sensor's noise."""
    number, path, size = task
    rng = np.random.default_rng(number)
    width, height = size if number % 3 else size[::-1]
    total = np.full((height, width, 3), 128.0, np.float32)
    side, strength = 4, 55.0
    while side < max(size):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += (
            strength / 128 * (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128)
        )
        side, strength = side * 3, strength * 0.55
    total += rng.normal(0.0, 2.0, total.shape[:2]).astype(np.float32)[..., None]
    image = Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))
    kept = path.with_suffix(".part")
    image.save(kept, "JPEG", quality=92)
    kept.rename(path)


SETS: dict[str, Callable[[Path], list[Path]]] = {
    "imagenet": lambda cache: _real("imagenet500", cache),
    "coco": lambda cache: _real("coco-mini", cache),
    "photos": lambda cache: _drawn("photos", _PHOTOS, (4000, 3000), cache),
    "drawn": lambda cache: _drawn("small", 16, (160, 120), cache),
}
