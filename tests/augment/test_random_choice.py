"""Mixing some batches, and choosing among mixings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import resflow as rf
from resflow.augment import Augment, CopyPaste, CutMix, MixUp, Mosaic, RandomChoice
from resflow.errors import ConfigError, TargetError
from resflow.schedules import Ramp

BATCH, CLASSES = 6, 10
IMAGES = torch.linspace(0.1, 0.9, BATCH)[:, None, None, None].expand(BATCH, 3, 16, 16).contiguous()
LABELS = torch.tensor([3, 1, 4, 1, 5, 9])
SEEDS = range(300)


def kind(operation: Any, seed: int, progress: float = 0.0) -> str:
    """What was done to a batch, told by its pixels; its targets are checked."""
    result = Augment([operation])(IMAGES, LABELS, seed=seed, progress=progress)
    shares = result.targets
    assert isinstance(shares, torch.Tensor)
    assert (shares.shape, shares.dtype) == ((BATCH, CLASSES), torch.float32)
    torch.testing.assert_close(shares.sum(1), torch.ones(BATCH))
    if torch.equal(result.images, IMAGES):
        assert torch.equal(shares, torch.nn.functional.one_hot(LABELS, CLASSES).float())
        return "none"
    flat = result.images[:, 0].flatten(1)
    return "mixup" if (flat == flat[:, :1]).all() else "cutmix"


@pytest.mark.parametrize("operation", [MixUp(1.0, CLASSES, p=0.25), CutMix(1.0, CLASSES, p=0.25)])
def test_p_is_the_share_of_batches_that_are_mixed(operation: Any) -> None:
    found = Counter(kind(operation, seed) for seed in SEEDS)
    assert 0.15 < 1 - found["none"] / len(SEEDS) < 0.35
    assert {kind(type(operation)(1.0, CLASSES, p=0.0), seed) for seed in range(20)} == {"none"}


def test_a_mixing_that_always_occurs_draws_what_it_drew() -> None:
    for operation in (MixUp, CutMix):
        one, other = (
            Augment([made])(IMAGES, LABELS, seed=7) for made in (operation(1.0, 10), operation(1.0, 10, p=1.0))
        )
        assert torch.equal(one.images, other.images)


def test_p_follows_the_resolution() -> None:
    operation = MixUp(1.0, CLASSES, p=Ramp(0.0, 1.0))
    assert {kind(operation, seed, progress=0.0) for seed in range(10)} == {"none"}
    assert {kind(operation, seed, progress=1.0) for seed in range(10)} == {"mixup"}


def test_the_choice_follows_its_weights() -> None:
    pair = [MixUp(1.0, CLASSES), CutMix(1.0, CLASSES)]
    found = Counter(kind(RandomChoice(pair, p=[1, 3]), seed) for seed in SEEDS)
    assert 0.15 < found["mixup"] / len(SEEDS) < 0.35
    assert found["cutmix"] > len(SEEDS) / 2
    even = Counter(kind(RandomChoice(pair), seed) for seed in SEEDS)
    assert 0.4 < even["mixup"] / len(SEEDS) < 0.6
    assert [kind(RandomChoice(pair), seed) for seed in range(9)] == [
        kind(RandomChoice(pair), seed) for seed in range(9)
    ]


def test_a_loader_mixes_by_the_batch(tmp_path: Path) -> None:
    from tests.shards import make_shards

    choice = RandomChoice([MixUp(1.0, 7, p=0.5), CutMix(1.0, 7, p=0.5)])
    pipeline = rf.Pipeline(resolution=32, buckets=1, stride=16, augment=[choice])
    loader = rf.DataLoader(make_shards(tmp_path, 40), batch_size=4, pipeline=pipeline, seed=1)
    batches = list(loader)
    assert {tuple(batch.targets.shape) for batch in batches} == {(4, 7)}
    whole = [bool(((batch.targets == 1).sum(1) == 1).all()) for batch in batches]
    assert any(whole)
    assert not all(whole)
    again = rf.DataLoader(tmp_path.as_posix() + "/train-{000000..000001}.tar", batch_size=4, pipeline=pipeline, seed=1)
    assert all(torch.equal(left.images, right.images) for left, right in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixUp(p=1.1), r"MixUp.p must be a probability in \[0, 1\]; got 1.1"),
        (lambda: CutMix(p=True), "CutMix.p"),
        (lambda: RandomChoice([]), "RandomChoice takes a list of MixUp"),
        (lambda: RandomChoice(MixUp()), "RandomChoice takes a list"),  # type: ignore[arg-type]
        (lambda: RandomChoice([torch.nn.Identity()]), "random_apply=1"),  # type: ignore[list-item]
        (lambda: RandomChoice([MixUp(), CutMix()], p=[1.0]), "RandomChoice.p must be 2 numbers"),
        (lambda: RandomChoice([MixUp(), CutMix()], p=[0, 0]), "not all 0"),
        (lambda: RandomChoice([MixUp(num_classes=3), CutMix(num_classes=4)]), "different numbers of classes"),
        (lambda: Augment([RandomChoice([Mosaic()])]).check(spatial=False), "Mosaic"),
    ],
)
def test_wrong_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_targets_that_cannot_be_mixed_are_refused() -> None:
    with pytest.raises(TargetError, match="num_classes"):
        Augment([MixUp(p=0.0)])(IMAGES, LABELS, seed=0)
    Augment([RandomChoice([Mosaic(), CopyPaste()])]).check(spatial=True)


def test_yaml_names_the_operations(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "resolution: {linear: {start: 64, stop: 128, epochs: 2}}\n"
        "augment:\n"
        "  - random_choice:\n"
        "      operations: [{mix_up: {num_classes: 10, p: {ramp: [0.0, 0.5]}}}, {cut_mix: {num_classes: 10}}]\n"
        "      p: [0.3, 0.7]\n"
    )
    choice = RandomChoice([MixUp(num_classes=10, p=Ramp(0.0, 0.5)), CutMix(num_classes=10)], p=(0.3, 0.7))
    assert rf.Pipeline.from_yaml(path).augment == (choice,)
    path.write_text("resolution: 64\naugment:\n  - random_choice: {operations: [mix_down]}\n")
    with pytest.raises(ConfigError, match=r"pipeline.yaml:3: random_choice: there is no augmentation 'mix_down'"):
        rf.Pipeline.from_yaml(path)
