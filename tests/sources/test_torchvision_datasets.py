"""The fast path gives what the dataset gives, pixel by pixel and target by target."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as vision
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, random_split
from torchvision.transforms import v2

from resflow.decode.pillow import decode_rgb
from resflow.errors import ConfigError, DecodeError, HeaderError, ShardError
from resflow.images import read_header
from resflow.images.jpeg import without_metadata
from resflow.sources import DatasetSource, RecognisedSource, Source, dataset_source, recognise
from resflow.sources.image_files import common_folder, stored_image, stored_size
from tests.data import real


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write(path: Path, height: int, width: int, seed: int = 0, orientation: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 95} if path.suffix == ".jpg" else {}
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    picture(height, width, seed).convert(mode).save(path, **options)


def same_values(one: Any, other: Any) -> bool:
    if isinstance(one, Image.Image):
        return isinstance(other, Image.Image) and one.mode == other.mode and np.array_equal(one, other)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same_values, one, other))
    return type(one) is type(other) and one == other


def check_gives_what_the_dataset_gives(source: Source, dataset: Any) -> None:
    """Pixels, targets and sizes of all samples, read in one batch, backwards."""
    numbers = np.arange(len(dataset))[::-1].copy()
    assert len(source.index) == len(dataset)
    keys = []
    for number, sample in zip(numbers.tolist(), source.read(numbers), strict=True):
        image, target = dataset[number]
        pixels = sample.image if isinstance(sample.image, np.ndarray) else decode_rgb(sample.image)
        assert np.array_equal(pixels, np.asarray(image)), f"pixels of sample {number}, {sample.key}"
        assert source.index.size[number].tolist() == [image.height, image.width], f"size of sample {number}"
        assert same_values(sample.target, target), f"target of sample {number}"
        assert (sample.shard, sample.key) == source.name(number)
        keys.append(sample.key)
    assert len(keys) == len(set(keys)), "a key comes twice"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes, JPEG and PNG, a greyscale one, a palette, and one folder in a folder."""
    for number in range(12):
        suffix = ".png" if number % 4 == 3 else ".jpg"
        mode = {5: "L", 7: "P"}.get(number, "RGB")
        write(tmp_path / f"class{number % 3}" / f"{number}{suffix}", 20 + number, 40 - number, number, mode=mode)
    write(tmp_path / "class1" / "deeper" / "1.jpg", 33, 21, 99)
    return tmp_path


def test_an_image_folder_takes_the_fast_path(tree: Path) -> None:
    dataset = vision.ImageFolder(tree)
    source = dataset_source(dataset)
    assert isinstance(source, RecognisedSource)
    assert isinstance(source, Source)
    check_gives_what_the_dataset_gives(source, dataset)
    assert source.name(0) == (str(tree), "class0/0.jpg")
    assert all(isinstance(sample.image, memoryview) for sample in source.read(np.arange(len(dataset))))


class Shifted:
    """A source whose samples come one late, or turned."""

    def __init__(self, source: Source, fault: str) -> None:
        self.source, self.index, self.name, self.fault = source, source.index, source.name, fault

    def read(self, numbers: np.ndarray) -> list[Any]:
        from dataclasses import replace

        samples = self.source.read(np.roll(numbers, 1) if self.fault == "order" else numbers)
        last = samples[-1]
        if self.fault == "target":
            samples[-1] = replace(last, target=float(last.target))
        if self.fault == "pixels":
            samples[-1] = replace(last, image=np.ascontiguousarray(decode_rgb(last.image)[:, ::-1]))
        return samples


@pytest.mark.parametrize("fault", ["order", "target", "pixels"])
def test_the_law_can_fail(tree: Path, fault: str) -> None:
    dataset = vision.ImageFolder(tree)
    with pytest.raises(AssertionError, match="of sample"):
        check_gives_what_the_dataset_gives(Shifted(dataset_source(dataset), fault), dataset)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_left_as_torchvision_leaves_it(tmp_path: Path, suffix: str) -> None:
    """Of WebP, JPEG and PNG the stored pixels; of TIFF, which PIL turns itself, the upright ones."""
    for orientation in range(1, 9):
        write(tmp_path / "a" / f"{orientation}{suffix}", 24, 40, orientation, orientation)
    dataset = vision.ImageFolder(tmp_path)
    source = dataset_source(dataset)
    check_gives_what_the_dataset_gives(source, dataset)
    if suffix == ".jpg":
        assert all(isinstance(sample.image, memoryview) for sample in source.read(np.arange(8)))


