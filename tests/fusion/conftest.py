"""Folders of real and drawn JPEGs in classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw(number: int, width: int, height: int) -> Image.Image:
    """A smooth picture with an edge in it."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 60), (width // 3, height // 4, width // 2, height // 2))
    return image


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 JPEGs of many sizes in three classes, one of them grey, one progressive, one with an orientation; a PNG."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(24):
        folder = root / f"class{number % 3}"
        folder.mkdir(exist_ok=True)
        image = draw(number, 150 + 17 * (number % 7), 260 - 13 * (number % 5))
        if number == 5:
            image = image.convert("L")
        if number == 9:
            image.save(folder / f"{number:02}.png")
            continue
        exif = Image.Exif()
        if number == 11:
            exif[0x0112] = 6
        image.save(folder / f"{number:02}.jpg", quality=92, progressive=number == 7, exif=exif)
    return root
