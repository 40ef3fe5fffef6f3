"""Any map-style dataset as a source: the forms of its items, its sizes, its errors."""

from __future__ import annotations

import io
import logging
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset
from torchvision import tv_tensors

from resflow.errors import ConfigError, HeaderError, ShardError
from resflow.sources import NO_TARGET, DatasetSource, Source, dataset_source
from resflow.sources.dataset_items import IMAGE_KEYS, as_image, split_item

SIZES = [(4, 6), (9, 2), (1, 1), (7, 7), (3, 12)]


def rgb(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZES[number], 3), dtype=np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb(number)).save(buffer, "PNG")
    return buffer.getvalue()


class Items:
    """A map-style dataset of whatever `make` gives."""

    def __init__(self, make: Callable[[int], Any], count: int = len(SIZES)) -> None:
        self.make, self.count, self.asked = make, count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        assert type(number) is int
        if not 0 <= number < self.count:
            raise IndexError(number)
        self.asked.append(number)
        return self.make(number)


ALPHA = np.full((1, 1, 1), 77, np.uint8)
IMAGES: dict[str, Callable[[np.ndarray], Any]] = {
    "pil": Image.fromarray,
    "array": lambda a: a,
    "array of strides": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "array with alpha": lambda a: np.concatenate([a, np.broadcast_to(ALPHA, (*a.shape[:2], 1))], axis=2),
    "tensor": lambda a: torch.from_numpy(a.copy()).permute(2, 0, 1),
    "tensor with alpha": lambda a: torch.cat(
        [torch.from_numpy(a.copy()).permute(2, 0, 1), torch.zeros(1, *a.shape[:2], dtype=torch.uint8)]
    ),
    "tv_tensor": lambda a: tv_tensors.Image(torch.from_numpy(a.copy()).permute(2, 0, 1)),
    "pil with alpha": lambda a: Image.fromarray(a).convert("RGBA"),
}
GREYS: dict[str, Callable[[np.ndarray], Any]] = {
    "pil": Image.fromarray,
    "array": lambda a: a,
    "array of one channel": lambda a: a[..., None],
    "tensor": torch.from_numpy,
    "tensor of one channel": lambda a: torch.from_numpy(a)[None],
}


def check_reads(source: Source, expected: Callable[[int], np.ndarray]) -> None:
    """Sizes, pixels and targets, with repeats and out of order."""
    numbers = [3, 0, 4, 3, 2, 1]
    assert source.index.size.tolist() == [list(size) for size in SIZES]
    for number, sample in zip(numbers, source.read(np.array(numbers)), strict=True):
        assert isinstance(sample.image, np.ndarray)
        assert sample.image.dtype == np.uint8
        assert sample.image.flags.c_contiguous
        assert np.array_equal(sample.image, expected(number)), f"pixels of {number}"
        assert sample.target == number
        assert (sample.shard, sample.key) == source.name(number)


@pytest.mark.parametrize("form", IMAGES)
def test_pixels_of_every_form(form: str) -> None:
    check_reads(DatasetSource(Items(lambda number: (IMAGES[form](rgb(number)), number))), rgb)


@pytest.mark.parametrize("form", GREYS)
def test_grey_is_repeated(form: str) -> None:
    source = DatasetSource(Items(lambda number: (GREYS[form](rgb(number)[..., 0].copy()), number)))
    check_reads(source, lambda number: np.repeat(rgb(number)[..., :1], 3, axis=2))


def test_the_check_can_fail() -> None:
    source = DatasetSource(Items(lambda number: (rgb(number), number)))
    with pytest.raises(AssertionError, match="pixels of 3"):
        check_reads(source, lambda number: rgb(number)[:, ::-1])


def test_a_palette_with_transparency_warns_of_nothing() -> None:
    image = Image.fromarray(rgb(0)).convert("P")
    image.info["transparency"] = bytes(range(200))
    assert np.array_equal(as_image(image, "it"), np.asarray(image.convert("RGBA"))[..., :3])


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda data: {"bytes": data, "path": None}])
def test_encoded_bytes_stay_encoded(form: Callable[[bytes], Any]) -> None:
    source = DatasetSource(Items(lambda number: (form(png(number)), number)))
    assert source.index.size.tolist() == [list(size) for size in SIZES]
    assert [bytes(sample.image) for sample in source.read(np.array([2, 0]))] == [png(2), png(0)]


