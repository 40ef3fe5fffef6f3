"""`DataLoader(sampling=...)` over real images: labels of every kind of dataset, resume at each batch, ranks, errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, WeightedRandomSampler
from torchvision.datasets import ImageFolder

import resflow as rf
from resflow.errors import ConfigError, StateError
from tests.sources.annotated_sets import coco_set, picture

PIPELINE = rf.Pipeline(resolution=32, buckets=3, stride=8, views=[rf.views.HorizontalFlip()])
BALANCED = rf.sampling.Balanced("label")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of class a, ten of b, in three shapes."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(50):
        folder = root / ("b" if number % 5 == 0 else "a")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", ((40, 60, 40)[number % 3], (40, 40, 60)[number % 3])).save(folder / f"{number:02}.jpg")
    return root


def classes(loader: rf.DataLoader) -> Counter[int]:
    return Counter(label for batch in loader for label in batch.targets.tolist())


@pytest.mark.parametrize("kind", ["folder", "ImageFolder", "Subset", "ConcatDataset", "array"])
def test_classes_come_equally_often(photos: Path, kind: str) -> None:
    whole = ImageFolder(str(photos))
    data: Any = {
        "folder": str(photos),
        "Subset": Subset(whole, range(5, 50)),
        "ConcatDataset": ConcatDataset([whole] * 2),
    }
    sampling = rf.sampling.Balanced(np.array(whole.targets)) if kind == "array" else BALANCED
    loader = rf.DataLoader(data.get(kind, whole), batch_size=8, shuffle=True, pipeline=PIPELINE, sampling=sampling)
    found = classes(loader)
    assert abs(found[0] - found[1]) <= 1
    assert found.total() == {"Subset": 45, "ConcatDataset": 100}.get(kind, 50)
    assert len(loader) == -(-found.total() // 8)


def test_ranks_share_the_draws_and_a_state_goes_on_at_each_batch(photos: Path) -> None:
    def loader(rank: int = 0, world: int = 1) -> rf.DataLoader:
        return rf.DataLoader(
            str(photos),
            batch_size=8 // world,
            shuffle=True,
            seed=4,
            pipeline=PIPELINE,
            sampling=BALANCED,
            world=rf.World(rank, world),
        )

    def drawn(loader: rf.DataLoader) -> list[tuple[Any, ...]]:
        return [(tuple(batch.sample_ids.tolist()), batch.transform.sum().item()) for batch in loader]

    alone = loader()
    alone.set_epoch(1)
    expected = drawn(alone)
    ranks = [loader(rank, 2) for rank in range(2)]
    parts: Counter[int] = Counter()
    for one in ranks:
        one.set_epoch(1)
        parts += Counter(number for ids, _ in drawn(one) for number in ids)
    assert parts == Counter(number for ids, _ in expected for number in ids)
    for stop in range(len(expected)):
        first = loader()
        first.set_epoch(1)
        batches = iter(first)
        for _ in range(stop):
            next(batches)
        second = loader()
        second.load_state_dict(first.state_dict())
        assert drawn(second) == expected[stop:]


def test_a_state_of_another_sampling_is_refused(photos: Path) -> None:
    def loader(sampling: Any) -> rf.DataLoader:
        return rf.DataLoader(str(photos), batch_size=8, pipeline=PIPELINE, sampling=sampling)

    state = loader(BALANCED).state_dict()
    for other in (None, rf.sampling.Balanced("label", power=0.5)):
        with pytest.raises(StateError):
            loader(other).load_state_dict(state)


def test_a_weighted_sampler_beside_buckets_is_taken_for_its_weights(photos: Path) -> None:
    whole = ImageFolder(str(photos))
    weights = torch.tensor([1.0 if target else 0.0 for target in whole.targets])
    sampler = WeightedRandomSampler(weights.tolist(), num_samples=30)
    loader = rf.DataLoader(whole, batch_size=8, sampler=sampler, pipeline=PIPELINE)
    assert classes(loader) == {1: 30}


def test_rare_categories_of_objects_come_more_often(tmp_path: Path) -> None:
    images, path = coco_set(tmp_path)
    data = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(20)],
        "categories": [{"id": 1, "name": "usual"}, {"id": 2, "name": "rare"}],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 2 if number == 3 else 1, "bbox": [1, 1, 9, 9]}
            for number in range(20)
        ],
    }
    for number in range(20):
        picture(images / f"{number}.png", 40, 50)
    path.write_text(json.dumps(data))
    pipeline = rf.Pipeline(resolution=32, buckets=1, targets=rf.Targets())
    loader = rf.DataLoader(
        rf.sources.Coco(images, path),
        batch_size=5,
        pipeline=pipeline,
        sampling=rf.sampling.RepeatFactor("categories", threshold=0.8),
    )
    counts = Counter(number for batch in loader for number in batch.sample_ids.tolist())
    assert counts[3] == 4  # sqrt(0.8 / 0.05)
    assert {count for number, count in counts.items() if number != 3} == {1}


def test_what_does_not_go_together_is_named(photos: Path) -> None:
    whole = ImageFolder(str(photos))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"dataset": [(str(photos / "b" / "00.jpg"), 1)] * 9}, "'label', which list does not have"),
        ({"sampling": "balanced"}, "must be one of rf.sampling"),
        ({"sampling": rf.sampling.Balanced}, "must be one of rf.sampling"),
        ({"sampler": range(50), "pipeline": rf.Pipeline(resolution=32, buckets=1)}, "both decide the order"),
        ({"pipeline": None}, "sampling has no meaning without a pipeline"),
    ]
    for options, words in cases:
        given = {"dataset": whole, "batch_size": 8, "pipeline": PIPELINE, "sampling": BALANCED} | options
        with pytest.raises(ConfigError, match=words):
            rf.DataLoader(**given)
