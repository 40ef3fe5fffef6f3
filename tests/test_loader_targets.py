"""Targets through the loader: what is drawn in the pixels is where boxes, masks, keypoints and label maps say."""

from __future__ import annotations

import dataclasses
import gc
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision import tv_tensors
from torchvision.datasets import CocoDetection

import resflow as rf
from resflow.augment import CopyPaste, CutMix, MixUp, Mosaic, Ramped
from resflow.errors import ConfigError, TargetError
from resflow.sources import build_index, index_path, write_index, write_shards
from resflow.sources.writer import source_samples
from resflow.targets import Annotation, LabelMap
from tests.figures import COLOURS, coco_folder, figures

COUNT = 12
ALL = rf.Targets(masks=True, keypoints=True)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> rf.sources.Coco:
    return rf.sources.Coco(*coco_folder(tmp_path_factory.mktemp("coco"), COUNT))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> rf.sources.MaskFolder:
    folder, _ = coco_folder(tmp_path_factory.mktemp("maps"), COUNT)
    return rf.sources.MaskFolder(folder, folder.parent / "masks")


def pipeline(**fields: Any) -> rf.Pipeline:
    given: dict[str, Any] = {"resolution": 128, "buckets": 3, "stride": 16, "targets": ALL}
    return rf.Pipeline(**(given | fields))


def loader(source: Any, *, batch_size: int = 4, workers: int = 0, **fields: Any) -> rf.DataLoader:
    return rf.DataLoader(source, batch_size=batch_size, shuffle=True, num_workers=workers, pipeline=pipeline(**fields))


