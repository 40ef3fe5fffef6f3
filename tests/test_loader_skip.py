"""Bad samples that are skipped: blank places, the report, the budget; the same for all workers, ranks and resumes."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import ImageFolder

import resflow as rf
from resflow.augment import CopyPaste, CutMix, MixUp, Mosaic
from resflow.errors import ConfigError, DecodeError, SkipBudgetError, StateError
from resflow.normalize import UNIT
from resflow.skip import Skipped
from resflow.sources import ShardSource
from resflow.sources.tier_writer import make_tiers
from tests.figures import coco_folder
from tests.shards import jpeg, make_shards

COUNT = 45
BAD = {4: "truncated", 11: "torn", 17: "label", 25: "size", 26: "header", 40: "truncated"}
REASONS = {
    "truncated": "DecodeError: ",
    "torn": "ShardError: ",
    "label": "TargetError: a class must be a decimal number",
    "size": "DecodeError: turbo cannot place the image: it is ",
    "header": "DecodeError: turbo cannot decode the image: ",
}
FILL = (10, 200, 30)
SKIP = rf.Skip(budget=0.5)
PIPELINE = rf.Pipeline(
    resolution=rf.schedules.Steps({0: 32, 1: 40}),
    buckets=3,
    stride=8,
    fit=rf.Fit(fill=FILL),
    views=[rf.views.RandomResizedCrop(scale=(0.5, 1.0)), rf.views.HorizontalFlip()],
    on_error=SKIP,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("sound"), COUNT)


@pytest.fixture(scope="module")
def shards(sound: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with some samples damaged after they were indexed."""
    folder = tmp_path_factory.mktemp("bad") / "shards"
    shutil.copytree(Path(sound).parent, folder)
    pattern = str(folder / Path(sound).name)
    for sample_id, how in BAD.items():
        damage(pattern, sample_id, how)
    return pattern


