"""Shapes change from batch to batch, with less padding than squares; each costs a graph unless they are dynamic."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resflow.errors import ConfigError
from tests.examples.loading import load


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load("dynamic_input")


@pytest.fixture(autouse=True)
def _no_graphs(example: ModuleType, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "graphs" not in request.node.name:  # they take seconds of tracing
        monkeypatch.setattr(example, "graphs", lambda _model, shapes, dynamic: 1 if dynamic else len(shapes))


def test_both_ways(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--images", "60", "--epochs", "2", "--batch-size", "6", "--resolutions", "64", "80"]
    runs = example.main([*small, "--model", "squeezenet1_1", "--output", str(tmp_path)])
    shapes, squares = runs.values()
    assert len(shapes.batches) > 3
    assert set(squares.batches) == {(64, 64), (80, 80)}
    assert shapes.batches.total() == squares.batches.total() == 2 * 48 // 6
    padded = [run.padding.total() / run.pixels.total() for run in (shapes, squares)]
    assert 0 < padded[0] < 0.6 * padded[1]
    assert all(len(run.losses) == len(run.accuracy) == len(run.seconds) == 2 for run in (shapes, squares))
    with Image.open(tmp_path / "shapes.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    said = capsys.readouterr().out
    assert "squeezenet1_1: stride 16, at least" in said
    assert all(f"{height} x {width}" in said for height, width in shapes.batches)


def test_shapes_too_narrow_for_the_model_are_refused_by_its_layer(example: ModuleType, tmp_path: Path) -> None:
    small = ["--images", "60", "--epochs", "1", "--batch-size", "6", "--resolutions", "32"]
    with pytest.raises(ConfigError, match=r"below the model's minimum of 17x17: nothing would be left at layer"):
        example.main([*small, "--model", "squeezenet1_1", "--output", str(tmp_path)])


@pytest.mark.slow
def test_own_images_have_their_folders_as_classes(example: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (60 + number, 70, 3), np.uint8)).save(path)
    small = ["--epochs", "1", "--batch-size", "4", "--resolutions", "64", "--model", "squeezenet1_1"]
    runs = example.main([*small, "--data", str(tmp_path / "photos"), "--output", str(tmp_path / "out")])
    assert [run.batches.total() for run in runs.values()] == [4, 4]


def test_graphs_are_counted(example: ModuleType) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    shapes = [(2, 3, 16, 24), (2, 3, 24, 16), (2, 3, 32, 40)]
    assert example.graphs(model, shapes, dynamic=False) == 3
    assert example.graphs(model, shapes, dynamic=True) == 1
    torch._dynamo.reset()
