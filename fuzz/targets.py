"""What is fuzzed: functions of bytes that may raise ResflowError and nothing else, each with seeds.

A target makes its files once, in a folder of its own, and is then called many times.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from fuzz.edits import MARK, as_json, edited
from resflow import Pipeline, Targets
from resflow.decode import open_engine
from resflow.errors import HeaderError, ResflowError
from resflow.geometry import Fit
from resflow.geometry.affine import Geometry, identity
from resflow.images import HeaderTruncatedError, count_scans, read_header, whole_header
from resflow.loader import DataLoader
from resflow.sources import (
    Coco,
    CocoPanoptic,
    ShardSource,
    ShardStream,
    Voc,
    Yolo,
    build_index,
    open_index,
    write_index,
)
from resflow.sources.index_file import open_index_file
from resflow.sources.index_lookup import index_path
from resflow.targets import annotation_from_json, place_annotations
from resflow.targets.label_maps import decode_label_map

MAX_BYTES = 1 << 16
"""Bytes of the largest input."""
MAX_PIXELS = 1 << 18
_SIZE = (40, 50)


class Target(NamedTuple):
    """One thing that is fuzzed.

    Args:
        run: takes an input; any exception is a fault, as it lets the ones that are allowed pass.
        seeds: inputs to begin with.
    """

    run: Callable[[bytes], None]
    seeds: list[bytes]


def open_target(name: str, folder: Path) -> Target:
    """A target by its name.

    Args:
        name: one of `NAMES`.
        folder: an empty one, for its files.
    """
    return _TARGETS[name](folder)


def _image(kind: str, height: int = _SIZE[0], width: int = _SIZE[1], **options: object) -> bytes:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 5 % 256, columns * 3 % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _images() -> list[bytes]:
    exif = Image.Exif()
    exif[274] = 6
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM")
    plain = [_image(kind, 24, 30) for kind in kinds]
    return [
        *plain,
        _image("JPEG", progressive=True, exif=exif),
        _image("PNG", exif=exif),
        _image("WEBP", lossless=True, exif=exif),
        _image("TIFF", compression="tiff_lzw"),
    ]


# Archives


def _tar(folder: Path) -> Target:
    path, other = folder / "a.tar", folder / "seed.tar"

    def run(data: bytes) -> None:
        for variant in (data, with_tar_checksums(data)):
            one(variant)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        outcomes = []
        for read in (_by_index, _by_stream):
            try:
                outcomes.append(read(path))
            except ResflowError as error:
                assert str(path) in str(error), f"{error} does not name the shard"
                outcomes.append(None)
        indexed, streamed = outcomes
        # A stream does not look at an image's header, an index does not read other members.
        assert indexed is None or streamed is None or indexed == streamed, "index and stream disagree"

    return Target(run, [_shard(other, form) for form in ("ustar", "gnu", "pax")])


def with_tar_checksums(data: bytes) -> bytes:
    """An archive whose headers' checksums are right, so that what lies behind them is reached."""
    made, place = bytearray(data), 0
    while place + 512 <= len(made):
        header = made[place : place + 512]
        if any(header):
            header[148:156] = b" " * 8
            made[place + 148 : place + 156] = b"%06o\0 " % sum(header)
        digits = bytes(header[124:136]).rstrip(b"\0 ")
        size = int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else 0
        place += 512 + -(-size // 512) * 512
    return bytes(made)


def with_png_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are right."""
    made, place = bytearray(data), 8
    while place + 12 <= len(made):
        (length,) = struct.unpack_from(">I", made, place)
        end = place + 8 + length
        if end + 4 > len(made):
            break
        made[end : end + 4] = struct.pack(">I", zlib.crc32(made[place + 4 : end]))
        place = end + 4
    return bytes(made)


def _by_index(path: Path) -> list[tuple[str, bytes]]:
    source = ShardSource(build_index(str(path), workers=1, max_member_bytes=MAX_BYTES), max_member_bytes=MAX_BYTES)
    samples = source.read(np.arange(len(source), dtype=np.int64))
    return [(sample.key, bytes(sample.image)) for sample in samples]


def _by_stream(path: Path) -> list[tuple[str, bytes]]:
    samples = ShardStream([str(path)], max_member_bytes=MAX_BYTES)
    return [(sample.key, bytes(sample.image)) for sample in samples]


def _shard(path: Path, form: str, count: int = 2) -> bytes:
    import tarfile

    kinds = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    long = "" if form == "ustar" else "folder/" * 16
    with tarfile.open(path, "w", format=kinds[form]) as archive:
        for number in range(count):
            members = {"jpg": _image("JPEG", 8 + number, 9), "cls": b"%d" % number, "json": b"[]"}
            for extension, body in members.items():
                entry = tarfile.TarInfo(f"{long}{number:04d}.{extension}")
                entry.size = len(body)
                archive.addfile(entry, io.BytesIO(body))
    data = path.read_bytes()
    return data[: len(data.rstrip(b"\0")) // 512 * 512 + 512 + 1024]


# Images


def _header(_: Path) -> Target:
    def run(data: bytes) -> None:
        try:
            header = read_header(data)
        except HeaderError:
            return
        if header.format == "jpeg":
            count_scans(data)
        for part in (len(data) // 2, len(data) - 1):  # fewer bytes: more are asked for, or the answer is the same
            try:
                assert read_header(data[:part]) == header, "another header from fewer bytes"
            except HeaderTruncatedError as error:
                assert error.needed > part, "asks for no more than it has"
            except HeaderError as error:
                raise AssertionError(f"damaged with fewer bytes: {error}") from error

    return Target(run, _images())


def _decode(kinds: tuple[str, ...]) -> Callable[[Path], Target]:
    def target(_: Path) -> Target:
        engines = [open_engine(name, max_pixels=MAX_PIXELS) for name in ("turbo", "pillow")]

        def run(data: bytes) -> None:
            for variant in {data, with_png_checksums(data) if data[:4] == b"\x89PNG" else data}:
                one(variant)

        def one(data: bytes) -> None:
            try:
                header = whole_header(data)
            except HeaderError:
                return
            where = Geometry(identity(1), np.array([[header.height, header.width]], np.int32), (32, 32))
            for engine in engines:
                try:
                    images = engine.decode([data], where)
                    assert images.shape == (1, 3, 32, 32)
                except ResflowError:
                    pass

        seeds = [_image(kind, 24, 30) for kind in kinds] + [_image(kind, 9, 7) for kind in kinds]
        if "JPEG" in kinds:
            seeds += [_image("JPEG", progressive=True), _image("JPEG", quality=10, subsampling=2)]
        return Target(run, seeds)

    return target


# Annotations


def _photos(folder: Path) -> Path:
    photos = folder / "images"
    photos.mkdir()
    for name in ("a", "b"):
        (photos / f"{name}.jpg").write_bytes(_image("JPEG"))
    return photos


def _use(source: Coco | Voc | Yolo) -> None:
    """Read all samples, and place their objects with masks and keypoints."""
    samples = source.read(np.arange(len(source), dtype=np.int64))
    size = np.ascontiguousarray(source.index.size)
    geometry = Geometry(Fit().place(size, (32, 32)), size, (32, 32))
    annotations = [sample.target for sample in samples]
    for options in (Targets(), Targets(masks=True)):
        try:
            place_annotations(annotations, geometry, options)  # type: ignore[arg-type]
        except ResflowError:
            continue


def _annotations(write: Callable[[bytes], None], opened: Callable[[str], Coco | Voc | Yolo]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        write(data)
        for on_error in ("raise", "drop"):
            try:
                _use(opened(on_error))
            except ResflowError:
                continue

    return run


def _coco(folder: Path) -> Target:
    photos, page = _photos(folder), folder / "instances.json"
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 30], "area": 300.5, "iscrowd": 0}
    polygon = {"segmentation": [[1.0, 2.0, 20.0, 2.0, 20.0, 30.0]], "keypoints": [3, 4, 2], "num_keypoints": 1}
    runs = {"segmentation": {"size": list(_SIZE), "counts": [100, 900, 1000]}}
    value = {
        "images": [{"id": n, "file_name": f"{c}.jpg", "height": 40, "width": 50} for n, c in ((1, "a"), (2, "b"))],
        "annotations": [{"id": 1, **box, **polygon}, {"id": 2, **box, **runs, "image_id": 2}],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["nose"]}],
    }
    values = [value, value | {"annotations": []}]

    def write(data: bytes) -> None:
        page.write_bytes(as_json(data, values))

    return Target(_annotations(write, lambda how: Coco(photos, page, on_error=how)), _with_scripts(values))


def _panoptic(folder: Path) -> Target:
    photos, page = _photos(folder), folder / "panoptic.json"
    masks = folder / "masks"
    masks.mkdir()
    for name in ("a", "b"):
        (masks / f"{name}.png").write_bytes(_image("PNG"))
    segment = {"id": 5, "category_id": 1, "bbox": [0, 0, 50, 40], "area": 9, "iscrowd": 0}
    value = {
        "images": [{"id": n, "file_name": f"{c}.jpg", "height": 40, "width": 50} for n, c in ((1, "a"), (2, "b"))],
        "annotations": [
            {"image_id": n, "file_name": f"{c}.png", "segments_info": [segment, segment | {"id": 3}]}
            for n, c in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": 1, "name": "thing", "isthing": 1}],
    }

    def run(data: bytes) -> None:
        page.write_bytes(as_json(data, [value]))
        for objects in (False, True):
            try:
                source = CocoPanoptic(photos, page, masks, objects=objects, on_error="drop")
                source.read(np.arange(len(source), dtype=np.int64))
            except ResflowError:
                continue

    return Target(run, _with_scripts([value]))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _voc(folder: Path) -> Target:
    _photos(folder).rename(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    page = folder / "Annotations" / "a.xml"
    item = "<object><name>dog</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax>"
    item += "<ymax>30.5</ymax></bndbox></object>"
    size = "<size><width>50</width><height>40</height><depth>3</depth></size>"
    text = f"<annotation><filename>a.jpg</filename>{size}{item * 2}</annotation>"
    bomb = '<!DOCTYPE a [<!ENTITY b "cccc"><!ENTITY d "&b;&b;&b;">]><annotation>&d;</annotation>'
    run = _annotations(
        lambda data: _write(page, data), lambda how: Voc(folder, "train", classes=["dog", "cat"], on_error=how)
    )
    return Target(run, [text.encode(), bomb.encode(), text.encode("utf-16")])


def _yolo(folder: Path) -> Target:
    photos, labels = _photos(folder), folder / "labels"
    labels.mkdir()
    page = labels / "a.txt"
    seeds = [b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.3 0.1 0.2 0.4\n", b"3 1e0 0 .5 1e-3\n\n"]
    return Target(_annotations(lambda data: _write(page, data), lambda how: Yolo(photos, labels, on_error=how)), seeds)


def _members(_: Path) -> Target:
    from resflow.session.labels import class_number

    where = Geometry(identity(1), np.array([_SIZE], np.int32), (32, 32))

    def objects(data: bytes) -> None:
        annotation = annotation_from_json(data)
        for options in (Targets(), Targets(masks=True), Targets(keypoints=True)):
            try:
                place_annotations([annotation], where, options)
            except ResflowError:
                continue

    def run(data: bytes) -> None:
        data = as_json(data, values)
        for read in (objects, decode_label_map, lambda text: class_number(text, "cls")):
            try:
                read(data)
            except ResflowError:
                continue

    box = {"category_id": 1, "bbox": [1, 2, 20, 30], "area": 1.5, "iscrowd": 0, "image_id": 3}
    masks = [{"size": list(_SIZE), "counts": "Rd1"}, {"size": list(_SIZE), "counts": [100, 900, 1000]}]
    polygon = {"segmentation": [[1.0, 2.0, 20.0, 2.0, 20.0, 30.0]], "keypoints": [3, 4, 2, 0, 0, 0]}
    records = [box | polygon, *({**box, "segmentation": mask} for mask in masks)]
    values = [records, {"image_id": 3, "annotations": records, "keypoint_pairs": [[0, 1]]}]
    palette = io.BytesIO()
    Image.fromarray(np.eye(40, 50, dtype=np.uint8)).convert("P").save(palette, "PNG")
    return Target(run, [*_with_scripts(values), palette.getvalue(), b" +12 \n"])


def _with_scripts(values: list[Any]) -> list[bytes]:
    """Values as JSON, and scripts that edit them."""
    scripts = [MARK + bytes([number]) + bytes([0, 7 * number, 9 + number]) for number in range(8)]
    return [json.dumps(value).encode() for value in values] + scripts


# What users and earlier runs write


def _yaml(folder: Path) -> Target:
    path = folder / "pipeline.yaml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            Pipeline.from_yaml(path)
        except ResflowError as error:
            assert str(error).startswith(str(path)), f"{error} does not name the file"

    shipped = sorted((Path(__file__).parents[1] / "pipelines").glob("*.yaml"))
    plain = "resolution: {linear: {start: 128, end: 224, epochs: 4}}\nfit: {max_crop: 0.1}\nviews:\n"
    plain += "  - random_resized_crop: {scale: [0.35, 1.0]}\n  - horizontal_flip\nnormalize: imagenet\ndtype: float16\n"
    bomb = b"a: &a [1,1]\nb: &b [*a,*a,*a]\nresolution: [*b,*b,*b]\n"
    return Target(run, [*(page.read_bytes() for page in shipped), plain.encode(), bomb])


def _cursor(folder: Path) -> Target:
    pattern = _indexed(folder)
    pipeline = Pipeline(resolution=32, buckets=2, targets=None)
    loaders = [
        DataLoader(pattern, batch_size=2, shuffle=True, pipeline=pipeline),
        DataLoader(ShardStream(pattern), batch_size=2, pipeline=pipeline),
        DataLoader(torch.utils.data.TensorDataset(torch.arange(8)), batch_size=2, shuffle=True),
    ]

    states = [loader.state_dict() for loader in loaders]

    def run(data: bytes) -> None:
        try:
            state = json.loads(as_json(data, states))
        except (ValueError, RecursionError):
            return
        for loader in loaders:
            try:
                loader.load_state_dict(state)
                loader.state_dict()
                if loader is loaders[0]:
                    len(loader)
            except ResflowError:
                continue

    return Target(run, _with_scripts(states))


def _indexed(folder: Path) -> str:
    pattern = f"{folder}/s-{{0..1}}.tar"
    for number in range(2):
        _shard(folder / f"s-{number}.tar", "gnu", 4)
    write_index(build_index(pattern, workers=1), index_path(pattern))
    return pattern


def _index(folder: Path) -> Target:
    pattern = _indexed(folder)
    path = index_path(pattern)
    seed = path.read_bytes()
    table = pa.ipc.open_file(pa.py_buffer(seed)).read_all()

    def run(data: bytes) -> None:
        path.write_bytes(_edited_index(table, data[1:]) if data[:1] == MARK else data)
        try:
            open_index(pattern)
            index = open_index_file(path, check=False)
            for sample_id in range(min(len(index), 20)):
                try:
                    index.name(sample_id)
                    ShardSource(index).read(np.array([sample_id]))
                except ResflowError:
                    continue
            loader = DataLoader(ShardSource(index), batch_size=2, pipeline=Pipeline(resolution=32, targets=None))
            loader.plan(0)
        except ResflowError:
            pass

    return Target(run, [seed, *(MARK + bytes([column, 1, 2 * column]) for column in range(8))])


def _edited_index(table: pa.Table, script: bytes) -> bytes:
    """An index with some of its numbers replaced, or its metadata; everything else about the file is sound."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    meta = dict(table.schema.metadata)
    for at in range(0, min(len(script), 12) - 2, 3):
        name = [*columns, "meta"][script[at] % (len(columns) + 1)]
        value = (0, 1, -1, 7, 512, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 1 << 40)[script[at + 2] % 10]
        if name == "meta":
            said = edited(json.loads(meta[b"resflow"]), script[at:])
            meta[b"resflow"] = json.dumps(said).encode()
        elif name == "key":
            keys = columns[name].to_pylist()
            keys[script[at + 1] % len(keys)] = ("", "x" * 999, "../a", "\0")[script[at + 2] % 4]
            columns[name] = pa.array(keys, pa.large_string())
        else:
            flat = columns[name].flatten() if name == "size" else columns[name]
            numbers = flat.to_numpy().copy()
            limits = np.iinfo(numbers.dtype)
            numbers[script[at + 1] % len(numbers)] = min(max(value, limits.min), limits.max)
            made = pa.array(numbers)
            columns[name] = pa.FixedSizeListArray.from_arrays(made, 2) if name == "size" else made
    schema = table.schema.with_metadata(meta)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return sink.getvalue()


_TARGETS: dict[str, Callable[[Path], Target]] = {
    "tar": _tar,
    "header": _header,
    "jpeg": _decode(("JPEG",)),
    "png": _decode(("PNG",)),
    "webp": _decode(("WEBP",)),
    "rare": _decode(("GIF", "TIFF", "BMP", "AVIF", "PPM")),
    "coco": _coco,
    "panoptic": _panoptic,
    "voc": _voc,
    "yolo": _yolo,
    "members": _members,
    "yaml": _yaml,
    "cursor": _cursor,
    "index": _index,
}
NAMES = tuple(_TARGETS)


def quiet() -> None:
    """Leave out what Pillow and pycocotools say of damaged files, and Resflow of dropped objects."""
    import logging

    warnings.simplefilter("ignore")
    logging.getLogger("resflow").setLevel(logging.ERROR)
