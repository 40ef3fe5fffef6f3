"""Batches of many shapes train, and what is counted are the pixels of the source images, each once."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import resflow as rf
from resflow.normalize import UNIT
from tests.examples.loading import load


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load("fcn_any_size")


def known_pixels(folder: Path, void: int) -> int:
    return sum(int((np.asarray(Image.open(path)) != void).sum()) for path in folder.glob("*.png"))


def test_trains_on_many_shapes(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "4", "--width", "6", "--resolutions", "32", "48", "--output", str(tmp_path)]
    rows, results = example.main([*arguments, "--data", str(tmp_path / "none")])
    assert rows[-1].loss < 0.95 * rows[0].loss
    shapes = {shape for row in rows for shape in row.shapes}
    assert len(shapes) >= 4
    assert all(height % 16 == 0 and width % 16 == 0 for height, width in shapes)
    assert len({np.sign(width - height) for height, width in shapes}) >= 2  # not of one ratio alone
    example.cut(tmp_path / "none", tmp_path)  # again, as it was
    known = known_pixels(tmp_path / "held_out" / "masks", example.VOID)
    assert list(results) == ["16 (unseen)", "32", "48", "96 (unseen)"]
    assert [int(counts.sum()) for counts in results.values()] == [known] * 4
    told = capsys.readouterr().out
    assert "is not there" in " ".join(told.split())  # lines break where a path is long
    assert all(word in told for word in ("sky", "building", "road", "car", "mean", "mIoU held out"))
    with Image.open(tmp_path / "fcn_any_size.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 50


class Oracle(nn.Module):
    """Scores from the brightness that drawn scenes give a class; `shift` plants a fault, in pixels of the batch."""

    def __init__(self, classes: int, shift: int = 0) -> None:
        super().__init__()
        self.levels, self.shift = (torch.arange(classes) * 25 + 40).view(1, -1, 1, 1) / 255, shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -(images.mean(1, keepdim=True) - self.levels).abs().roll(self.shift, -1)


def test_who_knows_the_classes_scores_fully_in_source_pixels(example: ModuleType, tmp_path: Path) -> None:
    example.cut(tmp_path / "none", tmp_path)
    folder = tmp_path / "held_out"
    source = rf.sources.MaskFolder(folder / "images", folder / "masks")
    pipeline = rf.Pipeline(resolution=128, buckets=3, stride=16, targets=rf.Targets(), normalize=UNIT)
    found = {}
    for shift in (0, 8):
        loader = rf.DataLoader(source, batch_size=2, pipeline=pipeline)
        counts = example.confusion(Oracle(example.VOID, shift), loader, folder / "masks")
        assert int(counts.sum()) == known_pixels(folder / "masks", example.VOID)
        found[shift] = example.iou(counts)[[0, 1, 3, 8]].min().item()
    assert found[0] > 0.85  # classes blend at the edges of figures
    assert found[8] < 0.75


def test_windows_have_many_ratios_and_cut_image_and_mask_alike(example: ModuleType, tmp_path: Path) -> None:
    example.cut(tmp_path / "none", tmp_path)
    ratios = []
    for part, count in (("train", 20), ("held_out", 4)):
        paths = sorted((tmp_path / part / "images").iterdir())
        assert len(paths) == count
        for path in paths:
            pixels = np.asarray(Image.open(path)).astype(float).mean(2)
            classes = np.asarray(Image.open(tmp_path / part / "masks" / path.name)).astype(float)
            assert pixels.shape == classes.shape
            assert abs(pixels - (classes * 25 + 40)).mean() < 10
            ratios.append(pixels.shape[1] / pixels.shape[0])
    assert min(ratios) < 0.7
    assert max(ratios) > 1.5


def test_iou_is_that_of_the_definition(example: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, 400), rng.integers(0, 4, 400)
    counts = torch.zeros(6, 6, dtype=torch.int64)
    for row, column in zip(truth, found, strict=True):
        counts[row, column] += 1
    expected = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in range(5)]
    np.testing.assert_allclose(example.iou(counts)[:5], expected, rtol=1e-6)
    assert example.iou(counts)[5].isnan()
