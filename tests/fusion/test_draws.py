"""The windows and flips of fused images are distributed as torchvision draws them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision import datasets
from torchvision import transforms as v1

import resflow as rf
from resflow.fusion.lazy import LazyImage, open_lazily
from tests.data import real
from tests.fusion.conftest import draw
from tests.fusion.test_fuse import TRANSFORMS, values

DRAWS = 20_000


@pytest.mark.slow
def test_windows_and_flips_have_torchvisions_distribution() -> None:
    encoded = io.BytesIO()
    draw(0, 300, 200).save(encoded, "JPEG")
    image = open_lazily(io.BytesIO(encoded.getvalue()))
    crop, flip = v1.RandomResizedCrop(64), v1.RandomHorizontalFlip()
    torch.manual_seed(0)
    found = []
    for _ in range(DRAWS):
        one = flip(crop(image))
        assert isinstance(one, LazyImage)
        (x, y), (across, down) = one._start, one._step
        found.append((min(x, x + 64 * across), y, abs(across) * 64, down * 64, across < 0))
    torch.manual_seed(1)
    size = torch.empty(3, 200, 300, device="meta")
    drawn = [crop.get_params(size, crop.scale, crop.ratio) for _ in range(DRAWS)]
    expected = np.array([(left, top, width, height) for top, left, height, width in drawn], np.float64)
    columns = np.round(np.array(found, np.float64), 6)
    for number in range(4):
        assert ks_2samp(columns[:, number], expected[:, number]).pvalue > 1e-3
    assert abs(columns[:, 4].mean() - 0.5) < 0.015


@pytest.mark.parametrize("name", ["train", "evaluation", "evaluation bicubic"])
def test_photographs_differ_by_a_fraction_of_a_grey_level(tmp_path: Path, name: str) -> None:
    found = sorted(real("imagenet500").rglob("*.*"))[::8]
    (tmp_path / "a").mkdir()
    for path in found:
        (tmp_path / "a" / path.name).symlink_to(path.resolve())
    plain = datasets.ImageFolder(tmp_path, TRANSFORMS[name]())
    for exact, most in ((False, 0.8), (True, 0.5)):
        fused = rf.fuse(plain, exact=exact)
        torch.manual_seed(0)
        expected = [values(plain[number][0]) for number in range(len(plain))]
        torch.manual_seed(0)
        got = [values(image) for image, _ in fused.__getitems__(range(len(plain)))]
        assert np.mean([np.abs(a - b).mean() for a, b in zip(expected, got, strict=True)]) <= most
