"""The demonstration end to end, small."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from resflow.demo.data import Data, Split
from resflow.demo.model import STRIDE, small_classifier
from resflow.demo.report import closing_text
from resflow.demo.run import Settings, run_demo
from resflow.demo.train import Recipe, learning_rate
from resflow.errors import ConfigError

RECIPE = Recipe(epochs=2, first=32, last=48, batch_size=16, buckets=3, workers=0)


def run(out: Path) -> tuple[str, list[tuple[float, float]]]:
    console = Console(file=io.StringIO(), width=100)
    results = run_demo(Settings(out=out, images=40, recipe=RECIPE), console)
    assert [result.resolution for result in results] == [32, 48]
    assert all(result.images_per_second > 0 for result in results)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), [(result.loss, result.accuracy) for result in results]


def test_the_demo_runs_repeats_and_writes_only_into_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, first = run(Path("a"))
    lines = text.splitlines()
    head = next(n for n, line in enumerate(lines) if "resolution" in line and "padded %" in line)
    assert [line.split()[:2] for line in lines[head + 1 : head + 3]] == [["0", "32"], ["1", "48"]]
    assert "32 images to train on, 8 held out, 6 classes" in text
    assert "a/batches.png" in text
    assert "a/buckets.png" in text
    assert not any(character in text for character in "\r\x1b")  # no progress bars off a terminal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    np.testing.assert_allclose(run(Path("b"))[1], first, rtol=1e-4)
    with (tmp_path / "a/batches.png").open("rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_a_pattern_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--label-pattern is for your own images; got it without --data"):
        run_demo(Settings(out=tmp_path, label_pattern="(a)"), Console(file=io.StringIO()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    recipe = Recipe(device="cuda")
    with pytest.raises(ConfigError, match=r"device 'cuda' was asked for, but torch sees no GPU. Use --device cpu"):
        run_demo(Settings(out=tmp_path, images=20, recipe=recipe), Console(file=io.StringIO()))


@pytest.mark.parametrize("shape", [(STRIDE, STRIDE), (48, 160), (192, 64)])
def test_the_model_takes_any_shape(shape: tuple[int, int]) -> None:
    model = small_classifier(5).eval()
    assert model(torch.zeros(2, 3, *shape)).shape == (2, 5)
    assert 100_000 < sum(parameter.numel() for parameter in model.parameters()) < 300_000


def test_the_learning_rate_rises_once_and_falls_to_zero() -> None:
    rates = np.array([learning_rate(progress) for progress in np.linspace(0, 1, 101)])
    peak = int(rates.argmax())
    assert 10 < peak < 20
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert rates[-1] == pytest.approx(0)


def test_the_closing_text_is_honest() -> None:
    def text(train: list[int], held_out: list[int]) -> str:
        data = Data(Split((), tuple(train)), Split((), tuple(held_out)), tuple(map(str, range(max(train) + 1))))
        return closing_text(data, 0.5)

    many = text([0] * 300 + [1] * 100, [0] * 75 + [1] * 25)
    assert many.splitlines() == [
        "held-out accuracy 50.0% over 2 classes; always answering the most frequent class gives 75.0%"
    ]
    assert "only 10 images were held out: one of them is worth 10.0%" in text([0, 1] * 100, [0, 1] * 5)
    assert "3 of the 4 held-out images are of a class that no training image shows" in text([0, 9], [0, 1, 2, 3])
    assert "0.2 training images a class are few" in text([0, 9], [0, 1])
