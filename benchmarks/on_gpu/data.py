"""The images of a run, written once: as shards with tiers, and as files."""

from __future__ import annotations

import io
import itertools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from resflow.sources import build_index, index_path, write_index, write_shards
from resflow.sources.tier_writer import make_tiers

DEFAULT = (
    Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "imagenet500"
)
SIDES = (160, 256)


@dataclass(frozen=True)
class Data:
    """Where the images are: `shards` is a pattern, `files` a folder."""

    shards: str
    files: str
    count: int
    bytes: int

    def paths(self) -> list[str]:
        return sorted(map(str, Path(self.shards).parent.glob("train-??????.tar")))

    def images(self) -> list[Path]:
        return sorted(Path(self.files).glob("*.jpg"))


def prepare(folder: Path, images: Path | None, count: int) -> Data:
    """Write `count` images, repeating those of `images` (made-up ones where it is None); kept for the next run."""
    done = folder / "data.json"
    if done.is_file():
        return Data(**json.loads(done.read_text()))
    files = folder / "files"
    files.mkdir(parents=True)
    found = [] if images is None else sorted(p for p in images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    origin = (path.read_bytes() for path in itertools.cycle(found)) if found else (_made(n) for n in itertools.count())
    total, samples = 0, []
    for number, data in enumerate(itertools.islice(origin, count)):
        path = files / f"{number:07d}.jpg"
        path.write_bytes(data)
        total += len(data)
        samples.append({"__key__": path.stem, "jpg": path, "cls": str(number % 1000)})
    read = ({**sample, "jpg": Path(str(sample["jpg"])).read_bytes()} for sample in samples)
    paths = write_shards(read, str(folder / "train-%06d.tar"), max_samples=max(1, min(2500, -(-count // 4))))
    pattern = f"{folder}/train-{{000000..{len(paths) - 1:06d}}}.tar"
    workers = 1 if count < 1000 else None
    write_index(build_index(pattern, workers=workers), index_path(pattern))
    make_tiers(pattern, SIDES, workers=workers)
    data = Data(pattern, str(files), count, total)
    done.write_text(json.dumps(asdict(data)))
    return data


def _made(number: int) -> bytes:
    """A JPEG of about 500 x 375 pixels with some detail."""
    rng = np.random.default_rng(number)
    side = rng.integers(300, 520, 2).tolist()
    coarse = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(side, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