@pytest.mark.parametrize("form", [str, Path, lambda path: {"bytes": None, "path": str(path)}])
def test_paths_give_the_files_bytes(tmp_path: Path, form: Callable[[Path], Any]) -> None:
    for number in range(len(SIZES)):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    source = DatasetSource(Items(lambda number: (form(tmp_path / f"{number}.png"), number)))
    assert source.index.size.tolist() == [list(size) for size in SIZES]
    assert [bytes(sample.image) for sample in source.read(np.array([2, 0]))] == [png(2), png(0)]
    (tmp_path / "1.png").unlink()
    with pytest.raises(ShardError, match=r"1\.png: the image cannot be read: No such file.*Put the file back"):
        source.read(np.array([1]))


def test_bytes_are_upright_and_pil_pixels_are_as_they_are() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(rgb(0)).save(buffer, "JPEG", exif=exif)
    assert DatasetSource([(buffer.getvalue(), 0)]).index.size.tolist() == [[6, 4]]
    assert DatasetSource([(Image.open(buffer), 0)]).index.size.tolist() == [[4, 6]]


IMAGE = rgb(0)


@pytest.mark.parametrize(
    ("item", "target"),
    [
        ((IMAGE, 5), 5),
        ([IMAGE, 5], 5),
        ((IMAGE, None), None),
        ((IMAGE, 5, "x"), (5, "x")),
        ((IMAGE, (5, 6)), (5, 6)),
        ((IMAGE,), NO_TARGET),
        (IMAGE, NO_TARGET),
        ({"image": IMAGE}, NO_TARGET),
        ({"img": IMAGE, "fine": 5}, 5),
        ({"pixel_values": IMAGE, "labels": 5}, 5),
        ({"label": 5, "jpg": IMAGE, "id": 3}, {"label": 5, "id": 3}),
    ],
)
def test_items_part_into_image_and_target(item: Any, target: object) -> None:
    image, found = split_item(item, "it")
    assert image is IMAGE
    assert found == target
    assert DatasetSource([item]).read(np.array([0]))[0].target == target


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((), r"list\[0\] is an empty tuple; expected \(image, target\)"),
        ({"x": IMAGE}, rf"list\[0\] is a dict with the keys \['x'\]; expected .* one of {', '.join(IMAGE_KEYS)}"),
        ({"image": IMAGE, "img": IMAGE}, r"keys \['image', 'img'\]"),
        ((3.5, 0), r"the image of list\[0\] is of type float; expected .* a path, encoded bytes, a PIL image"),
        ((None, 0), "is of type NoneType"),
        (
            (torch.zeros(3, 4, 5), 0),
            r"list\[0\] is torch.float32 \[3, 4, 5\]; expected uint8 pixels. Drop ToTensor.*Pipeline\(normalize=",
        ),
        ((np.zeros((4, 5, 3)), 0), r"is float64 \[4, 5, 3\]; expected uint8 pixels"),
        ((np.zeros((3, 4, 5), np.uint8), 0), r"has shape \[3, 4, 5\]; expected \[H,W\] or \[H,W,1\|3\|4\] of an array"),
        ((torch.zeros(4, 5, 3, 2, dtype=torch.uint8), 0), r"has shape \[4, 5, 3, 2\]"),
        ((torch.zeros(5, 4, 3, dtype=torch.uint8), 0), r"has shape \[5, 4, 3\]"),
        ((np.zeros((0, 5), np.uint8), 0), r"has shape \[0, 5\]; .* none of them 0"),
        ((Image.new("I;16", (3, 4)), 0), r"list\[0\] is a PIL image of mode 'I;16'; expected 8 bits per channel"),
    ],
)
def test_items_of_other_forms_are_refused(item: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DatasetSource([item], sizes=[[4, 5]]).read(np.array([0]))
    if "mode" not in message:  # the size of a PIL image of any mode is known
        with pytest.raises(ConfigError, match=message):
            DatasetSource([item])


def test_bytes_of_no_image_are_named() -> None:
    with pytest.raises(HeaderError, match=r"no image header.*\(sample list\[1\]\)"):
        DatasetSource([(png(0), 0), (b"no image at all", 1)])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "Stream is an IterableDataset, a stream; expected a map-style dataset"),
        (3, "int is not a map-style dataset: expected one with __getitem__ and __len__"),
        ([], "list is empty; expected at least one sample"),
    ],
)
def test_what_is_no_map_style_dataset_is_refused(dataset: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset_source(dataset)


# Reading


class Together(Items):
    def __getitems__(self, numbers: list[int]) -> list[Any]:
        self.asked.append(numbers)
        return [self.make(number) for number in numbers]


def test_getitems_is_used_where_it_is_there() -> None:
    dataset = Together(lambda number: (rgb(number), number))
    source = DatasetSource(dataset, sizes=SIZES)
    check_reads(source, rgb)
    assert dataset.asked == [[3, 0, 4, 3, 2, 1]]
    assert source.read(np.array([], np.int64)) == []
    Together.__getitems__ = lambda self, numbers: [(rgb(0), 0)]  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"Together.__getitems__ returned 1 items; expected one for each of \[1, 2\]"):
        source.read(np.array([1, 2]))