def test_hiding_metadata_changes_no_pixel_and_no_other_segment() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"progressive": True}, {"exif": exif}, {"exif": exif, "icc_profile": b"x" * 70_000}):
        buffer = io.BytesIO()
        picture(24, 40).save(buffer, "JPEG", comment=b"\xff\xe1 in a comment", **options)
        data = buffer.getvalue()
        hidden = without_metadata(data)
        changed = [i for i, (one, other) in enumerate(zip(data, hidden, strict=True)) if one != other]
        assert len(changed) == ("exif" in options)
        header = read_header(hidden)
        assert (header.height, header.width, header.orientation) == (24, 40, 1)
        assert np.array_equal(decode_rgb(hidden), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        filled = data[:2] + b"\xff" + data[2:]  # a fill byte before the first marker
        assert without_metadata(filled) == data[:2] + b"\xff" + hidden[2:]


def test_netpbm_is_decoded_by_pillow(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.ppm", 11, 17)
    write(tmp_path / "a" / "2.pgm", 12, 17, mode="L")
    dataset = vision.ImageFolder(tmp_path)
    check_gives_what_the_dataset_gives(dataset_source(dataset), dataset)


def twice(target: int) -> int:
    return 2 * target


def is_jpeg(path: str) -> bool:
    return path.endswith(".jpg")


def rgb(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


class Renamed(vision.ImageFolder):
    """A subclass that leaves items alone."""

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        return ["class2", "class0"], {"class2": 0, "class0": 1}


class Cropped(vision.ImageFolder):
    def __getitem__(self, index: int) -> Any:
        image, target = super().__getitem__(index)
        return image.crop((0, 0, 9, 7)), target


class Together(vision.ImageFolder):
    def __getitems__(self, numbers: list[int]) -> list[Any]:
        return [(self[number][0], -1) for number in numbers]


@pytest.mark.parametrize(
    "make",
    [
        lambda root: vision.ImageFolder(root, target_transform=twice),
        lambda root: vision.ImageFolder(root, is_valid_file=is_jpeg),
        lambda root: vision.ImageFolder(str(root) + "/"),
        lambda root: vision.DatasetFolder(root, vision.folder.default_loader, (".jpg",)),
        lambda root: vision.DatasetFolder(root, vision.folder.pil_loader, (".png",), target_transform=twice),
        Renamed,
        lambda root: Subset(vision.ImageFolder(root), [5, 1, 8]),
        lambda root: Subset(Subset(vision.ImageFolder(root), [5, 1, 8, 2]), [3, 0]),
        lambda root: random_split(vision.ImageFolder(root), [0.5, 0.5])[1],
        lambda root: ConcatDataset([Subset(vision.ImageFolder(root, target_transform=twice), [5, 1]), Renamed(root)]),
    ],
)
def test_what_leaves_the_items_alone_is_recognised(tree: Path, make: Callable[[Path], Any]) -> None:
    dataset = make(tree)
    source = recognise(dataset)
    assert source is not None
    if type(dataset) is ConcatDataset:  # its parts overlap, so keys do
        for number, sample in enumerate(source.read(np.arange(len(dataset)))):
            assert np.array_equal(decode_rgb(sample.image), np.asarray(dataset[number][0]))
            assert sample.target == dataset[number][1]
        return
    check_gives_what_the_dataset_gives(source, dataset)


@pytest.mark.parametrize(
    "make",
    [
        Cropped,
        Together,
        lambda root: vision.ImageFolder(root, loader=rgb),
        lambda root: vision.ImageFolder(root, transform=v2.CenterCrop(9)),
        lambda root: Subset(vision.ImageFolder(root, transform=v2.CenterCrop(9)), [0, 2]),
        lambda root: ConcatDataset([vision.ImageFolder(root), Cropped(root)]),
    ],
)
def test_what_changes_the_items_keeps_its_way(tree: Path, make: Callable[[Path], Any]) -> None:
    dataset = make(tree)
    source = dataset_source(dataset)
    assert isinstance(source, DatasetSource)
    [sample] = source.read(np.array([1]))
    assert np.array_equal(sample.image, np.asarray(dataset[1][0]))
    assert sample.target == (-1 if type(dataset) is Together else dataset[1][1])
    assert source.index.size[1].tolist() == [dataset[1][0].height, dataset[1][0].width]


def test_a_transform_of_its_own_is_told(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "resflow"):
        dataset_source(vision.ImageFolder(tree, transform=v2.CenterCrop(9)))
    messages = [record.getMessage() for record in caplog.records]
    told = [message for message in messages if "geometry starts at the pixels it returns" in message]
    assert len(told) == 1
    assert told[0].startswith("ImageFolder has a transform (or loader) of its own")
    assert "Pipeline(views=" in told[0]


# CIFAR


class SmallCifar(vision.CIFAR10):
    """The format of CIFAR-10, a few images, and none of its checksums."""

    train_list = (("data_batch_1", None), ("data_batch_2", None))
    test_list = (("test_batch", None),)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}  # noqa: RUF012


class SmallCifar100(vision.CIFAR100):
    train_list = (("train", None),)
    test_list = (("test", None),)
    meta = {"filename": "meta", "key": "fine_label_names", "md5": None}  # noqa: RUF012


def write_cifar(root: Path, kind: type[Any], labels: str, names: list[str]) -> None:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, _ in (*kind.train_list, *kind.test_list):
        data = rng.integers(0, 256, (7, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, labels: rng.integers(0, 3, 7).tolist()}))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))


