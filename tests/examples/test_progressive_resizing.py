"""The schedule's epochs grow, the others' do not, and the plan tells their pixels beforehand."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

import resflow as rf
from tests.examples.loading import drawn_on, load


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load("progressive_resizing")


def test_three_ways(example: ModuleType, tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tars / "out"
    runs = example.main(["--epochs", "4", "--width", "8", "--batch-size", "8", "--output", str(output)])
    grown, fixed, cheap = runs.values()
    assert [one.resolution for one in grown] == [16, 32, 48, 64]
    assert [one.resolution for one in fixed] == [64] * 4
    assert [one.resolution for one in cheap] == [64] * 2  # 30 parts in 64 of the pixels
    assert grown[-1].accuracy > 0.8
    assert fixed[-1].loss < 0.8 * fixed[0].loss
    assert drawn_on(output / "accuracy.png")
    said = capsys.readouterr().out
    assert "the schedule trains on 47% of the pixels" in said
    assert all(name in said for name in runs)


def test_the_plan_knows_the_pixels(example: ModuleType, tars: Path) -> None:
    given = argparse.Namespace(width=8, device="cpu", batch_size=8)
    data = example.find_images(tars, Console())
    schedule = rf.schedules.Steps({0: 16, 1: 32})
    training = example.Training(data, schedule, 2, given)
    seen = 0
    for epoch in range(2):
        training.loader.set_epoch(epoch)
        seen += sum(images.shape[2] * images.shape[3] for images, _ in training.loader)
    assert training.pixels() == seen == 6 * (16 * 16 + 32 * 32)


def test_without_cifar_images_are_drawn_and_that_is_said(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESFLOW_TEST_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(example, "DRAWN", 20)
    train, test, classes = example.find_images(tmp_path, Console(width=200))
    assert classes == 6
    assert all(path.exists() for path in [*train, *test])
    said = " ".join(capsys.readouterr().out.split())
    assert "no CIFAR-10 in" in said
    assert "so 20 images are drawn instead" in said
