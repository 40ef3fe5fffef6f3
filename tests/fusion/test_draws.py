"""The windows and flips of fused images are distributed as torchvision draws them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision import transforms as v1

from resflow.fusion.lazy import LazyImage, open_lazily
from tests.fusion.conftest import draw

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