@pytest.mark.parametrize(("kind", "labels"), [(SmallCifar, "labels"), (SmallCifar100, "fine_labels")])
@pytest.mark.parametrize("train", [True, False])
def test_cifar(tmp_path: Path, kind: type[Any], labels: str, train: bool) -> None:
    write_cifar(tmp_path, kind, labels, ["cat", "dog", "ship"])
    dataset = kind(tmp_path, train=train, target_transform=twice)
    source = recognise(dataset)
    assert source is not None
    check_gives_what_the_dataset_gives(source, dataset)
    assert source.name(3) == (kind.__name__, "3")
    source.read_ahead(np.arange(3))


# COCO, VOC, Oxford-IIIT Pet


def write_coco(root: Path) -> Path:
    images, annotations = [], []
    for number, image_id in enumerate((30, 4, 17)):
        name = f"part{number % 2}/{image_id}.jpg"
        write(root / name, 30 + number, 50, number, orientation=6 if number == 1 else 0)
        images.append({"id": image_id, "file_name": name, "height": 30 + number, "width": 50})
        box = {"image_id": image_id, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "area": 12.0, "iscrowd": 0}
        annotations += [box | {"id": 10 * number + k} for k in range(number)]
    path = root / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    return path


def first_box(target: list[Any]) -> Any:
    return target[:1]


def test_coco(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="CocoDetection needs pycocotools")
    path = str(write_coco(tmp_path))
    for options in ({}, {"target_transform": first_box}):
        dataset = vision.CocoDetection(tmp_path, path, **options)
        source = recognise(dataset)
        assert source is not None
        check_gives_what_the_dataset_gives(source, dataset)
    assert source.name(0) == (str(tmp_path), "part1/4.jpg")


def test_captions(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="CocoCaptions needs pycocotools")
    path = write_coco(tmp_path)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["caption"] = f"number {annotation['id']}"
    path.write_text(json.dumps(content))
    dataset = vision.CocoCaptions(tmp_path, str(path))
    source = recognise(dataset)
    assert source is not None
    check_gives_what_the_dataset_gives(source, dataset)


class Detection(vision.CocoDetection):
    def _load_image(self, id: int) -> Image.Image:  # noqa: A002
        return super()._load_image(id).crop((0, 0, 5, 5))


def keep(image: Any, target: Any) -> Any:
    return image, target


def test_coco_with_images_of_its_own_keeps_its_way(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="CocoDetection needs pycocotools")
    path = str(write_coco(tmp_path))
    assert recognise(Detection(tmp_path, path)) is None
    assert recognise(vision.CocoDetection(tmp_path, path, transforms=keep)) is None
    assert recognise(vision.CocoDetection(tmp_path, path, transform=v2.CenterCrop(9))) is None


def write_voc(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("ImageSets/Main", "ImageSets/Segmentation", "Annotations", "SegmentationClass"):
        (base / folder).mkdir(parents=True)
    for number in range(3):
        name = f"2012_{number}"
        write(base / "JPEGImages" / f"{name}.jpg", 40, 30 + number, number)
        write(base / "SegmentationClass" / f"{name}.png", 40, 30 + number, number, mode="P")
        boxes = "<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>" * (number + 1)
        (base / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}</filename>{boxes}</annotation>"
        )
    for folder in ("Main", "Segmentation"):
        (base / "ImageSets" / folder / "train.txt").write_text("2012_2\n2012_0\n2012_1\n")