def test_what_the_dataset_raises_comes_through_with_a_note() -> None:
    source = DatasetSource(Items(lambda number: (rgb(number), {0: 1}[number])), sizes=SIZES)
    with pytest.raises(KeyError) as caught:
        source.read(np.array([0, 3]))
    assert caught.value.__notes__ == ["Raised by Items[3]."]


def test_the_size_of_the_pixels_may_differ_from_the_index() -> None:
    source = DatasetSource(Items(lambda number: (rgb(number), number)), sizes=[[5, 5]] * len(SIZES))
    assert [sample.image.shape[:2] for sample in source.read(np.arange(len(SIZES)))] == SIZES


def test_subsets_and_tensor_datasets() -> None:
    whole = Items(lambda number: (rgb(number), number))
    source = dataset_source(ConcatDataset([Subset(whole, [4, 1]), Subset(whole, [0])]))
    assert [sample.target for sample in source.read(np.arange(3))] == [4, 1, 0]
    tensors = TensorDataset(torch.zeros(5, 3, 8, 6, dtype=torch.uint8), torch.arange(5))
    source = dataset_source(tensors)
    assert source.index.size.tolist() == [[8, 6]] * 5
    assert [int(sample.target) for sample in source.read(np.array([4, 2]))] == [4, 2]


class Plain:
    """Can be pickled."""

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, number: int) -> Any:
        return rgb(number), number


def test_a_pickled_copy_reads_the_same() -> None:
    source = DatasetSource(Plain())
    copy = pickle.loads(pickle.dumps(source))
    check_reads(copy, rgb)
    assert copy.index.fingerprint == source.index.fingerprint
    copy.read_ahead(np.arange(2))
    copy.close()
    check_reads(copy, rgb)


# Sizes


def test_one_pass_measures_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    dataset = Items(lambda number: (rgb(number), number))
    with caplog.at_level(logging.INFO, "resflow"):
        DatasetSource(dataset)
    assert dataset.asked == [0, 1, 2, 3, 4]
    begin, end = (record.getMessage() for record in caplog.records)
    assert begin == "sizes of 5 images of Items: one pass over the dataset; sizes='FILE' would keep the result"
    assert end.startswith("sizes of 5 images of Items took ")


class Asked(Items):
    def get_height_and_width(self, number: int) -> tuple[Any, Any]:
        return np.int64(number + 1), torch.tensor(7)


