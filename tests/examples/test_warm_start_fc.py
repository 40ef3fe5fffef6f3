"""The resized head answers as before, all ways start alike, and time is given out fairly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate

from tests.examples.loading import load


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load("warm_start_fc")


def test_the_resized_network_answers_as_before(example: ModuleType) -> None:
    torch.manual_seed(0)
    small = example.network(50, 8).eval()
    coarse = torch.rand(4, 3, 3, 3)
    images = {side: interpolate(coarse, size=side, mode="bicubic") for side in (50, 100)}
    with torch.no_grad():
        before = small(images[50])
        off = {}
        for name in ("resized", "fresh", "not scaled"):
            large = example.at_side(small, 50, 100, fresh=name == "fresh").eval()
            if name == "not scaled":
                large[1].weight.mul_(4)
            off[name] = ((large(images[100]) - before).std() / before.std()).item()
    assert off["resized"] < 0.2  # the body pads, and a finer border is a thinner one
    assert off["fresh"] > 0.8
    assert off["not scaled"] > 0.8


def test_a_cell_has_the_class_of_most_of_its_known_pixels(example: ModuleType) -> None:
    labels = np.random.default_rng(0).integers(0, example.VOID + 1, (2, 40, 40))
    labels[0, :4, :4] = example.VOID
    labels[1, 4:8, :4] = [[example.VOID] * 3 + [7]] * 4  # most pixels are unknown, the known ones are of class 7
    found = example.cells(torch.from_numpy(labels)).numpy()
    for image, row, column in np.ndindex(found.shape):
        part = labels[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        counts = np.bincount(part[part != example.VOID], minlength=example.VOID)
        expected = counts.argmax() if counts.any() else -100
        assert found[image, row, column] == expected
    assert found[0, 0, 0] == -100
    assert found[1, 1, 0] == 7


def test_all_ways(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "2", "--seeds", "1", "--sides", "20", "40", "--width", "8", "--output", str(tmp_path)]
    (curves,) = example.main([*arguments, "--data", str(tmp_path / "none")])
    warm, fresh, scratch = curves.values()
    assert [point.side for point in warm] == [point.side for point in fresh] == [20, 20, 20, 40, 40, 40]
    assert [point.samples for point in warm] == [0, 20, 40, 40, 60, 80]
    assert [(point.side, point.samples) for point in scratch] == [(40, 20 * epoch) for epoch in range(5)]
    assert [point[2:] for point in warm[:3]] == [point[2:] for point in fresh[:3]]  # bit by bit, though in turns
    assert abs(warm[3].loss - warm[2].loss) < 0.1
    assert scratch[-1].loss < 0.98 * scratch[0].loss
    assert warm[-1].loss < 0.98 * warm[0].loss
    rows = example.milestones(curves)
    assert rows["scratch, same samples"].samples == rows["warm start, head resized"].samples
    assert rows["scratch, same wall time"].seconds <= rows["warm start, head resized"].seconds
    told = capsys.readouterr().out
    assert "is not there" in " ".join(told.split())  # lines break where a path is long
    assert all(name in told for name in rows)
    with Image.open(tmp_path / "warm_start_fc.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_the_course_that_has_spent_least_goes_on(example: ModuleType) -> None:
    order: list[str] = []

    def course(name: str, cost: float, epochs: int) -> Iterator[Any]:
        for epoch in range(epochs + 1):
            order.append(name)
            yield example.Point(epoch * cost, epoch, 10, 1.0, 0.5)

    curves = example.in_turn({"slow": course("slow", 3.0, 2), "fast": course("fast", 1.0, 6)})
    assert {name: len(points) for name, points in curves.items()} == {"slow": 3, "fast": 7}
    assert order == ["slow", "fast", "slow", *["fast"] * 3, "slow", *["fast"] * 3]


def test_a_network_takes_one_size_only(example: ModuleType) -> None:
    import resflow as rf

    for side in (24, 48):
        assert rf.Pipeline.for_model(example.network(side, 4)).shapes() == ((side, side),)
    assert isinstance(example.at_side(example.network(20, 4), 20, 40)[1], nn.Linear)