@pytest.mark.parametrize("kind", [vision.VOCDetection, vision.VOCSegmentation])
def test_voc(tmp_path: Path, kind: type[Any]) -> None:
    write_voc(tmp_path)
    dataset = kind(tmp_path)
    source = recognise(dataset)
    assert source is not None
    check_gives_what_the_dataset_gives(source, dataset)


@pytest.mark.parametrize(
    "types", ["category", "binary-category", "segmentation", ["category", "segmentation", "binary-category"], []]
)
def test_pets(tmp_path: Path, types: Any) -> None:
    base = tmp_path / "oxford-iiit-pet"
    lines = []
    for number, name in enumerate(("Abyssinian_1", "great_pyrenees_20", "Abyssinian_2")):
        write(base / "images" / f"{name}.jpg", 40, 30 + number, number)
        write(base / "annotations" / "trimaps" / f"{name}.png", 40, 30 + number, number, mode="L")
        lines.append(f"{name} {1 + number % 2} {1 + number % 2} 1")
    (base / "annotations" / "trainval.txt").write_text("\n".join(lines))
    dataset = vision.OxfordIIITPet(tmp_path, target_types=types)
    source = recognise(dataset)
    assert source is not None
    check_gives_what_the_dataset_gives(source, dataset)


# Sizes, fingerprints, copies, errors


