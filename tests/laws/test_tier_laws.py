"""What is read from tiers is what is read from originals: the same objects and geometry, pixels within a bound."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import resflow as rf
from resflow.plan.tiers import ORIGINAL, on_tier
from resflow.session.planned_dataset import PlannedDataset
from resflow.sources import ShardSource, build_index, index_path, labelled_files, write_index, write_shards
from resflow.sources.tier_writer import make_tiers
from tests.data import real
from tests.decode import samples as pictures

REAL_SIDES = (96, 160, 256)
BOUNDS = {"RandomResizedCrop 128": 2.2, "val 160": 3.1}
"""Mean absolute error of 0..255 over all images, at tier_quality 1; measured: see docs/tiers.md."""
SETS: dict[str, dict[str, Any]] = {
    "RandomResizedCrop 128": {
        "resolution": 128,
        "stride": 128,
        "views": [rf.views.RandomResizedCrop(scale=(0.25, 1.0))],
    },
    "val 160": {"resolution": 160, "stride": 160, "views": (), "fit": rf.Fit.stretch()},
}
SIDES = (24, 48)
VIEWS = (
    rf.views.RandomResizedCrop(scale=(0.2, 1.0)),
    rf.views.HorizontalFlip(),
    rf.views.Rotate(degrees=10),
)


def indexed(paths: list[Path], sides: tuple[int, ...]) -> str:
    pattern = str(paths[0].parent / "*.tar")
    write_index(build_index(pattern, workers=1), index_path(pattern))
    make_tiers(pattern, sides, workers=1)
    return pattern


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    images = list(labelled_files(real("imagenet500"), r"^(n\d+)"))[::5]
    return indexed(write_shards(images, tmp_path_factory.mktemp("photographs") / "s-%d.tar"), REAL_SIDES)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """61 pictures of many sizes and orientations, each with two boxes."""
    rng = np.random.default_rng(3)

    def images() -> Iterator[dict[str, object]]:
        for number in range(61):
            height, width = (int(side) for side in rng.integers(40, 200, 2))
            if number % 4 == 3:
                encoded = pictures.oriented("JPEG", number % 8 + 1, height, width)
                height, width = (width, height) if number % 8 + 1 >= 5 else (height, width)
            else:
                encoded = pictures.jpeg(height, width, number)
            boxes = rng.uniform(0, 0.5, (2, 4)) * (width, height, width, height)  # left, top, width, height
            record = [{"bbox": box, "category_id": place + 1} for place, box in enumerate(boxes.tolist())]
            yield {"__key__": f"{number:03d}", "jpg": encoded, "json": json.dumps(record)}

    return indexed(write_shards(images(), tmp_path_factory.mktemp("annotated") / "s-%d.tar", max_samples=20), SIDES)


def loader(pattern: str, quality: float | None, workers: int = 0, **more: Any) -> Any:
    settings: dict[str, Any] = {"resolution": 48, "buckets": 3, "stride": 8, "views": VIEWS, "targets": rf.Targets()}
    settings |= more.pop("settings", {})
    pipeline = rf.Pipeline(normalize=None, tier_quality=quality, **settings)
    return rf.DataLoader(pattern, 8, shuffle=True, num_workers=workers, pipeline=pipeline, **more)


def check_same_but_for_pixels(one: Any, other: Any) -> None:
    assert (one.keys, one.resolution, one.seed) == (other.keys, other.resolution, other.seed)
    for name in ("transform", "valid", "source_size", "sample_ids"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.images.shape == other.images.shape
    check_same_targets(one.targets, other.targets)


def check_same_targets(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            check_same_targets(a, b)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            check_same_targets(one[name], other[name])
    elif dataclasses.is_dataclass(one):
        for field in (field for field in dataclasses.fields(one) if field.compare):
            check_same_targets(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


def errors(one: torch.Tensor, other: torch.Tensor) -> npt.NDArray[np.float64]:
    """Mean absolute error of each image."""
    return (one.double() - other.double()).abs().mean(dim=(1, 2, 3)).numpy()


def check_near(one: torch.Tensor, other: torch.Tensor, bound: float) -> None:
    found = errors(one, other)
    assert found.mean() < bound, f"mean absolute error is {found.mean():.2f}; below {bound} expected"
    assert found.max() < 4 * bound, f"an image's is {found.max():.2f}; below {4 * bound} expected"


@pytest.mark.parametrize("name", SETS)
def test_photographs_from_tiers_are_near_those_from_originals(photographs: str, name: str) -> None:
    settings = {"buckets": 1, "targets": "cls", "engine": "turbo"} | SETS[name]
    whole = list(loader(photographs, None, settings=settings))
    tiered = list(loader(photographs, 1.0, settings=settings))
    for one, other in zip(whole, tiered, strict=True):
        check_same_but_for_pixels(one, other)
    one, other = (torch.cat([batch.images for batch in batches]) for batches in (whole, tiered))
    check_near(one, other, BOUNDS[name])
    assert (errors(one, other) > 0).mean() > 0.8, "most are read from tiers"
    finer = torch.cat([batch.images for batch in loader(photographs, 2.0, settings=settings)])
    check_near(one, finer, BOUNDS[name] / 2)


def faulty(fault: str, pattern: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Batches from tiers with something wrong."""
    if fault == "tier of another sample":
        read = ShardSource.read_tiers

        def swapped(source: ShardSource, ids: Any, tier: Any, *, members: bool) -> Any:
            found = read(source, ids, tier, members=members)
            sizes = source.index.size[ids].tolist()
            for place, number in enumerate(tier.tolist()):
                other = (place + 1) % len(found)
                if number != ORIGINAL and number == tier[other] and sizes[place] == sizes[other]:
                    found[place] = dataclasses.replace(found[place], image=found[other].image)
            return found

        monkeypatch.setattr(ShardSource, "read_tiers", swapped)
    else:

        def shifted(matrix: Any, size: Any, stored: Any) -> Any:
            moved = on_tier(matrix, size, stored)
            if fault == "half a tier pixel":
                moved[:, :2, 2] += 0.5 * np.abs(moved[:, :2, :2]).sum(axis=2)
            else:  # sizes rounded another way: the scale is that of the short side
                moved[:, :2, :2] = matrix[:, :2, :2] * (size.min(1) / stored.min(1) * 1.02)[:, None, None]
            return moved

        monkeypatch.setattr("resflow.session.builder.on_tier", shifted)
    return list(loader(pattern, 1.0, settings=settings))