def colours(images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 [B, 3, H, W], 1 where a pixel has the full colour of an object."""
    return images.double().numpy() / (255 if images.dtype == torch.uint8 else 1)


def bounds(plane: np.ndarray[Any, Any]) -> list[int]:
    rows, columns = np.nonzero(plane.any(1))[0], np.nonzero(plane.any(0))[0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def check_follows(batch: rf.Batch, *, least: float = 6.0) -> Counter[str]:
    """Compare targets with the colours in the pixels; counts what was compared."""
    seen: Counter[str] = Counter()
    for image, target in zip(colours(batch.images), batch.targets, strict=True):
        for place, label in enumerate(target["labels"].tolist()):
            box = target["boxes"][place].tolist()
            if min(box[2] - box[0], box[3] - box[1]) < least:
                continue
            plane = image[label - 1] > 0.5  # the colour of the label's object
            assert np.abs(np.array(bounds(plane)) - box).max() <= 1.5, (bounds(plane), box)
            mask = target["masks"][place].numpy().astype(bool)
            assert (mask != plane).sum() <= 2 * (plane.shape[0] + plane.shape[1])
            seen["boxes"] += 1
            for x, y, v in target["keypoints"][place].tolist():
                if v:
                    near = plane[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
                    assert near.any()
                    assert not near.all() or x < 2.5 or y < 2.5 or x > plane.shape[1] - 2.5 or y > plane.shape[0] - 2.5
                    seen["keypoints"] += 1
    return seen


GEOMETRIES: dict[str, dict[str, Any]] = {
    "letterbox": {},
    "crop": {"fit": rf.Fit(max_crop=0.3)},
    "views": {"views": [rf.views.RandomResizedCrop(scale=(0.3, 1.0)), rf.views.HorizontalFlip()]},
    "rotate": {"views": [rf.views.Rotate(20), rf.views.VerticalFlip()]},
    "kornia": {
        "augment": [
            kornia.RandomHorizontalFlip(p=0.5),
            kornia.RandomAffine(15.0, translate=(0.1, 0.1), scale=(0.8, 1.2), p=0.7),
        ]
    },
    "both": {
        "views": [rf.views.HorizontalFlip(), rf.views.Rotate(10)],
        "augment": [
            kornia.AugmentationSequential(kornia.RandomRotation(10.0, p=1.0), kornia.RandomVerticalFlip(p=0.5))
        ],
    },
    "mosaic": {"augment": [Mosaic(p=1.0)]},
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("workers", [0, 2])
def test_targets_follow_the_pixels(coco: rf.sources.Coco, name: str, workers: int) -> None:
    under_test = loader(coco, workers=workers, **GEOMETRIES[name])
    seen: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for epoch in range(1 if workers else 2):
        under_test.set_epoch(epoch)
        for batch in under_test:
            keys.update(batch.keys)
            if name != "mosaic":  # which may bring several objects of one colour
                seen += check_follows(batch)
            else:
                for target in batch.targets:
                    assert (bounds_of(target["masks"]) - target["boxes"]).abs().amax() <= 1
    assert set(keys.values()) == {1 if workers else 2}
    assert len(keys) == COUNT
    if name != "mosaic":
        assert seen["boxes"] >= 10
        assert seen["keypoints"] >= 10


def bounds_of(masks: torch.Tensor) -> torch.Tensor:
    return torch.tensor([bounds(mask.numpy()) for mask in masks], dtype=torch.float32).reshape(-1, 4)


def test_the_check_sees_a_shift_of_the_targets(coco: rf.sources.Coco) -> None:
    batch = next(iter(loader(coco)))
    planted = [target | {"boxes": target["boxes"] + 3} for target in batch.targets]
    with pytest.raises(AssertionError):
        check_follows(dataclasses.replace(batch, targets=planted))


def same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif dataclasses.is_dataclass(one):
        for field in (field for field in dataclasses.fields(one) if field.compare):
            same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    else:
        assert one == other


RANDOM: dict[str, Any] = {
    "resolution": rf.schedules.Linear(96, 128, epochs=2, step=16),
    "views": [rf.views.Rotate(rf.schedules.Ramp(0, 20)), rf.views.HorizontalFlip()],
    "augment": [
        Ramped(kornia.ColorJiggle, brightness=rf.schedules.Ramp(0.0, 0.5), p=0.8),
        kornia.RandomAffine(10.0, p=0.5),
        CopyPaste(p=0.5),
        Mosaic(p=0.5),
    ],
}


def test_same_seed_same_result_whatever_the_workers(coco: rf.sources.Coco) -> None:
    alone, two = loader(coco, **RANDOM), loader(coco, workers=2, **RANDOM)
    for epoch in range(2):
        for under_test in (alone, two):
            under_test.set_epoch(epoch)
        torch.manual_seed(epoch)
        first = list(alone)
        torch.manual_seed(99)
        second = list(two)
        same(first, second)
        assert {batch.mixed for batch in first} == {True}


def test_resume_at_every_batch_repeats_augmentation_and_targets(coco: rf.sources.Coco) -> None:
    whole = [batch for epoch in range(2) for batch in _epoch(loader(coco, **RANDOM), epoch)]
    under_test = loader(coco, **RANDOM)
    states = [under_test.state_dict()]
    for _ in range(2):
        for _batch in under_test:
            states.append(under_test.state_dict())  # noqa: PERF401 (the state belongs to the moment)
    for step, state in enumerate(states[:-1]):
        resumed = loader(coco, **RANDOM)
        resumed.load_state_dict(state)
        rest = whole[step : step + 3] if step % 5 else whole[step:]  # the next three, and now and then all that follow
        passes = itertools.chain.from_iterable(itertools.repeat(resumed))
        same(list(itertools.islice(passes, len(rest))), rest)


def _epoch(under_test: rf.DataLoader, epoch: int) -> Iterator[rf.Batch]:
    under_test.set_epoch(epoch)
    return iter(under_test)


def test_formats_hold_the_same(coco: rf.sources.Coco) -> None:
    lists, wrapped, padded = (
        list(loader(coco, targets=rf.Targets(format=form, masks=True))) for form in ("list", "tv_tensors", "padded")
    )
    for one, two, three in zip(lists, wrapped, padded, strict=True):
        assert three.targets["count"].tolist() == [len(target["boxes"]) for target in one.targets]
        for place, (plain, tensors) in enumerate(zip(one.targets, two.targets, strict=True)):
            assert isinstance(tensors["boxes"], tv_tensors.BoundingBoxes)
            assert tensors["boxes"].canvas_size == tuple(one.images.shape[2:])
            assert isinstance(tensors["masks"], tv_tensors.Mask)
            for name in ("boxes", "labels", "masks", "area", "iscrowd"):
                count = len(plain["boxes"])
                assert torch.equal(plain[name], torch.Tensor(tensors[name]).to(plain[name].dtype))
                assert torch.equal(plain[name], three.targets[name][place, :count])


def test_inverse_takes_targets_home(coco: rf.sources.Coco) -> None:
    truth = [boxes for _, boxes, _ in figures(COUNT)]
    for batch in loader(coco, views=[rf.views.HorizontalFlip()]):
        homes = batch.invert(batch.targets)
        for target, home in zip(batch.targets, homes, strict=True):
            expected = torch.tensor(truth[target["image_id"]], dtype=torch.float32)
            torch.testing.assert_close(home["boxes"], expected, rtol=0, atol=0.01)
            assert torch.equal(home["labels"], target["labels"])
            for mask, (left, top, right, bottom) in zip(home["masks"], expected.int().tolist(), strict=True):
                drawn = torch.zeros_like(mask)
                drawn[top:bottom, left:right] = 1
                assert (mask != drawn).sum() <= 2 * sum(drawn.shape)
        boxes = batch.invert(boxes=[target["boxes"] for target in batch.targets])
        same(boxes, [home["boxes"] for home in homes])


def test_what_cannot_be_inverted_says_why(coco: rf.sources.Coco) -> None:
    batch = next(iter(loader(coco)))
    boxes = [target["boxes"] for target in batch.targets]
    with pytest.raises(ConfigError, match="exactly one of predictions, boxes, masks and keypoints; got none"):
        batch.invert()
    with pytest.raises(ConfigError, match="got boxes, masks"):
        batch.invert(boxes=boxes, masks=[target["masks"] for target in batch.targets])
    with pytest.raises(TargetError, match=r"one for each of the batch's \d images; got 1"):
        batch.invert(boxes=boxes[:1])
    mixed = next(iter(loader(coco, augment=[Mosaic(p=1.0)])))
    with pytest.raises(TargetError, match=r"a mixed batch cannot be inverted: .*Pipeline.evaluation"):
        mixed.invert(boxes=[target["boxes"] for target in mixed.targets])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [[], [kornia.RandomAffine(15.0, p=0.8), kornia.RandomHorizontalFlip(p=0.5)]])
def test_label_maps_follow_the_pixels(maps: rf.sources.MaskFolder, workers: int, augment: list[Any]) -> None:
    seen: Counter[int] = Counter()
    views = [rf.views.RandomResizedCrop(scale=(0.3, 1.0)), rf.views.Rotate(10), rf.views.HorizontalFlip()]
    options = rf.Targets(ignore_index=200)
    for batch in loader(maps, workers=workers, views=views, augment=augment, targets=options):
        assert batch.targets.dtype == torch.int64
        assert batch.targets.shape == batch.images.shape[:1] + batch.images.shape[2:]
        for image, labels in zip(colours(batch.images), batch.targets.numpy(), strict=True):
            for label in (1, 2, 3):
                plane = image[label - 1] > 0.5
                assert (plane != (labels == label))[labels != 200].sum() <= 0.05 * labels.size
                seen[label] += int((labels == label).sum())
            seen[200] += int((labels == 200).sum())
    assert min(seen[label] for label in (1, 2, 3, 200)) > 100


def make_shards(source: Any, folder: Path) -> str:
    paths = write_shards(source_samples(source), str(folder / "train-%06d.tar"), max_samples=5)
    pattern = f"{folder}/train-{{000000..{len(paths) - 1:06d}}}.tar"
    write_index(build_index(pattern, workers=1), index_path(pattern))
    return pattern


def test_shards_give_what_the_source_gives(coco: rf.sources.Coco, maps: rf.sources.MaskFolder, tmp_path: Path) -> None:
    for number, source in enumerate((coco, maps)):
        shards = make_shards(source, tmp_path / str(number))
        for one, other in zip(loader(source, **RANDOM_VIEWS), loader(shards, **RANDOM_VIEWS), strict=True):
            same(dataclasses.replace(one, keys=()), dataclasses.replace(other, keys=()))


RANDOM_VIEWS: dict[str, Any] = {"views": [rf.views.Rotate(20), rf.views.HorizontalFlip()], "targets": ALL}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_streams_bring_targets(coco: rf.sources.Coco, tmp_path: Path) -> None:
    shards = make_shards(coco, tmp_path)
    names = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    assert shards
    for stream in (
        webdataset.WebDataset(names, shardshuffle=False),
        webdataset.WebDataset(names, shardshuffle=False).decode("pil"),
        Plain(coco),
    ):
        seen: Counter[str] = Counter()
        count = 0
        for batch in rf.DataLoader(stream, batch_size=4, pipeline=pipeline(views=[rf.views.HorizontalFlip()])):
            seen += check_follows(batch)
            count += len(batch)
        assert count == COUNT
        assert seen["boxes"] >= 20
    del stream
    gc.collect()  # webdataset leaves its files open


class Plain(IterableDataset[Any]):
    """The samples of a source, one after the other."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Any]:
        for sample in self.source.read(np.arange(COUNT)):
            yield bytes(sample.image), sample.target


class Dicts(Dataset[Any]):
    """Pixels with torchvision's dict of tensors."""

    def __init__(self, form: str = "dict") -> None:
        self.figures, self.form = figures(COUNT), form

    def __len__(self) -> int:
        return COUNT

    def get_height_and_width(self, number: int) -> tuple[int, int]:
        height, width = self.figures[number][0].shape[:2]
        return height, width

    def __getitem__(self, number: int) -> Any:
        pixels, boxes, classes = self.figures[number]
        if self.form == "map":
            return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(classes)
        corners = torch.tensor(boxes, dtype=torch.float32)
        masks = torch.stack([torch.from_numpy((classes == place + 1).astype(np.uint8)) for place in range(len(boxes))])
        points = corners[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
        target = {
            "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=pixels.shape[:2]),  # type: ignore[call-overload]
            "labels": torch.arange(len(boxes)) + 1,
            "masks": masks,
            "keypoints": torch.cat([points, torch.full((len(boxes), 4, 1), 2.0)], 2),
            "keypoint_pairs": (),
        }
        return pixels, target


def test_any_dataset_with_torchvisions_targets() -> None:
    seen: Counter[str] = Counter()
    for batch in loader(Dicts(), views=[rf.views.Rotate(15), rf.views.HorizontalFlip()]):
        seen += check_follows(batch)
    assert seen["boxes"] >= 15
    labels = torch.cat([batch.targets.flatten() for batch in loader(Dicts("map"))])
    assert set(labels.tolist()) == {0, 1, 2, 3, 255}


def test_torchvisions_coco_is_recognised_and_follows(tmp_path: Path) -> None:
    folder, annotations = coco_folder(tmp_path, COUNT)
    dataset = CocoDetection(str(folder), str(annotations))
    seen: Counter[str] = Counter()
    for batch in loader(dataset, views=[rf.views.HorizontalFlip()], targets=rf.Targets(masks=True, keypoints=True)):
        seen += check_follows(batch)
    assert seen["boxes"] >= 15


def test_a_source_of_objects_needs_no_word_in_the_pipeline(coco: rf.sources.Coco) -> None:
    batch = next(iter(rf.DataLoader(coco, batch_size=2, pipeline=rf.Pipeline(resolution=64, stride=16))))
    assert set(batch.targets[0]) == {"boxes", "labels", "area", "iscrowd", "image_id"}
    batch = next(iter(rf.DataLoader(coco, batch_size=2, pipeline=rf.Pipeline(resolution=64, stride=16, targets=None))))
    assert batch.targets is None


@pytest.mark.filterwarnings("ignore:the short batch of an epoch has")
@pytest.mark.parametrize("kind", ["objects", "maps"])
def test_ranks_that_get_the_same_sample_of_a_short_batch_get_the_same_targets(
    coco: rf.sources.Coco, maps: rf.sources.MaskFolder, kind: str
) -> None:
    source: Any = coco if kind == "objects" else maps
    batches = [
        list(
            rf.DataLoader(
                source,
                batch_size=1,
                pipeline=pipeline(
                    targets=rf.Targets(format="padded", masks=True), augment=[kornia.RandomRotation(5.0)]
                ),
                world=rf.World(rank, 5),
            )
        )
        for rank in range(5)
    ]
    last = [part[-1] for part in batches]
    assert [len(batch) for batch in last] == [1] * 5
    assert [batch.keys for batch in last] == [last[0].keys, last[1].keys] * 2 + [last[0].keys]
    assert last[0].keys != last[1].keys
    for batch, same in zip(last[2:], [last[0], last[1], last[0]], strict=True):
        assert torch.equal(batch.images, same.images)
        if kind == "maps":
            assert torch.equal(batch.targets, same.targets)
        else:
            assert torch.equal(batch.targets["boxes"], same.targets["boxes"])
            assert torch.equal(batch.targets["masks"], same.targets["masks"])


def test_classes_are_mixed(tmp_path: Path) -> None:
    from tests.shards import make_shards as class_shards

    shards = class_shards(tmp_path, 24)
    for mixing in (MixUp(alpha=0.4, num_classes=7), CutMix(alpha=1.0, num_classes=7)):
        under_test = rf.DataLoader(
            shards, batch_size=8, pipeline=rf.Pipeline(resolution=32, stride=8, augment=[mixing], normalize=rf.IMAGENET)
        )
        for images, targets in under_test:
            assert targets.shape == (len(images), 7)
            torch.testing.assert_close(targets.sum(1), torch.ones(len(images)))


class Answers(Dataset[Any]):
    """Images with targets of any kind."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> Any:
        return np.full((40, 50, 3), 30 * number, np.uint8), self.answer(number)


@pytest.mark.parametrize("mixing", [MixUp(alpha=1.0), CutMix(alpha=1.0)])
def test_shares_of_classes_are_mixed(mixing: Any) -> None:
    (batch,) = loader(Answers(torch.eye(8).__getitem__), batch_size=8, targets="cls", augment=[mixing])
    assert batch.targets.shape == (8, 8)
    torch.testing.assert_close(batch.targets.sum(1), torch.ones(8))
    assert (batch.targets.amax(1) < 1).all()


def test_a_mask_that_cannot_be_written_to_is_a_label_map() -> None:
    classes = np.arange(2000, dtype=np.uint8).reshape(40, 50) % 7
    pictures = [Image.fromarray(classes), np.frombuffer(classes.tobytes(), np.uint8).reshape(40, 50), classes]
    given = [next(iter(loader(Answers(lambda _, one=one: one), batch_size=8))).targets for one in pictures]
    for targets in given:
        torch.testing.assert_close(targets, given[-1])
    (turned,) = loader(Answers(lambda _: classes[:, ::-1]), batch_size=8)
    assert turned.targets.unique().tolist() == given[-1].unique().tolist()


# What is refused


@pytest.mark.parametrize(
    ("answer", "got"), [(lambda n: {"y": n}, "dict"), (lambda n: (n, n), "tuple"), (str, "list"), (None, None)]
)
def test_images_are_not_mixed_without_their_targets(answer: Any, got: str | None) -> None:
    under_test = loader(Answers(answer or torch.eye(8).long().__getitem__), targets="cls", augment=[MixUp()])
    with pytest.raises(TargetError, match=rf"mixed images need targets that can be mixed.*got {got or 'torch.int64'}"):
        next(iter(under_test))


def test_wrong_targets_name_the_sample(coco: rf.sources.Coco, tmp_path: Path) -> None:
    bad = [
        {"__key__": "a", "png": b"", "json": b"{]"},
        {"__key__": "b", "png": b"", "json": b'[{"bbox": [1, 2, 3], "category_id": 1}]'},
        {"__key__": "c", "png": b""},
    ]
    (good,) = coco.read(np.zeros(1, np.int64))
    for number, (sample, message) in enumerate(
        zip(
            bad,
            (r"objects must be JSON", r"bbox must be", r"no objects: expected a member \.json; got \.png"),
            strict=True,
        )
    ):
        folder = tmp_path / str(number)
        write_shards([sample | {"png": bytes(good.image)}], str(folder / "x-%06d.tar"))
        pattern = str(folder / "x-000000.tar")
        write_index(build_index(pattern, workers=1), index_path(pattern))
        with pytest.raises(TargetError, match=rf"{message}.*sample .*x-000000\.tar/{sample['__key__']}"):
            next(iter(loader(pattern, batch_size=1)))


class Mixed(Dicts):
    def __getitem__(self, number: int) -> Any:
        image, _ = super().__getitem__(number)
        whole = Annotation(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_), number)
        return image, LabelMap.from_array(np.zeros(image.shape[:2], np.uint8)) if number == 5 else whole


def test_boxes_that_stay_behind_are_warned_of() -> None:
    with pytest.warns(
        UserWarning, match=r"stay in the pixels of the source images\. Set Pipeline\(targets=rf\.Targets"
    ):
        next(iter(loader(Dicts(), targets="cls")))


def test_keypoints_of_mirrored_images_take_their_names_back(coco: rf.sources.Coco) -> None:
    mirrored = next(iter(loader(coco, views=[rf.views.HorizontalFlip(1.0)])))
    plain = {
        target["image_id"]: target["keypoints"] for batch in loader(coco) for target in batch.invert(batch.targets)
    }
    assert mirrored.keypoint_pairs == ((0, 1), (3, 2)) or mirrored.keypoint_pairs == ((0, 1), (2, 3))
    for home in mirrored.invert(mirrored.targets):
        torch.testing.assert_close(home["keypoints"], plain[home["image_id"]], rtol=0, atol=0.01)
    unswapped = mirrored.invert(mirrored.targets, keypoint_pairs=())
    wrong = [(home["keypoints"] - plain[home["image_id"]]).abs().amax() for home in unswapped]
    assert min(wrong) > 1  # the check sees names that were not taken back


def test_targets_of_two_kinds_are_refused() -> None:
    with pytest.raises(TargetError, match=r"one kind; got LabelMap beside Annotation"):
        list(loader(Mixed(), batch_size=12))


def test_augmentation_that_cannot_stand_here_is_refused_when_the_pipeline_is_made() -> None:
    with pytest.raises(ConfigError, match=r"RandomCrop changes the shape .*the plan owns the shape"):
        pipeline(augment=[kornia.RandomCrop((32, 32))])
    with pytest.raises(ConfigError, match=r"RandomElasticTransform moves pixels by no affine transform"):
        pipeline(augment=[kornia.RandomElasticTransform()])
    with pytest.raises(ConfigError, match=r"Ramp follows the resolution, but the schedule stays at 128"):
        pipeline(views=[rf.views.Rotate(rf.schedules.Ramp(0, 20))])
    assert pipeline(targets="cls", augment=[kornia.RandomElasticTransform()])


def test_a_ramp_makes_augmentation_stronger_with_the_resolution(tmp_path: Path) -> None:
    folder, annotations = coco_folder(tmp_path, COUNT)
    source = rf.sources.Coco(folder, annotations)
    schedule = rf.schedules.Linear(96, 128, epochs=2, step=16)
    under_test = loader(source, resolution=schedule, views=[rf.views.Rotate(rf.schedules.Ramp(0, 30))])
    turned = []
    for epoch in range(2):
        under_test.set_epoch(epoch)
        matrix = torch.cat([batch.transform for batch in under_test])
        turned.append(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg().abs().max().item())
    assert turned[0] < 1e-4
    assert 5 < turned[1] <= 30.001


def test_colours_are_those_of_the_figures() -> None:
    pixels, boxes, _ = figures(1)[0]
    left, top, _, _ = boxes[0]
    assert pixels[top, left].tolist() == list(COLOURS[0])