def test_sizes_are_given_asked_for_or_read_from_headers(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = vision.ImageFolder(tree)
    read = dataset_source(dataset).index
    given = dataset_source(dataset, sizes=read.size.tolist()).index
    assert np.array_equal(given.size, read.size)
    assert given.fingerprint == read.fingerprint
    path = tmp_path_factory.mktemp("sizes") / "sizes"
    for _ in range(2):
        assert np.array_equal(dataset_source(dataset, sizes=path).index.size, read.size)
    write(tree / "class0" / "00.jpg", 10, 10)
    (tree / "class2" / "2.jpg").unlink()
    with pytest.raises(ConfigError, match="belong to another dataset than this ImageFolder of 13 images"):
        dataset_source(vision.ImageFolder(tree), sizes=path)

    class Asked(vision.ImageFolder):
        def get_height_and_width(self, number: int) -> tuple[int, int]:
            return number + 1, 7

    assert dataset_source(Asked(tree)).index.size.tolist() == [[number + 1, 7] for number in range(13)]


def test_the_fingerprint_tells_datasets_apart_and_not_where_they_lie(tree: Path, tmp_path: Path) -> None:
    import shutil

    def fingerprint(dataset: Any) -> str:
        return dataset_source(dataset).index.fingerprint

    dataset = vision.ImageFolder(tree)
    prints = [
        fingerprint(dataset),
        fingerprint(Subset(dataset, [0, 1])),
        fingerprint(Subset(dataset, [1, 0])),
        fingerprint(Renamed(tree)),
    ]
    assert len(set(prints)) == len(prints)
    copy = tmp_path / "elsewhere"
    shutil.copytree(tree, copy)
    assert fingerprint(vision.ImageFolder(copy)) == prints[0]


def test_a_pickled_copy_reads_the_same(tree: Path) -> None:
    dataset = Subset(vision.ImageFolder(tree), [3, 1])
    source = dataset_source(dataset)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.index.fingerprint == source.index.fingerprint
    check_gives_what_the_dataset_gives(copy, dataset)


def test_read_ahead_is_a_hint_and_close_is_harmless(tree: Path) -> None:
    source = dataset_source(vision.ImageFolder(tree))
    source.read_ahead(np.arange(5))
    (tree / "class0" / "0.jpg").unlink()
    source.read_ahead(np.arange(5))
    source.close()
    with pytest.raises(ShardError, match=r"class0/0\.jpg: the image cannot be read: No such file.*Put the file back"):
        source.read(np.arange(2))


def test_bad_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.jpg", 10, 12)
    bad = tmp_path / "a" / "2.jpg"
    for data, message in (
        (b"", "cut short"),
        (b"not an image at all", "no image header"),
        (b"P6 x", "ppm header is cut short"),
    ):
        bad.write_bytes(data)
        with pytest.raises(HeaderError, match=message) as caught:
            dataset_source(vision.ImageFolder(tmp_path))
        assert str(bad) in str(caught.value)
    write(tmp_path / "a" / "2.png", 300, 12, 1, orientation=6)
    bad.unlink()
    source = dataset_source(vision.ImageFolder(tmp_path))
    cut = tmp_path / "a" / "2.png"
    cut.write_bytes(cut.read_bytes()[:-300])
    with pytest.raises(DecodeError, match=r"cannot be decoded: .*Replace the file.*\(sample .*/a/2\.png\)") as error:
        source.read(np.array([0, 1]))
    assert error.value.position == 1


def test_an_exception_of_a_target_transform_comes_through_with_a_note(tree: Path) -> None:
    source = dataset_source(vision.ImageFolder(tree, target_transform={0: "a"}.__getitem__))
    with pytest.raises(KeyError) as caught:
        source.read(np.array([0, 12]))
    assert caught.value.__notes__ == ["Raised by the target of ImageFolder[12]."]


def test_the_common_folder() -> None:
    assert common_folder(["/a/b/c.jpg"]) == "/a/b/"
    assert common_folder(["/a/b/c.jpg", "/a/bc/d.jpg"]) == "/a/"
    assert common_folder(["x.jpg", "/a/bc/d.jpg"]) == ""


# Real images


def test_real_orientations(tmp_path: Path) -> None:
    (tmp_path / "all").symlink_to(real("exif-orientation"))
    dataset = vision.ImageFolder(tmp_path)
    assert len({stored_size(path) for path, _ in dataset.samples}) == 2
    check_gives_what_the_dataset_gives(dataset_source(dataset), dataset)


def test_real_imagenet(tmp_path: Path) -> None:
    for number, path in enumerate(sorted(real("imagenet500").glob("*.JPEG"))[::25]):
        (tmp_path / f"class{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"class{number % 3}" / path.name).symlink_to(path)
    dataset = vision.ImageFolder(tmp_path)
    check_gives_what_the_dataset_gives(dataset_source(dataset), dataset)


def test_real_coco() -> None:
    pytest.importorskip("pycocotools", reason="CocoDetection needs pycocotools")
    folder = real("coco-mini")
    whole = vision.CocoDetection(folder / "val2017", str(folder / "annotations" / "instances_val2017.json"))
    dataset = Subset(whole, range(0, len(whole), 2))
    check_gives_what_the_dataset_gives(dataset_source(dataset), dataset)


def test_real_voc(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit"
    folder.mkdir()
    (folder / "VOC2007").symlink_to(real("bccd"))
    whole = vision.VOCDetection(tmp_path, year="2007", image_set="test")
    dataset = Subset(whole, range(0, len(whole), 4))
    check_gives_what_the_dataset_gives(dataset_source(dataset), dataset)


def test_a_stored_image_is_its_bytes(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg", 9, 8)
    assert bytes(stored_image(str(tmp_path / "1.jpg"))) == (tmp_path / "1.jpg").read_bytes()


def test_no_torch_dataset_is_recognised_by_its_looks() -> None:
    class Alike(Dataset[Any]):
        samples: tuple[Any, ...] = ()
        transform = target_transform = None

    assert recognise(Alike()) is None


@pytest.mark.parametrize("spelled", [str, float, lambda number: f"{number:04}"], ids=["text", "float", "zeros"])
@pytest.mark.parametrize("where", ["images", "annotations"])
def test_coco_ids_of_another_spelling_meet(tmp_path: Path, spelled: Callable[[int], object], where: str) -> None:
    pytest.importorskip("pycocotools", reason="CocoDetection needs pycocotools")
    path = write_coco(tmp_path)
    expected = boxes_of(vision.CocoDetection(tmp_path, path))
    data = json.loads(path.read_text())
    for record in data[where]:
        name = "id" if where == "images" else "image_id"
        record[name] = spelled(record[name])
    path.write_text(json.dumps(data))
    assert boxes_of(vision.CocoDetection(tmp_path, path)) == expected
    assert sum(map(len, expected.values())) == 3


def test_annotations_of_images_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="CocoDetection needs pycocotools")
    path = write_coco(tmp_path)
    data = json.loads(path.read_text())
    for record in data["annotations"][:2]:
        record["image_id"] = 777
    path.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="2 annotations of CocoDetection name images that are not in its list"):
        recognise(vision.CocoDetection(tmp_path, path))


def boxes_of(dataset: Any) -> dict[str, list[Any]]:
    source = recognise(dataset)
    assert source is not None
    samples = source.read(np.arange(len(source)))
    return {sample.key: [record["bbox"] for record in sample.target] for sample in samples}
