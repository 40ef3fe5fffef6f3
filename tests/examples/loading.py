"""What the tests of examples share: an example as a module, tars as CIFAR-10's, a look at a picture."""

from __future__ import annotations

import importlib.util
import io
import itertools
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    """The example of a name, as a module of its own."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write_tars(folder: Path) -> None:
    """Two classes as CIFAR-10's ten lie in its tars: reddish and bluish squares of 32 pixels."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        with tarfile.open(folder / f"cifar10-{part}.tar", "w") as archive:
            for label, number in itertools.product(("blue", "red"), range(count)):
                pixels = rng.integers(0, 200, (32, 32, 3), np.uint8)
                pixels[..., 2 * (label == "blue")] += 50
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG")
                member = tarfile.TarInfo(f"{part}/{label}/{number:04d}.jpg")
                member.size = buffer.tell()
                archive.addfile(member, io.BytesIO(buffer.getvalue()))


def drawn_on(picture: Path) -> bool:
    with Image.open(picture) as image:
        return image.format == "PNG" and len(np.unique(np.asarray(image.convert("L")))) > 10
