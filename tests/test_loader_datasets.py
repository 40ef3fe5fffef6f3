"""Any map-style dataset behind a pipeline, through the loader."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
import torchvision.datasets as vision
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

import resflow as rf
from resflow.decode.pillow import PillowDecoder, decode_rgb
from resflow.errors import StateError

COUNT, BATCH = 21, 4
PIPELINE = rf.Pipeline(
    resolution=rf.schedules.Steps({0: 32, 1: 48}),
    buckets=3,
    stride=8,
    views=[rf.views.RandomResizedCrop(scale=(0.5, 1.0)), rf.views.HorizontalFlip()],
)
MEAN, LARGEST = 2.0, 24.0  # grey levels between engines, on smooth pictures


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return coarse.resize((40 + 5 * (number % 7), 90 - 6 * (number % 5)), Image.Resampling.BICUBIC)


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Items(Dataset[Any]):
    """Pictures in one of the forms that a dataset may give."""

    def __init__(self, form: str, folder: Path, count: int = COUNT) -> None:
        self.form, self.folder, self.count = form, folder, count
        for number in range(count):
            (folder / f"{number:03d}.jpg").write_bytes(encoded(number))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[object, object]:
        if not 0 <= number < self.count:
            raise IndexError(number)
        return self._image(number), self._target(number)

    def _image(self, number: int) -> object:
        path = self.folder / f"{number:03d}.jpg"
        pixels = np.asarray(picture(number))
        match self.form:
            case "path":
                return str(path)
            case "bytes":
                return path.read_bytes()
            case "pil" | "detection":
                return picture(number)
            case "array":
                return pixels
            case _:
                return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def _target(self, number: int) -> object:
        if self.form != "detection":
            return number % 5
        boxes = torch.arange(4.0 * (number % 3)).reshape(-1, 4)
        return {"boxes": boxes, "labels": torch.full((len(boxes),), number), "image_id": number}


class Cifar(vision.CIFAR10):
    """CIFAR10 without its files."""

    def __init__(self) -> None:
        self.data = np.stack([np.asarray(picture(number).resize((32, 32))) for number in range(COUNT)])
        self.targets = [number % 10 for number in range(COUNT)]
        self.transform = self.target_transform = self.transforms = None


KINDS = ("path", "bytes", "pil", "array", "tensor", "detection", "folder", "transformed folder", "cifar")


def make(kind: str, folder: Path, count: int = COUNT) -> Any:
    if kind == "cifar":
        return Cifar()
    if not kind.endswith("folder"):
        return Items(kind, folder, count)
    for number in range(count):
        home = folder / f"class{number % 3}"
        home.mkdir(exist_ok=True)
        (home / f"{number:03d}.jpg").write_bytes(encoded(number))
    transform = None if kind == "folder" else v2.Compose([v2.CenterCrop(36), v2.RandomHorizontalFlip(1.0)])
    return vision.ImageFolder(str(folder), transform)


def loader(dataset: Any, **arguments: Any) -> rf.DataLoader[Any]:
    options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "pipeline": PIPELINE}
    if arguments.get("num_workers"):
        options["multiprocessing_context"] = "fork"
    return rf.DataLoader(dataset, **(options | arguments))


def same(one: rf.Batch, other: rf.Batch) -> None:
    assert one.keys == other.keys
    assert one.resolution == other.resolution
    for name in ("images", "transform", "valid", "source_size", "sample_ids"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert equal(one.targets, other.targets)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def pixels_of(image: Any) -> npt.NDArray[np.uint8]:
    """The pixels that an item stands for, by Pillow."""
    if isinstance(image, str):
        image = Path(image).read_bytes()
    if isinstance(image, bytes):
        return decode_rgb(image)
    if isinstance(image, torch.Tensor):
        return image.numpy().transpose(1, 2, 0).copy()
    return np.array(image)


def check_pass(batches: list[rf.Batch], dataset: Any) -> None:
    """Each sample once, with its target, its pixels where the batch says they are.

    Raises:
        AssertionError: names the sample at fault.
    """
    numbers = Counter(number for batch in batches for number in batch.sample_ids.tolist())
    assert numbers == Counter(range(len(dataset)))
    pillow = PillowDecoder(fill=PIPELINE.fit.fill)
    for batch in batches:
        items = [dataset[number] for number in batch.sample_ids.tolist()]
        sources = [pixels_of(image) for image, _ in items]
        assert batch.source_size.tolist() == [list(source.shape[:2]) for source in sources]
        targets = batch.targets if isinstance(batch.targets, list) else batch.targets.tolist()
        for number, found, (_, due) in zip(batch.sample_ids.tolist(), targets, items, strict=True):
            assert equal(found, due), f"target of sample {number}: {found}, expected {due}"
        difference = (batch.images.float() - pillow.decode(sources, batch.geometry).float()).abs()
        for number, one in zip(batch.sample_ids.tolist(), difference, strict=True):
            assert one.mean() <= MEAN, f"sample {number}: {one.mean()}"
            assert one.max() <= LARGEST, f"sample {number}: {one.max()}"


STAY = pytest.mark.filterwarnings("ignore:the dataset's targets hold boxes, which stay:UserWarning")


@STAY
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_holds_each_sample_its_target_and_its_pixels(kind: str, tmp_path: Path) -> None:
    dataset = make(kind, tmp_path)
    alone, workers = loader(dataset), loader(dataset, num_workers=2)
    batches = list(alone)
    check_pass(batches, dataset)
    for one, other in itertools.zip_longest(batches, workers):
        same(one, other)


@STAY
def test_a_spawned_worker_gives_the_same(tmp_path: Path) -> None:
    dataset = make("detection", tmp_path)
    spawned = loader(dataset, num_workers=1, multiprocessing_context="spawn")
    for one, other in itertools.zip_longest(loader(dataset), spawned):
        same(one, other)


@pytest.mark.parametrize("fault", ["lost", "repeated", "target", "pixels", "place"])
def test_the_checker_sees(fault: str, tmp_path: Path) -> None:
    dataset = make("array", tmp_path)
    batches = list(loader(dataset))
    check_pass(batches, dataset)
    match fault:
        case "lost":
            batches.pop()
        case "repeated":
            batches.append(batches[0])
        case "target":
            batches[1].targets[2] += 1
        case "pixels":
            batches[1].images[2] = 255 - batches[1].images[2]
        case "place":
            batches[1].transform[2, 0, 2] += 6
    with pytest.raises(AssertionError):
        check_pass(batches, dataset)


def test_a_datasets_own_transform_stays_and_geometry_starts_at_its_pixels(tmp_path: Path) -> None:
    for batch in loader(make("transformed folder", tmp_path)):
        assert batch.source_size.tolist() == [[36, 36]] * len(batch)


@STAY
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["folder", "pil", "detection"])
def test_resume_at_every_batch_gives_the_rest(kind: str, workers: int, tmp_path: Path) -> None:
    """Across the end of an epoch and a change of resolution; the state goes through JSON."""
    dataset = make(kind, tmp_path)
    arguments = {"num_workers": workers, "persistent_workers": workers > 0}
    reference = loader(dataset, **arguments)
    whole, states = [], [reference.state_dict()]
    for _ in range(2):
        for batch in reference:
            whole.append(batch)
            states.append(json.loads(json.dumps(reference.state_dict())))
    resumed = loader(dataset, **arguments)
    for position, state in enumerate(states):
        resumed.load_state_dict(state)
        rest = whole[position:]
        for one, other in itertools.zip_longest(rest, itertools.islice(_endless(resumed), len(rest))):
            same(one, other)


def _endless(batches: Any) -> Iterator[rf.Batch]:
    return itertools.chain.from_iterable(itertools.repeat(batches))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_resumes_again(workers: int, tmp_path: Path) -> None:
    dataset = make("folder", tmp_path)
    whole = list(loader(dataset))
    state, position = loader(dataset).state_dict(), 0
    for take in (2, 1, 2):
        resumed = loader(dataset, num_workers=workers)
        resumed.load_state_dict(state)
        for batch in itertools.islice(resumed, take):
            same(batch, whole[position])
            position += 1
        state = resumed.state_dict()
    assert position == 5


@pytest.mark.parametrize("kind", ["folder", "pil"])
def test_workers_that_persist_need_no_restart_when_the_resolution_changes(kind: str, tmp_path: Path) -> None:
    under_test = loader(make(kind, tmp_path), num_workers=2, persistent_workers=True)
    workers, areas = [], []
    for _ in range(2):
        batches = list(under_test)
        workers.append(sorted(child.pid for child in psutil.Process().children()))
        areas.append({batch.resolution for batch in batches})
        for batch in batches:
            height, width = batch.images.shape[2:]
            assert abs(height * width / batch.resolution**2 - 1) <= 0.15
    assert areas == [{32}, {48}]
    assert workers[0] == workers[1]
    assert len(workers[0]) >= 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed differs: saved 0, current 1"),
        ({"batch_size": 3}, "global_batch_size differs: saved 4, current 3"),
        ({"shuffle": False}, r"config\.shuffle differs"),
        ({"pipeline": rf.Pipeline(resolution=32, stride=8)}, r"config\.\w+ differs"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "pil"])
def test_a_state_of_another_loader_is_refused_naming_the_field(
    kind: str, change: dict[str, Any], field: str, tmp_path: Path
) -> None:
    dataset = make(kind, tmp_path)
    with pytest.raises(StateError, match=field):
        loader(dataset, **change).load_state_dict(loader(dataset).state_dict())


@pytest.mark.parametrize("kind", ["folder", "pil"])
def test_a_state_of_another_dataset_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    state = loader(make(kind, tmp_path / "a")).state_dict()
    with pytest.raises(StateError, match="fingerprint differs"):
        loader(make(kind, tmp_path / "b", COUNT - 1)).load_state_dict(state)
