"""What fuzzing and the corpus brought to light, each by the least input that shows it."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuzz.targets import _image as image
from resflow import DataLoader, Pipeline
from resflow.config import MAX_NODES
from resflow.errors import ConfigError, HeaderError, IndexFileError, ShardError, StateError, TargetError
from resflow.images import read_header, whole_header
from resflow.sources import Coco, Yolo, build_index, index_path, open_index, write_index
from resflow.sources.image_files import file_header, read_file
from resflow.targets import annotation_from_json
from resflow.targets.label_maps import decode_label_map, place_label_maps
from resflow.targets.options import Targets
from resflow.targets.types import LabelMap
from tests.decode.reference import geometry
from tests.hostile import images, tars


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jpg").write_bytes(image("JPEG"))
    return folder


def coco(photos: Path, **changes: Any) -> Coco:
    """A source of two images, one with an object, some of whose values are others."""
    listed = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    item = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 30], "area": 600} | changes.pop("item", {})
    listed[0] |= changes.pop("image", {})
    category = {"id": 1, "name": "thing"} | changes.pop("category", {})
    page = photos.parent / "page.json"
    page.write_text(json.dumps({"images": listed, "annotations": [item], "categories": [category]}))
    return Coco(photos, page, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item": {"bbox": [1, 2, 10**400, 3]}}, "too large"),
        ({"item": {"id": 1 << 64}}, f"id {1 << 64}; expected a whole number"),
        ({"image": {"id": 1 << 64}}, f"id {1 << 64}; expected a whole number"),
        ({"image": {"file_name": "a\0.jpg"}}, "expected a whole number (and a file_name)"),
        ({"image": {"file_name": "\ud800.jpg"}}, "expected a whole number (and a file_name)"),
        ({"item": {"segmentation": [[10**400] * 6]}}, "polygons that are not lists of numbers"),
    ],
)
def test_values_of_coco_that_fit_nothing_are_problems(photos: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError) as caught:
        coco(photos, **changes)
    assert words in str(caught.value)
    assert len(coco(photos, on_error="drop", **changes)) >= 1


def test_a_category_of_any_name_is_taken(photos: Path) -> None:
    assert coco(photos, category={"name": "\ud800"}).categories == {1: "\ud800"}


@pytest.mark.parametrize("skeleton", [5, [1], [["a", 2]], [[float("inf"), 1]]])
def test_a_broken_skeleton_is_named(photos: Path, skeleton: object) -> None:
    with pytest.raises(ConfigError, match="has a category whose keypoints are no list of names, or whose skeleton"):
        coco(photos, category={"keypoints": ["nose"], "skeleton": skeleton})


@pytest.mark.parametrize("number", ["1000000000", "1e300", "inf"])
def test_yolo_classes_have_an_end(photos: Path, number: str) -> None:
    (photos / "a.txt").write_text(f"{number} 0.5 0.5 0.2 0.2\n")
    start = time.perf_counter()
    with pytest.raises(TargetError, match=r"class .* is (beyond 100000|not a whole number)"):
        Yolo(photos, photos)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "value", [{"image_id": 1 << 64, "annotations": []}, [{"category_id": 1 << 64, "bbox": [0, 0, 1, 1]}]]
)
def test_numbers_of_members_are_of_64_bits(value: object) -> None:
    with pytest.raises(TargetError, match=f"must be a whole number; got {1 << 64}"):
        annotation_from_json(json.dumps(value))


@pytest.mark.parametrize("state", [None, 3.5, "text", [1], True])
def test_a_state_that_is_no_mapping(state: Any) -> None:
    loader = DataLoader(torch.utils.data.TensorDataset(torch.arange(4)))
    with pytest.raises(StateError, match="saved state must be a mapping; got"):
        loader.load_state_dict(state)


@pytest.mark.parametrize("change", [{"shards": ["a\0.tar"]}, {"shards": ["\ud800"]}, {"shard_sizes": [float("inf")]}])
def test_an_index_of_broken_metadata(tmp_path: Path, change: dict[str, object]) -> None:
    import pyarrow as pa

    pattern = f"{tmp_path}/a.tar"
    Path(pattern).write_bytes(tars.sample(b"a") + tars.END)
    path = index_path(pattern)
    write_index(build_index(pattern), path)
    table = pa.ipc.open_file(path.read_bytes()).read_all().combine_chunks()
    meta = json.loads(table.schema.metadata[b"resflow"]) | change
    schema = table.schema.with_metadata({b"resflow": json.dumps(meta).encode()})
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_batch(table.to_batches()[0].replace_schema_metadata(schema.metadata))
    with pytest.raises(IndexFileError, match="the index is damaged"):
        open_index(pattern)


def yaml(tmp_path: Path, text: str) -> Pipeline:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return Pipeline.from_yaml(path)


def test_aliases_that_stand_for_a_billion_values(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=rf"pipeline.yaml:1: aliases make more than {MAX_NODES} values"):
        yaml(tmp_path, "\n".join([*lines, "resolution: *a9"]))
    with pytest.raises(ConfigError, match="or contain themselves"):
        yaml(tmp_path, "resolution: &a [*a]")
    assert time.perf_counter() - start < 1
    assert yaml(tmp_path, "resolution: &r 64\nstride: *r").stride == 64


@pytest.mark.parametrize("value", ['!!int ""', '!!bool "x"', '!!timestamp "x"', '!!float ""'])
def test_tags_before_text_that_they_do_not_fit(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"pipeline.yaml:2: cannot be read as a value"):
        yaml(tmp_path, f"resolution: 64\nstride: {value}")


def test_a_yaml_file_without_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has more than 1048576 bytes; expected a pipeline's few lines"):
        yaml(tmp_path, "#" * (2 << 20))


@pytest.mark.parametrize("read", [read_file, file_header])
def test_files_that_are_none(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ShardError, match=r"no regular file|cannot be read"):
            read(str(path))
    for name in ("a\0b", "\ud800"):
        with pytest.raises(ShardError, match=r"the image cannot be read: .*\. Correct the name\."):
            read(name)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, which is asked then
def test_a_header_that_claims_to_lie_far_away(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II+\0\x08\0\0\0" + struct.pack("<Q", 1 << 62) + bytes(100))
    with pytest.raises(HeaderError, match="tiff header is cut short"):
        file_header(str(path))


def test_a_file_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # takes no room
    with pytest.raises(ShardError, match=f"the file has {2 << 30} bytes; at most {1 << 30} are read of an image"):
        read_file(str(path))


def test_a_label_map_of_another_size_is_not_decoded() -> None:
    bomb = images.png_of(9000, 9000, rows=b"")  # its pixels would be missed if they were looked for
    with pytest.raises(
        TargetError, match="a label map must have its image's size; got 9000x9000 for an image of 50x40"
    ):
        decode_label_map(bomb, (40, 50))
    where = geometry([image("PNG")], [np.eye(3)], (32, 32))
    with pytest.raises(TargetError, match="a label map must have its image's size"):
        place_label_maps([LabelMap(bomb)], where, Targets())


def test_headers_take_no_time() -> None:
    plain = image("JPEG")
    long = {
        "stray bytes": plain[:20] + bytes(8 << 20) + plain[20:],
        "restart markers": plain[:2] + b"\xff\xd0" * (4 << 20) + plain[2:],
        "chunks": images.png_of(48, 67, images.chunk(b"abCd", b"") * 400_000),
        "boxes": struct.pack(">I4s4sI", 16, b"ftyp", b"avif", 0) + struct.pack(">I4s", 8, b"free") * 1_000_000,
    }
    for name, data in long.items():
        start = time.perf_counter()
        with pytest.raises(HeaderError, match="has more than 131072 segments, chunks or boxes"):
            read_header(data)
        assert time.perf_counter() - start < 2, name


@pytest.mark.filterwarnings("ignore")
def test_a_header_that_only_pillow_reads_is_not_decoded() -> None:
    """Found by mutating: a checksum that is wrong, and a width that is right but for it."""
    for width in (1 << 30, 60_000):
        data = bytearray(images.png_of(30_000, width, rows=zlib.compress(bytes(1 << 20))))
        del data[data.index(b"IEND") - 4 :]
        start = time.perf_counter()
        with suppress(HeaderError):
            assert whole_header(bytes(data)).width == width
        assert time.perf_counter() - start < 5