@pytest.mark.parametrize("fault", ["tier of another sample", "half a tier pixel", "two percent larger"])
def test_planted_faults_are_caught(photographs: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RandomResizedCrop 128"
    settings = {"buckets": 1, "targets": "cls", "engine": "turbo"} | SETS[name]
    one = torch.cat([batch.images for batch in loader(photographs, None, settings=settings)])
    other = torch.cat([batch.images for batch in faulty(fault, photographs, settings, monkeypatch)])
    with pytest.raises(AssertionError, match=r"mean absolute error is|an image's is"):
        check_near(one, other, BOUNDS[name])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("engine", ["turbo", "pillow"])
def test_objects_and_geometry_are_those_of_the_originals(annotated: str, workers: int, engine: str) -> None:
    settings = {"engine": engine}
    seen = 0
    whole, tiered = (loader(annotated, quality, workers, settings=settings) for quality in (None, 0.7))
    for one, other in zip(whole, tiered, strict=True):
        check_same_but_for_pixels(one, other)
        seen += int((errors(one.images, other.images) > 0).sum())
        assert errors(one.images, other.images).mean() < 12  # test pictures hold fine stripes
    assert seen > 30


def test_other_objects_are_caught(annotated: str) -> None:
    one, other = (next(iter(loader(annotated, None, seed=seed))) for seed in (0, 1))
    with pytest.raises(AssertionError):
        check_same_but_for_pixels(one, other)
    moved = dataclasses.replace(one, transform=one.transform + 1e-6)
    with pytest.raises(AssertionError, match="transform"):
        check_same_but_for_pixels(one, moved)


def check_identical(one: Any, other: Any) -> None:
    check_same_but_for_pixels(one, other)
    assert torch.equal(one.images, other.images)


def test_workers_and_resume_at_each_step_change_nothing(annotated: str) -> None:
    first = list(loader(annotated, 1.0))
    for one, other in zip(first, loader(annotated, 1.0, workers=2), strict=True):
        check_identical(one, other)
    for step in range(len(first)):
        under_test = loader(annotated, 1.0)
        batches = iter(under_test)
        for _ in range(step):
            next(batches)
        resumed = loader(annotated, 1.0)
        resumed.load_state_dict(json.loads(json.dumps(under_test.state_dict())))
        if step:
            for one, other in zip(first[step:], resumed, strict=True):
                check_identical(one, other)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_world_size_reads_the_same_pixels(annotated: str, size: int) -> None:
    # Views follow from seed, epoch and sample, the shape from the bucket: one bucket, so that images compare.
    settings = {"buckets": 1}
    whole = loader(annotated, 1.0, settings=settings)
    alone = {key: image for batch in whole for key, image in zip(batch.keys, batch.images, strict=True)}
    for rank in range(size):
        part = loader(annotated, 1.0, settings=settings, world=rf.World(rank, size))
        for batch in part:
            for key, image in zip(batch.keys, batch.images, strict=True):
                assert torch.equal(image, alone[key])


def test_a_stale_tier_is_refused_and_originals_can_be_read(annotated: str, tmp_path: Path) -> None:
    for path in Path(annotated).parent.rglob("*"):
        if path.is_file():
            there = tmp_path / path.relative_to(Path(annotated).parent)
            there.parent.mkdir(exist_ok=True)
            shutil.copy(path, there)
    pattern = f"{tmp_path}/*.tar"
    assert len(list(loader(pattern, 1.0))) == len(list(loader(annotated, 1.0)))
    stale = tmp_path / "tier-48" / "s-1.tar"
    stale.write_bytes(stale.read_bytes()[:-512])
    with pytest.raises(rf.errors.IndexFileError, match=r"tier 48 is stale: shard .*s-1\.tar has .*tier_quality=None"):
        loader(pattern, 1.0)
    for one, other in zip(loader(pattern, None), loader(annotated, None), strict=True):
        check_identical(one, other)


def test_a_damaged_image_in_a_tier_is_named(annotated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ShardSource.read_tiers

    def damaged(source: ShardSource, ids: Any, tier: Any, *, members: bool) -> Any:
        found = read(source, ids, tier, members=members)
        for place in np.flatnonzero(tier != ORIGINAL)[:1].tolist():
            found[place] = dataclasses.replace(found[place], image=found[place].image[:100])
        return found

    monkeypatch.setattr(ShardSource, "read_tiers", damaged)
    with pytest.raises(
        rf.errors.DecodeError,
        match=r"^tier (24|48): turbo cannot decode .* Make the tier again .*\(sample .*s-\d\.tar/\d+\)",
    ):
        list(loader(annotated, 1.0))


def test_tiers_are_not_announced_as_whole_samples(annotated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(ShardSource, "read_ahead", lambda _, ids: told.append(len(ids)))
    list(loader(annotated, 1.0))
    assert told == []
    list(loader(annotated, None))
    assert sum(told) == 61
    assert PlannedDataset.announce.__doc__