def test_a_dataset_that_knows_its_sizes_is_asked() -> None:
    dataset = Asked(lambda number: (rgb(number), number))
    assert DatasetSource(dataset).index.size.tolist() == [[number + 1, 7] for number in range(5)]
    assert DatasetSource(Subset(dataset, [4, 2])).index.size.tolist() == [[5, 7], [3, 7]]
    assert DatasetSource(Subset(Subset(dataset, [4, 2]), [1])).index.size.tolist() == [[3, 7]]
    assert dataset.asked == []


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda sizes: np.array(sizes, np.uint16)])
def test_sizes_may_be_given(kind: Callable[[Any], Any]) -> None:
    dataset = Items(lambda number: (rgb(number), number))
    index = DatasetSource(dataset, sizes=kind(SIZES)).index
    assert dataset.asked == []
    assert index.fingerprint == DatasetSource(dataset).index.fingerprint
    assert index.size.dtype == np.int32


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (SIZES[:4], r"sizes must be integers \[5, 2\], the height and width of each .* 5 images; got int64 \[4, 2\]"),
        (np.zeros(5, np.int64), r"got int64 \[5\]"),
        (np.ones((5, 2)), r"got float64 \[5, 2\]"),
        ([*SIZES[:4], (3, 0)], r"sizes must be positive pixels; sample 4 has height, width \[3, 0\]"),
        ([(2**40, 3), *SIZES[1:]], r"sample 0 has height, width \[1099511627776, 3\]"),
    ],
)
def test_wrong_sizes_are_refused(sizes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DatasetSource(Plain(), sizes=sizes)


def test_sizes_are_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sizes"
    dataset = Items(lambda number: (rgb(number), number))
    first = DatasetSource(dataset, sizes=path).index
    assert [entry.name for entry in tmp_path.iterdir()] == ["sizes"]
    again = DatasetSource(dataset, sizes=str(path)).index
    assert dataset.asked == [0, 1, 2, 3, 4]
    assert np.array_equal(first.size, again.size)
    assert first.fingerprint == again.fingerprint
    with pytest.raises(
        ConfigError, match=r"the sizes in .* belong to another dataset than this Plain of 5 images\. Name"
    ):
        DatasetSource(Plain(), sizes=path)
    with pytest.raises(ConfigError, match=r"sizes in .*/sizes must be integers \[4, 2\].* got int32 \[5, 2\]"):
        DatasetSource(Items(dataset.make, 4), sizes=path)
    with pytest.raises(ConfigError, match=r"sizes cannot be written: the folder .*nowhere is missing"):
        DatasetSource(dataset, sizes=tmp_path / "nowhere" / "sizes")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short", b"\x93NUMPY cut"])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sizes"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"sizes does not hold sizes \(.*\)\. Name another file, or remove it"):
        DatasetSource(Plain(), sizes=path)
    assert path.read_bytes() == content


def test_a_plain_numpy_file_holds_sizes_too(tmp_path: Path) -> None:
    np.save(tmp_path / "sizes.npy", np.array(SIZES))
    check_reads(DatasetSource(Plain(), sizes=tmp_path / "sizes.npy"), rgb)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ConfigError, match="does not hold sizes"):
        DatasetSource(Plain(), sizes=tmp_path / "other.npz")


def test_the_fingerprint_tells_datasets_apart() -> None:
    sizes = np.array([[3, 3]] * 5)
    datasets = [Plain(), Items(rgb), Items(rgb, 4), Subset(Plain(), [0, 1]), Subset(Plain(), [1, 0]), [0] * 5]
    prints = [DatasetSource(d, sizes=sizes[: len(d)]).index.fingerprint for d in datasets]
    prints.append(DatasetSource(Plain(), sizes=sizes + 1).index.fingerprint)
    assert len(set(prints)) == len(prints)
    assert prints[0] == DatasetSource(Plain(), sizes=sizes).index.fingerprint


def test_the_index_says_that_samples_have_no_place() -> None:
    index = DatasetSource(Plain()).index
    assert (index.shard.tolist(), index.offset.tolist(), index.length.tolist()) == ([0] * 5, [0] * 5, [1] * 5)


def test_torchvision_is_not_imported() -> None:
    program = """
        import sys
        from resflow.sources import dataset_source
        import numpy
        dataset_source([(numpy.zeros((3, 4), "uint8"), 0)])
        assert "torchvision" not in sys.modules
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
