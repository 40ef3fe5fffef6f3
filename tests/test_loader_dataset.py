"""What scripts ask of `loader.dataset` and `loader.sampler`, and datasets made of parts of sources."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as vision
from PIL import Image
from torch.utils.data import ConcatDataset, DistributedSampler, Subset, random_split

import resflow as rf
from resflow.errors import ConfigError, StateError, TargetError
from tests.shards import make_shards, samples

COUNT = 23
PIPELINE = rf.Pipeline(resolution=32, buckets=2, stride=8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards"), COUNT, per_shard=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    for sample in samples(COUNT):
        path = root / f"class{sample['cls']}" / f"{sample['__key__']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = sample["jpg"]
        assert isinstance(data, bytes)
        path.write_bytes(data)
    return root


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> rf.sources.Voc:
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "Annotations"):
        (root / name).mkdir()
    for number in range(8):
        Image.new("RGB", (60, 40), (number, 0, 0)).save(root / "JPEGImages" / f"{number}.jpg")
        box = f"<xmin>{number + 1}</xmin><ymin>1</ymin><xmax>{number + 20}</xmax><ymax>20</ymax>"
        page = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
        (root / "Annotations" / f"{number}.xml").write_text(page)
    return rf.sources.Voc(root, None)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_dataset_answers_as_the_users_own(folder: Path, workers: int) -> None:
    own = vision.ImageFolder(str(folder))
    loader = rf.DataLoader(own, 4, pipeline=PIPELINE, num_workers=workers)
    assert len(loader.dataset) == COUNT
    assert loader.dataset.classes == own.classes
    assert loader.dataset.class_to_idx == own.class_to_idx
    assert loader.dataset.targets == own.targets
    image, label = loader.dataset[3]
    assert (image.size, label) == (own[3][0].size, own[3][1])
    assert sum(len(batch) for batch in loader) == COUNT
    with pytest.raises(AttributeError):
        loader.dataset.nothing_such  # noqa: B018
    part = rf.DataLoader(Subset(own, [5, 2]), 2, pipeline=PIPELINE).dataset
    assert part.dataset is own
    assert part.indices == [5, 2]
    assert part[0][1] == own[5][1]


def test_items_of_sources(shards: str, voc: rf.sources.Voc) -> None:
    dataset: Any = rf.DataLoader(shards, 4, pipeline=PIPELINE).dataset
    image, label = dataset[-1]
    assert isinstance(image, Image.Image)
    assert label == (COUNT - 1) % 7
    with pytest.raises(IndexError):
        dataset[COUNT]
    found: Any = rf.DataLoader(voc, 4, pipeline=rf.Pipeline(resolution=32, targets=rf.Targets())).dataset
    assert found.classes == ("cat",)
    assert found[2][0].size == (60, 40)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_sampler_counts_samples(shards: str, ranks: int) -> None:
    loaders = [rf.DataLoader(shards, 4, pipeline=PIPELINE, world=rf.World(rank, ranks)) for rank in range(ranks)]
    for loader in loaders:
        assert isinstance(loader.sampler, DistributedSampler)
        assert len(loader.sampler) == loader.sampler.num_samples == -(-COUNT // ranks)
        assert len(loader.batch_sampler) == len(loader)
        assert loader.batch_sampler.batch_size == 4
        loader.sampler.set_epoch(2)
        assert loader.epoch == 2
    seen = [number for loader in loaders for number in loader.sampler]
    assert Counter(seen) == Counter(range(COUNT))
    assert seen == [i for loader in loaders for batch in loader for i in batch.sample_ids.tolist()]


@pytest.mark.parametrize("workers", [0, 1])
def test_parts_of_sources(voc: rf.sources.Voc, workers: int) -> None:
    pipeline = rf.Pipeline(resolution=32, buckets=1, targets=rf.Targets())
    first, second = random_split(voc, [5, 3], torch.Generator().manual_seed(0))  # type: ignore[var-annotated,arg-type]
    seen: list[str] = []
    for part in (first, second):
        loader = rf.DataLoader(part, 2, pipeline=pipeline, num_workers=workers)
        for batch in loader:
            for key, target in zip(batch.keys, batch.targets, strict=True):
                number = int(key.partition(".")[0])
                restored = batch.invert(boxes=[one["boxes"] for one in batch.targets])
                assert target["labels"].tolist() == [1]
                assert restored[batch.keys.index(key)][0, 0].item() == pytest.approx(number, abs=0.01)
                seen.append(key)
    assert Counter(seen) == Counter(f"{number}.jpg" for number in range(8))


def test_parts_of_shards_and_folders_together(shards: str, folder: Path) -> None:
    tars = rf.sources.ShardSource(shards)
    both: Any = ConcatDataset([Subset(tars, [3, 3, 1]), vision.ImageFolder(str(folder))])  # type: ignore[arg-type]
    labels = {3: [3], 1: [1]}
    seen = [
        (number, label)
        for batch in rf.DataLoader(both, 4, pipeline=PIPELINE)
        for number, label in zip(batch.sample_ids.tolist(), batch.targets.tolist(), strict=True)
    ]
    assert Counter(number for number, _ in seen) == Counter(range(COUNT + 3))
    assert dict(seen)[0] == dict(seen)[1] == labels[3][0]
    assert dict(seen)[2] == labels[1][0]
    whole = rf.DataLoader(Subset(tars, range(COUNT)), 4, pipeline=PIPELINE)  # type: ignore[arg-type]
    state = whole.state_dict()
    with pytest.raises(StateError):
        rf.DataLoader(Subset(tars, range(COUNT - 1)), 4, pipeline=PIPELINE).load_state_dict(state)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [list, torch.tensor])
def test_a_subset_of_samples_that_are_not_there(folder: Path, shards: str, make: Any) -> None:
    for whole in (vision.ImageFolder(str(folder)), rf.sources.ShardSource(shards), [("a.jpg", 0)] * COUNT):
        with pytest.raises(ConfigError, match=rf"in \[0, {COUNT}\).* got 99 at place 1, and 2 such in all"):
            rf.DataLoader(Subset(whole, make([0, 99, -77])), 2, pipeline=PIPELINE)  # type: ignore[arg-type]


MASK = [number % 2 == 0 for number in range(COUNT)]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (MASK, r"got True and False\. .*np\.flatnonzero\(mask\)"),
        ([True, 5], "got True and False"),
        (np.array(MASK), "got True and False"),
        (torch.tensor(MASK), "got True and False"),
        (np.array([0.0, 1.7]), r"got float64 \[2\]"),
        ([[0, 1], [2, 3]], r"got int64 \[2, 2\]"),
        (["0", "1"], "got <U1"),
        (5, "a sequence of whole numbers"),
    ],
)
def test_a_subset_by_what_is_no_index(folder: Path, shards: str, indices: Any, message: str) -> None:
    for whole in (vision.ImageFolder(str(folder)), rf.sources.ShardSource(shards), [("a.jpg", 0)] * COUNT):
        with pytest.raises(ConfigError, match=f"Subset.indices must be .*{message}"):
            rf.DataLoader(Subset(whole, indices), 2, pipeline=PIPELINE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, torch.tensor, lambda ids: np.array(ids, np.uint8), lambda ids: list(np.array(ids))]
)
def test_a_subset_by_indices_of_any_kind(folder: Path, make: Any) -> None:
    chosen = np.flatnonzero(MASK).tolist()
    whole = vision.ImageFolder(str(folder))
    batches = list(rf.DataLoader(Subset(whole, make(chosen)), 4, pipeline=PIPELINE))
    got = {
        number: int(label)
        for one in batches
        for number, label in zip(one.sample_ids.tolist(), one.targets, strict=True)
    }
    assert got == {place: whole.targets[number] for place, number in enumerate(chosen)}


def test_a_dataset_that_ends_before_its_length(folder: Path) -> None:
    class Short(list[Any]):
        def __len__(self) -> int:
            return COUNT

    with pytest.raises(ConfigError, match=r"Short\[2\] raised IndexError.* its __len__ tells more"):
        rf.DataLoader(Short([(Image.new("RGB", (9, 9)), 0)] * 2), 2, pipeline=PIPELINE)
    own = vision.ImageFolder(str(folder))
    cut = rf.DataLoader(own, 2, pipeline=PIPELINE)
    own.samples = own.samples[:5]
    with pytest.raises(ConfigError, match=r"ImageFolder\[\d+\] raised IndexError.* has become shorter"):
        list(cut)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_numpy_and_torch_are_whole_numbers(shards: str, kind: Any) -> None:
    def loader(number: Any) -> rf.DataLoader[Any]:
        fit = rf.Fit(short_side=None, fill=(number(1),) * 3)
        pipeline = rf.Pipeline(
            resolution=number(32), buckets=number(2), stride=number(8), fit=fit, on_error=rf.Skip(0.1, number(3))
        )
        made = rf.DataLoader(
            shards, number(4), shuffle=True, seed=number(7), world=rf.World(number(1), number(2)), pipeline=pipeline
        )
        made.set_epoch(number(3))
        return made

    plain, given = loader(int), loader(kind)
    assert json.dumps(given.state_dict()) == json.dumps(plain.state_dict())
    assert given.plan(kind(2)).sample_ids.tolist() == plain.plan(2).sample_ids.tolist()
    assert given.batch_size == 4
    assert rf.PixelBudget(kind(100), kind(4)) == rf.PixelBudget(100, 4)
    for wrong in (True, np.True_, torch.tensor(True), 4.0, np.float32(4), "4", None, torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ConfigError, match="batch_size must be a whole number"):
            rf.DataLoader(shards, wrong, pipeline=PIPELINE)
        with pytest.raises(ConfigError, match="epoch must be a whole number"):
            plain.set_epoch(wrong)  # type: ignore[arg-type]


def test_tensors_given_as_predictions_are_named(voc: rf.sources.Voc) -> None:
    batch = next(iter(rf.DataLoader(voc, 2, pipeline=rf.Pipeline(resolution=32, targets=rf.Targets()))))
    for shape, kind in (((3, 4), "boxes"), ((3, 5, 2), "keypoints"), ((3, 32, 32), "masks")):
        for given in ([torch.zeros(shape)] * 2, torch.zeros(2, *shape)):
            with pytest.raises(TargetError, match=rf"got a tensor .* for image 0\. .*batch\.invert\({kind}=\.\.\.\)"):
                batch.invert(given)