def damage(pattern: str, sample_id: int, how: str) -> None:
    source = ShardSource(pattern)
    [sample] = source.read(np.array([sample_id]))
    path, image, start = Path(sample.shard), bytes(sample.image), int(source.index.offset[sample_id])
    source.close()
    data = bytearray(path.read_bytes())
    at = data.index(image, start)
    if how == "truncated":
        data[at + len(image) // 2 : at + len(image)] = bytes(len(image) - len(image) // 2)
    elif how == "header":
        data[at : at + 20] = bytes(20)
    elif how == "torn":
        data[start + 100 : start + 160] = b"\xff" * 60
    elif how == "label":
        label = bytes(sample.members["cls"])
        place = data.index(label, data.index(b".cls", start) + 500)
        data[place : place + 1] = b"x"
    else:
        other = jpeg(8, 9)
        assert len(other) <= len(image)
        data[at : at + len(image)] = other + bytes(len(image) - len(other))
    path.write_bytes(data)


def loader(data: Any, pipeline: rf.Pipeline = PIPELINE, *, batch_size: int = 6, **arguments: Any) -> rf.DataLoader:
    shuffle = not isinstance(data, IterableDataset)
    return rf.DataLoader(data, batch_size=batch_size, shuffle=shuffle, pipeline=pipeline, **arguments)


def with_fields(**fields: Any) -> rf.Pipeline:
    return dataclasses.replace(PIPELINE, **fields)


def same(one: rf.Batch, other: rf.Batch) -> None:
    assert (one.keys, one.skipped) == (other.keys, other.skipped)
    for name in ("images", "targets", "transform", "valid", "source_size", "sample_ids", "present"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def check_blank(batches: Sequence[rf.Batch], clean: Sequence[rf.Batch], bad: Sequence[int]) -> None:
    """Blank places where samples are bad, and all others bit by bit as if none were."""
    for batch, whole in itertools.zip_longest(batches, clean):
        ids, blank = batch.sample_ids.tolist(), ~batch.present
        assert ids == whole.sample_ids.tolist()
        assert batch.keys == whole.keys
        assert blank.tolist() == [number in bad for number in ids]
        assert [record.sample_id for record in batch.skipped] == [number for number in ids if number in bad]
        for name in ("images", "targets", "valid"):
            assert torch.equal(getattr(batch, name)[~blank], getattr(whole, name)[~blank]), name
        for name in ("transform", "source_size"):
            assert torch.equal(getattr(batch, name), getattr(whole, name)), name
        assert (batch.images[blank] == torch.tensor(FILL, dtype=torch.uint8)[:, None, None]).all()
        assert (batch.targets[blank] == -100).all()
        assert not batch.valid[blank].any()
        assert batch.images.is_contiguous()


@pytest.mark.parametrize(("engine", "batch_size"), [("turbo", 6), ("turbo", 1), ("pillow", 6), ("dali", 6)])
def test_a_bad_sample_leaves_a_blank_place_and_changes_no_other(
    sound: str, shards: str, engine: str, batch_size: int
) -> None:
    pipeline = with_fields(engine=engine, views=[*PIPELINE.views, rf.views.Rotate(10)] if engine != "dali" else [])
    under_test = loader(shards, pipeline, batch_size=batch_size)
    batches = list(under_test)
    check_blank(batches, list(loader(sound, pipeline, batch_size=batch_size)), list(BAD))
    assert under_test.skipped == tuple(itertools.chain.from_iterable(batch.skipped for batch in batches))


@pytest.mark.parametrize("plant", ["lost", "moved", "pixels"])
def test_the_check_fails_on_planted_faults(sound: str, shards: str, plant: str) -> None:
    batches, clean = list(loader(shards)), list(loader(sound))
    place = next(place for place, batch in enumerate(batches) if len(batch.skipped) == 1)
    batch = batches[place]
    planted = {
        "lost": {"skipped": ()},
        "moved": {"present": batch.present.roll(1)},
        "pixels": {"images": batch.images + batch.present[:, None, None, None].byte()},
    }
    batches[place] = dataclasses.replace(batch, **planted[plant])
    with pytest.raises(AssertionError):
        check_blank(batches, clean, list(BAD))


def test_the_report_names_keys_reasons_and_places(shards: str) -> None:
    under_test = loader(shards)
    assert under_test.skipped == ()
    epochs = [(list(under_test), under_test.skipped)[1] for _ in range(2)]
    source = ShardSource(shards)
    for epoch, records in enumerate(epochs):
        assert sorted(record.sample_id for record in records) == sorted(BAD)
        assert [record.step for record in records] == sorted(record.step for record in records)
        for record in records:
            how, start = BAD[record.sample_id], int(source.index.offset[record.sample_id])
            assert record.reason.startswith(REASONS[how])
            assert (record.key, record.epoch, record.offset) == (f"{record.sample_id:05d}", epoch, start)
            assert Path(record.shard).name == f"train-{record.sample_id // 20:06d}.tar"


def test_two_workers_skip_as_this_process_does(shards: str) -> None:
    alone, workers = loader(shards), loader(shards, num_workers=2, persistent_workers=True)
    for _ in range(2):
        for one, other in itertools.zip_longest(alone, workers):
            same(one, other)
        assert alone.skipped == workers.skipped != ()


@pytest.mark.parametrize("size", [2, 4])
def test_the_skips_do_not_depend_on_the_number_of_ranks(shards: str, size: int) -> None:
    whole = loader(shards, batch_size=8)
    ranks = [loader(shards, batch_size=8 // size, world=rf.World(rank, size)) for rank in range(size)]
    for one, *parts in itertools.zip_longest(whole, *ranks):
        assert one.keys == tuple(itertools.chain.from_iterable(part.keys for part in parts))
        assert one.skipped == tuple(itertools.chain.from_iterable(part.skipped for part in parts))
        for name in ("images", "targets", "valid", "present"):
            assert torch.equal(getattr(one, name), torch.cat([getattr(part, name) for part in parts])), name
    found = itertools.chain.from_iterable(rank.skipped for rank in ranks)
    assert sorted(whole.skipped, key=repr) == sorted(found, key=repr)


def test_ranks_may_change_in_mid_epoch_and_lose_repeat_or_reorder_nothing(shards: str) -> None:
    whole = loader(shards, batch_size=8)
    expected = [(number, number in BAD) for batch in whole for number in batch.sample_ids.tolist()]
    handed: list[tuple[int, bool]] = []
    records: list[Skipped] = []
    state = None
    for size, steps in ((4, 2), (2, 1), (8, 1), (1, 9)):
        ranks = [loader(shards, batch_size=8 // size, world=rf.World(rank, size)) for rank in range(size)]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        loops = [iter(rank) for rank in ranks]
        for _ in range(steps):
            for batch in itertools.chain.from_iterable(itertools.islice(loop, 1) for loop in loops):
                handed += zip(batch.sample_ids.tolist(), (~batch.present).tolist(), strict=True)
                records += batch.skipped
        state = json.loads(json.dumps(ranks[0].state_dict()))
    assert handed == expected
    assert tuple(records) == whole.skipped


def test_resume_at_every_batch_skips_the_same(shards: str) -> None:
    reference = loader(shards)
    whole, states = [], [json.loads(json.dumps(reference.state_dict()))]
    for batch in reference:
        whole.append(batch)
        states.append(json.loads(json.dumps(reference.state_dict())))
    for position, state in enumerate(states):
        resumed = loader(shards)
        resumed.load_state_dict(state)
        for one, other in itertools.zip_longest(whole[position:], resumed):
            same(one, other)
        assert resumed.skipped == reference.skipped
        list(itertools.islice(resumed, 3))  # the next epoch begins at none
        assert {record.epoch for record in resumed.skipped} <= {1}


def test_a_budget_goes_on_after_a_resume(shards: str) -> None:
    pipeline = with_fields(on_error=rf.Skip(budget=0, grace=4))
    reference = loader(shards, pipeline)
    states = [reference.state_dict()]

    def run(under_test: rf.DataLoader) -> int:
        with pytest.raises(SkipBudgetError, match=r"[56] bad samples in epoch 0, and on_error=Skip"):
            states.extend(under_test.state_dict() for _ in under_test)
        return under_test.state_dict()["step"]

    step = run(reference)
    assert 0 < step < len(reference)
    assert len(states[-1]["skipped"]["records"]) <= 4
    for state in states.copy():
        resumed = loader(shards, pipeline)
        resumed.load_state_dict(state)
        assert run(resumed) == step
    forgetful = {name: value for name, value in states[step].items() if name != "skipped"}
    resumed = loader(shards, pipeline)
    resumed.load_state_dict(forgetful)  # planted: a count that is lost lets the run go on
    list(resumed)
    # With more allowed it goes on from the last state, and nothing is counted twice.
    resumed = loader(shards)
    resumed.load_state_dict(reference.state_dict())
    list(resumed)
    assert sorted(record.sample_id for record in resumed.skipped) == sorted(BAD)


def test_a_state_is_split_among_other_ranks(shards: str) -> None:
    one = loader(shards, batch_size=8)
    rest = iter(one)
    for _ in range(4):
        next(rest)
    state = one.state_dict()
    ranks = [loader(shards, batch_size=4, world=rf.World(rank, 2)) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    assert sorted(one.skipped, key=repr) == sorted((*ranks[0].skipped, *ranks[1].skipped), key=repr)
    assert len(one.skipped) > 1
    list(rest)
    for rank in ranks:
        list(rank)
    assert sorted(one.skipped, key=repr) == sorted((*ranks[0].skipped, *ranks[1].skipped), key=repr)


def test_a_run_that_raised_may_go_on_and_skip(shards: str) -> None:
    strict = loader(shards, with_fields(on_error="raise"), batch_size=2)
    handed: list[int] = []

    def run() -> None:
        for batch in strict:
            assert batch.present is None
            assert batch.skipped == ()
            handed.extend(batch.sample_ids.tolist())

    with pytest.raises((DecodeError, rf.errors.ShardError, rf.errors.TargetError)):
        run()
    resumed = loader(shards, batch_size=2)
    resumed.load_state_dict(strict.state_dict())
    handed += itertools.chain.from_iterable(batch.sample_ids.tolist() for batch in resumed)
    assert sorted(handed) == list(range(COUNT))
    assert sorted(record.sample_id for record in resumed.skipped) == sorted(BAD)


def test_over_budget_raises_and_names_the_first(shards: str) -> None:
    under_test = loader(shards, with_fields(on_error=rf.Skip(budget=0.04, grace=0)))  # 1.8 of 45
    with pytest.raises(SkipBudgetError) as caught:
        list(under_test)
    first = under_test.skipped[0]
    assert "bad samples in epoch 0, and on_error=Skip(budget=0.04, grace=0) lets 1 of this rank's 45" in str(
        caught.value
    )
    assert f"The first are {first.shard}/{first.key}: {first.reason}" in str(caught.value)
    assert str(caught.value).endswith("or raise Skip.budget and go on from the last state.")
    list(loader(shards, with_fields(on_error=rf.Skip(budget=0.04, grace=6))))
    list(loader(shards, with_fields(on_error=rf.Skip(budget=6 / COUNT, grace=0))))


def test_the_budget_is_of_a_ranks_share(shards: str) -> None:
    def ranks(skip: rf.Skip) -> list[rf.DataLoader]:
        pipeline = with_fields(on_error=skip)
        return [loader(shards, pipeline, world=rf.World(rank, 2), batch_size=3) for rank in range(2)]

    free = ranks(SKIP)
    found = [(list(rank), len(rank.skipped))[1] for rank in free]
    assert sum(found) == len(BAD)
    most = max(found)
    for rank in ranks(rf.Skip(budget=most / 22, grace=0)):
        list(rank)
    fewer = ranks(rf.Skip(budget=(most - 1) / 22, grace=0))[found.index(most)]
    with pytest.raises(SkipBudgetError, match=f"lets {most - 1} of this rank's 22 be skipped"):
        list(fewer)


def test_damaged_records_in_a_state_are_refused(shards: str) -> None:
    under_test = loader(shards)
    next(iter(under_test))
    for damaged in (3, {"seen": 0}, {"seen": 0, "records": [{"key": 1}]}, {"seen": "0", "records": []}):
        with pytest.raises(StateError, match=r"saved state: skipped .* Use an earlier state\."):
            loader(shards).load_state_dict(under_test.state_dict() | {"skipped": damaged})


def test_a_damaged_tier_is_skipped_like_a_damaged_original(sound: str, tmp_path: Path) -> None:
    shutil.copytree(Path(sound).parent, tmp_path / "tiers")
    pattern = str(tmp_path / "tiers" / Path(sound).name)
    make_tiers(pattern, [24, 32], workers=1)
    pipeline = with_fields(resolution=24, views=[])
    clean = list(loader(pattern, pipeline))
    source = ShardSource(pattern)
    tiers = source.open_tiers()
    assert tiers is not None
    bad = [4, 17, 30]
    for sample_id, how in zip(bad, ("entry", "image", "image"), strict=True):
        number = int(np.flatnonzero(tiers.present(np.array([sample_id]))[:, 0])[0])
        [sample] = source.read_tiers(np.array([sample_id]), np.array([number]), members=False)
        path = tiers.shards[number][int(source.index.shard[sample_id])]
        data, image = bytearray(path.read_bytes()), bytes(sample.image)
        at = data.index(image)
        hurt = slice(at - 512, at - 412) if how == "entry" else slice(at + len(image) // 2, at + len(image))
        data[hurt] = bytes(hurt.stop - hurt.start)
        path.write_bytes(data)
    under_test = loader(pattern, pipeline)
    check_blank(list(under_test), clean, bad)
    reasons = {record.sample_id: record.reason for record in under_test.skipped}
    assert reasons[4].startswith("ShardError: ")
    assert reasons[17].startswith("DecodeError: tier ")


@pytest.mark.parametrize("decorrelate", [False, True])
def test_a_mix_of_sources_skips_and_resumes_alike(sound: str, shards: str, decorrelate: bool) -> None:
    def opened() -> rf.DataLoader:
        data = rf.sources.Mix([shards, sound], weights=[2, 1], epoch_size=60)
        return loader(data, batch_size=3, world=rf.World(1, 2), decorrelate=decorrelate)

    reference = opened()
    whole, states = [], []
    for batch in reference:
        whole.append(batch)
        states.append(json.loads(json.dumps(reference.state_dict())))
        assert [not present for present in batch.present.tolist()] == [
            number in BAD for number in batch.sample_ids.tolist()
        ]
    assert reference.skipped
    for position in (1, 4, 7):
        resumed = opened()
        resumed.load_state_dict(states[position - 1])
        for one, other in itertools.zip_longest(whole[position:], resumed):
            same(one, other)
        assert resumed.skipped == reference.skipped


# What models see


def test_loss_and_gradient_are_those_of_the_batch_without_the_blank_places(shards: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(3),
        torch.nn.Flatten(),
        torch.nn.Linear(27, 9),
        torch.nn.Tanh(),
        torch.nn.Linear(9, 7),
    ).double()

    def gradients(images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        loss = torch.nn.CrossEntropyLoss()(model(images.double()), labels)
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    batches = [batch for batch in loader(shards, with_fields(normalize=rf.IMAGENET)) if batch.skipped]
    assert batches
    for batch in batches:
        images, labels = batch
        present = batch.present
        for whole, part in zip(gradients(images, labels), gradients(images[present], labels[present]), strict=True):
            torch.testing.assert_close(whole, part, rtol=1e-9, atol=1e-12)
        wrong = gradients(images, labels.where(present, 0))[0]  # planted: a class where there is none
        assert not torch.isclose(wrong, gradients(images, labels)[0])


@pytest.mark.parametrize("mixing", [MixUp(1.0, num_classes=7), CutMix(1.0, num_classes=7)])
def test_soft_labels_of_a_blank_place_are_zero_and_add_no_loss(shards: str, mixing: Any) -> None:
    pipeline = with_fields(augment=[kornia.ColorJiggle(0.3, 0.3, 0.3, 0.1, p=1.0), mixing], normalize=UNIT)
    blanks = 0
    for batch in loader(shards, pipeline):
        blank, sums = ~batch.present, batch.targets.sum(1)
        assert not sums[blank].any()
        assert (sums[~blank] <= 1 + 1e-6).all()
        fill = torch.tensor(FILL).float()[:, None, None] / 255
        torch.testing.assert_close(batch.images[blank], fill.expand(int(blank.sum()), 3, *batch.images.shape[2:]))
        loss = torch.nn.CrossEntropyLoss(reduction="none")(torch.randn(len(batch), 7), batch.targets)
        assert torch.isfinite(loss).all()
        assert not loss[blank].any()
        assert batch.mixed
        assert not batch.valid[blank].any()
        blanks += int(blank.sum())
    assert blanks == len(BAD)


# Targets with places


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder with two images cut short after their sizes were read; label maps beside them, one cut short."""
    folder, _ = coco_folder(tmp_path_factory.mktemp("figures"), 12)
    return folder


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def spatial(**fields: Any) -> rf.Pipeline:
    targets = fields.pop("targets", rf.Targets(masks=True, keypoints=True))
    return rf.Pipeline(
        resolution=64, buckets=2, stride=16, fit=rf.Fit(fill=FILL), targets=targets, on_error=SKIP, **fields
    )


def hurt_figures(folder: Path, to: Path) -> tuple[rf.sources.Coco, set[int]]:
    shutil.copytree(folder.parent, to)
    source = rf.sources.Coco(to / folder.name, next(iter(to.glob("*.json"))))
    bad = {2, 7}
    for number in bad:
        cut(Path(*source.name(number)), 0.6)
    return source, bad


@pytest.mark.parametrize(
    "augment",
    [
        (),
        (Mosaic(),),
        (MixUp(1.0),),
        (CopyPaste(1.0),),
        (kornia.RandomHorizontalFlip(p=1.0), kornia.RandomEqualize(p=1.0)),
    ],
    ids=["none", "mosaic", "mixup", "copy-paste", "kornia"],
)
def test_a_blank_place_has_no_objects_whatever_is_mixed(figures: Path, tmp_path: Path, augment: Any) -> None:
    source, bad = hurt_figures(figures, tmp_path / "bad")
    known = {int(source.target(number).image_id): number for number in range(len(source))}
    for batch in loader(source, spatial(augment=augment), batch_size=4):
        present = batch.present.tolist()
        assert present == [number not in bad for number in batch.sample_ids.tolist()]
        assert batch.images.isfinite().all()
        for place, target in enumerate(batch.targets):
            assert (target["image_id"] == -1) == (not present[place])
            if present[place]:
                assert known[target["image_id"]] == batch.sample_ids[place]
                area = target["masks"].flatten(1).any(1)
                assert area.all()
            else:
                assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) == 0
                fill = torch.tensor(FILL)[:, None, None] / (255 if augment else 1)
                torch.testing.assert_close(
                    batch.images[place].float(), fill.float().expand_as(batch.images[place]), rtol=0, atol=1e-6
                )
                assert batch.valid[place].tolist() == [0, 0, 0, 0]


def test_objects_are_those_of_a_batch_in_which_the_bad_image_shows_none(figures: Path, tmp_path: Path) -> None:
    source, bad = hurt_figures(figures, tmp_path / "bad")
    clean = rf.sources.Coco(figures, next(iter(figures.parent.glob("*.json"))))
    for batch, whole in itertools.zip_longest(loader(source, spatial()), loader(clean, spatial())):
        for number, one, other in zip(batch.sample_ids.tolist(), batch.targets, whole.targets, strict=True):
            for name, value in other.items():
                if number not in bad:
                    assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(value)), name


def test_padded_targets_of_a_blank_place_are_ignored(figures: Path, tmp_path: Path) -> None:
    source, bad = hurt_figures(figures, tmp_path / "bad")
    for batch in loader(source, spatial(targets=rf.Targets(format="padded"))):
        blank = ~batch.present
        assert int(blank.sum()) == sum(number in bad for number in batch.sample_ids.tolist())
        assert not batch.targets["count"][blank].any()
        assert (batch.targets["labels"][blank] == -100).all()


@pytest.mark.parametrize(
    ("batch_size", "augment"),
    [(1, ()), (4, ()), (4, (CutMix(1.0),)), (4, (Mosaic(),))],
    ids=["alone", "none", "cutmix", "mosaic"],
)
def test_a_label_map_of_a_blank_place_is_ignored_throughout(
    figures: Path, tmp_path: Path, augment: Any, batch_size: int
) -> None:
    shutil.copytree(figures.parent, tmp_path / "bad")
    folder = tmp_path / "bad" / figures.name
    source = rf.sources.MaskFolder(folder, folder.parent / "masks")
    names = [Path(*source.name(number)) for number in (1, 5)]
    cut(names[0], 0.6)  # an image,
    cut(next((folder.parent / "masks").glob(f"{names[1].stem}*")))  # and a mask
    pipeline = spatial(targets=rf.Targets(ignore_index=250), augment=augment)
    found = []
    for batch in loader(source, pipeline, batch_size=batch_size):
        blank = ~batch.present
        assert batch.targets.dtype == torch.int64
        assert (batch.targets[blank] == 250).all()
        found += batch.sample_ids[blank].tolist()
    assert sorted(found) == [1, 5]


# Datasets


class Pictures(Dataset):
    """Encoded pictures, whose target is their number; some raise."""

    def __init__(self, errors: dict[int, Exception], target: Any = int) -> None:
        self.errors, self.target = errors, target

    def __len__(self) -> int:
        return 20

    def get_height_and_width(self, number: int) -> tuple[int, int]:
        return 40 + number % 3 * 20, 60

    def __getitem__(self, number: int) -> tuple[bytes, Any]:
        if number in self.errors:
            raise self.errors[number]
        return jpeg(*self.get_height_and_width(number), number), self.target(number)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        Image.UnidentifiedImageError("cannot identify image file"),
        ValueError("broken record"),
        SyntaxError("broken PNG file"),
        DecodeError("not a picture"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_damaged_files_raise_in_a_dataset_is_skipped(error: Exception) -> None:
    under_test = loader(Pictures({3: error, 9: error}))
    batches = list(under_test)
    assert [(one.key, one.shard, one.offset) for one in sorted(under_test.skipped, key=lambda one: one.sample_id)] == [
        ("3", "Pictures", None),
        ("9", "Pictures", None),
    ]
    assert all(one.reason.startswith(type(error).__name__) for one in under_test.skipped)
    check_blank(batches, list(loader(Pictures({}))), [3, 9])


@pytest.mark.parametrize(
    "error",
    [
        TypeError("'NoneType' object is not subscriptable"),
        KeyError("image"),
        RuntimeError("CUDA error"),
        ConnectionResetError("reset"),
        TimeoutError("timed out"),
        OSError(errno.EMFILE, "Too many open files"),
        ConfigError("a setting"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_code_machine_or_network_is_never_skipped(error: Exception) -> None:
    with pytest.raises(type(error)):
        list(loader(Pictures({3: error}), with_fields(on_error=rf.Skip(budget=1))))


def test_an_image_of_another_form_is_the_codes_fault() -> None:
    class Floats(Pictures):
        def __getitem__(self, number: int) -> tuple[Any, int]:
            return torch.rand(3, *self.get_height_and_width(number)), number

    with pytest.raises(ConfigError, match="expected uint8 pixels"):
        list(loader(Floats({})))


def test_samples_that_are_read_together_are_read_one_by_one_after_a_fault() -> None:
    class Together(Pictures):
        def __getitems__(self, numbers: list[int]) -> list[Any]:
            return [self[number] for number in numbers]

    check_blank(list(loader(Together({3: OSError("gone")}))), list(loader(Pictures({}))), [3])


@pytest.mark.parametrize(
    ("target", "blank"),
    [
        (float, float("nan")),
        (lambda number: number % 2 == 0, False),
        (lambda number: np.array([number, 1], np.int32), [-100, -100]),
        (lambda number: np.array([number, 1], np.uint8), [255, 255]),
        (lambda number: torch.tensor([0.5, 0.5]), [0.0, 0.0]),
        (lambda number: (number, str(number)), (-100, None)),
        (lambda number: {"name": number}, {"name": -100}),
    ],
    ids=["float", "bool", "int32", "uint8", "shares", "tuple", "dict"],
)
def test_what_stands_for_no_target(target: Any, blank: Any) -> None:
    def plain(value: Any) -> Any:
        return value.tolist() if isinstance(value, torch.Tensor) else value

    for batch in loader(Pictures({3: OSError("gone")}, target)):
        for place, number in enumerate(batch.sample_ids.tolist()):
            if isinstance(batch.targets, dict):
                found: Any = {name: plain(part[place]) for name, part in batch.targets.items()}
            elif isinstance(batch.targets, tuple):
                found = tuple(plain(part[place]) for part in batch.targets)
            else:
                found = plain(batch.targets[place])
            expected = blank if number == 3 else target(number)
            np.testing.assert_equal(
                found, plain(expected) if not isinstance(expected, np.ndarray) else expected.tolist()
            )


@pytest.mark.filterwarnings("ignore:the short batch of an epoch has")
def test_a_batch_of_bad_samples_alone_and_a_repeated_one_have_targets_of_the_others_kind() -> None:
    errors = {number: OSError("gone") for number in (0, 1, 2, 3)}
    data = Pictures(errors, lambda number: (number, torch.tensor([0.5, 0.5])))
    batches = list(loader(data, with_fields(buckets=1), batch_size=1))
    for batch in batches:
        assert [part.dtype for part in batch.targets] == [torch.int64, torch.float32]
        assert batch.targets[1].shape == (1, 2)
    ranks = [list(loader(Pictures(errors), batch_size=1, world=rf.World(rank, 19)))[-1] for rank in (0, 18)]
    assert [len(rank) for rank in ranks] == [1, 1]
    assert all(rank.present.shape == rank.targets.shape for rank in ranks)


def test_nothing_sound_at_all_raises_the_fault() -> None:
    data = Pictures({number: OSError("gone") for number in range(20)})
    with pytest.raises(OSError, match="gone"):
        list(loader(data, with_fields(on_error=rf.Skip(budget=1))))


def test_images_without_a_size_are_skipped_when_they_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(14):
        path = tmp_path / "folder" / "ab"[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if number in (4, 9) else jpeg(40 + number, 60, number))
    data = ImageFolder(str(tmp_path / "folder"))
    with pytest.raises(rf.errors.HeaderError):
        loader(data, with_fields(on_error="raise"))
    for dataset in (data, _Wrapped(data)):
        under_test = loader(dataset, sizes=tmp_path / "sizes.npz")
        assert not (tmp_path / "sizes.npz").exists()
        assert f"2 images of {type(dataset).__name__} have no size that can be read; the first is 2" in caplog.text
        batches = list(under_test)
        assert sorted(record.sample_id for record in under_test.skipped) == [2, 11]  # ImageFolder's order: a, then b
        assert sum(int(batch.present.sum()) for batch in batches) == 12

    class Broken(_Wrapped):
        def __getitem__(self, number: int) -> Any:
            raise KeyError(number)

    with pytest.raises(KeyError):
        loader(Broken(data))


class _Wrapped(Dataset):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, number: int) -> Any:
        return self.inner[number]


# Streams


class Flow(IterableDataset):
    """Pictures with their number as the target; some have no header, some are cut short."""

    unknown, short = (3, 10, 11), (5, 20)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, 31, step):
            data = jpeg(40 + number % 7 * 9, 90 - number % 5 * 11, number)
            if number in self.unknown:
                data = b"\x00" * 30
            yield data[: len(data) // 2] if number in self.short else data, number


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 4), (0, 1), (2, 4)])
def test_a_stream_drops_what_has_no_size_and_blanks_the_rest(workers: int, batch_size: int) -> None:
    under_test = loader(Flow(), batch_size=batch_size, num_workers=workers)
    batches = list(under_test)
    numbers = [number for batch in batches for number in batch.targets.tolist()]
    expected = set(range(31)) - {*Flow.unknown, *Flow.short}
    assert sorted(number for number in numbers if number >= 0) == sorted(expected)
    assert numbers.count(-100) == len(Flow.short)
    for batch in batches:
        assert batch.present.tolist() == [target >= 0 for target in batch.targets.tolist()]
    records = under_test.skipped
    assert sorted(int(record.key) for record in records) == sorted({*Flow.unknown, *Flow.short})
    assert {record.reason.partition(":")[0] for record in records if int(record.key) in Flow.short} == {"DecodeError"}
    assert {record.reason.partition(":")[0] for record in records if int(record.key) in Flow.unknown} == {"HeaderError"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumes_at_every_batch_with_its_skips_and_its_budget(workers: int) -> None:
    def run(under_test: rf.DataLoader) -> list[rf.Batch]:
        return list(under_test)

    reference = loader(Flow(), batch_size=4, num_workers=workers)
    whole, states = [], []
    for batch in reference:
        whole.append(batch)
        states.append(json.loads(json.dumps(reference.state_dict())))
    records = reference.skipped
    for position, state in enumerate(states[:-1], 1):
        if workers and position % 4:
            continue
        resumed = loader(Flow(), batch_size=4, num_workers=workers)
        resumed.load_state_dict(state)
        for one, other in itertools.zip_longest(whole[position:], run(resumed)):
            same(one, other)
        assert resumed.skipped == records
    strict = with_fields(on_error=rf.Skip(budget=0.01, grace=4))
    steps = []
    for state in (None, states[0]):
        under_test = loader(Flow(), strict, batch_size=4, num_workers=workers)
        if state is not None:
            under_test.load_state_dict(state)
        with pytest.raises(SkipBudgetError, match="bad samples in epoch 0"):
            run(under_test)
        steps.append((under_test.state_dict()["step"], under_test.skipped))
    assert steps[0] == steps[1]


def test_a_stream_raises_by_default() -> None:
    with pytest.raises(rf.errors.HeaderError):
        list(loader(Flow(), with_fields(on_error="raise")))


def test_a_record_survives_json() -> None:
    record = Skipped("key", "shard", "reason", 1, 2, 3, None)
    assert Skipped(**json.loads(json.dumps(dataclasses.asdict(record)))) == record


def test_pillows_own_errors_of_a_broken_png_are_among_those_skipped(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"IDAT") + 20
    found: set[type[Exception]] = set()
    for change in (
        bytes(data[:at]),
        bytes(data[:at]) + bytes(100),
        bytes(data[: at - 24]) + b"\x00\x00\x00\x04\xff\xff\xff\xff" * 4,
    ):
        try:
            with Image.open(io.BytesIO(change)) as picture:
                picture.convert("RGB")
        except Exception as error:  # noqa: BLE001 (which one is what is asked)
            found.add(type(error))
    from resflow.session.skip import is_of_sample

    assert found
    assert all(is_of_sample(kind("broken")) for kind in found)
