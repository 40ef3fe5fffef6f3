from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resflow.errors import TargetError
from resflow.targets import LabelMap, Targets, move_label_maps, place_label_maps
from resflow.targets.label_maps import decode_label_map
from tests.targets.scenes import mirror, nearest, placed, turned


def png(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


CLASSES = np.random.default_rng(0).integers(0, 12, (9, 13)).astype(np.uint8)


def test_palette_places_and_greys_are_classes() -> None:
    indexed = Image.new("P", (13, 9))
    indexed.putpalette(list(range(255, -1, -1)) * 3)
    indexed.frombytes(CLASSES.tobytes())
    np.testing.assert_array_equal(decode_label_map(png(indexed)), CLASSES)
    np.testing.assert_array_equal(decode_label_map(memoryview(png(indexed, bits=4))), CLASSES)
    np.testing.assert_array_equal(decode_label_map(png(Image.fromarray(CLASSES))), CLASSES)
    deep = decode_label_map(png(Image.fromarray(CLASSES.astype(np.uint16) * 5000)))
    assert deep.dtype == np.int32
    np.testing.assert_array_equal(deep, CLASSES.astype(np.int32) * 5000)
    np.testing.assert_array_equal(decode_label_map(png(Image.fromarray(CLASSES > 5))), CLASSES > 5)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_greys_of_few_bits_are_what_was_stored(depth: int) -> None:
    import struct
    import zlib

    classes = CLASSES % 2**depth
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].reshape(-1)).tobytes() for row in classes]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 13, 9, depth, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    encoded = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_label_map(encoded), classes)


def test_placed_by_the_nearest_with_ignore_index_around() -> None:
    maps = [LabelMap(png(Image.fromarray(CLASSES))), None, LabelMap.from_array(CLASSES)]
    geometry = placed([(9, 13), (5, 5), (9, 13)], (20, 16), flip="x")
    got = place_label_maps(maps, geometry, Targets())
    assert (got.dtype, tuple(got.shape)) == (torch.uint8, (3, 20, 16))
    right = nearest(CLASSES, geometry.matrix[0], (20, 16), 255)
    for place in (0, 2):
        np.testing.assert_array_equal(got[place].numpy(), right)
    assert (got[1] == 255).all()
    moved = move_label_maps(
        got, torch.from_numpy(turned(30, 1, (20, 16), (20, 16)))[None].repeat(3, 1, 1), (20, 16), Targets()
    )
    np.testing.assert_array_equal(moved[0].numpy(), nearest(right, turned(30, 1, (20, 16), (20, 16)), (20, 16), 255))
    assert torch.equal(move_label_maps(got, np.stack([np.eye(3)] * 3), (20, 16), Targets()), got)
    flipped = move_label_maps(got.long(), np.stack([mirror(0, 16)] * 3), (20, 16), Targets(ignore_index=-100))
    assert torch.equal(flipped, got.long().flip(2))


@pytest.mark.parametrize(
    ("ignore_index", "deep", "dtype"),
    [
        (255, False, torch.uint8),
        (0, False, torch.uint8),
        (-100, False, torch.int16),
        (255, True, torch.int32),
        (40000, False, torch.int32),
    ],
)
def test_the_smallest_dtype_that_holds_all(ignore_index: int, deep: bool, dtype: torch.dtype) -> None:
    classes = CLASSES.astype(np.int32) * 5000 if deep else CLASSES
    got = place_label_maps(
        [LabelMap.from_array(classes)], placed([(9, 13)], (26, 13)), Targets(ignore_index=ignore_index)
    )
    assert got.dtype == dtype
    assert got[0, 0, 0] == ignore_index
    assert int(got.long().amax()) == max(int(classes.max()), ignore_index)


def test_a_batch_of_none() -> None:
    got = place_label_maps([], placed([], (20, 16)), Targets())
    assert (got.dtype, tuple(got.shape)) == (torch.uint8, (0, 20, 16))
    assert move_label_maps(got, torch.zeros(0, 3, 3), (20, 16), Targets()).shape == (0, 20, 16)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (
            png(Image.new("RGB", (13, 9))),
            "palette places or greys; got RGB, 13x9 pixels. Turn its colours into class numbers",
        ),
        (png(Image.new("LA", (13, 9))), "palette places or greys; got LA"),
        (b"\xff\xd8\xff", r"a label map must be a PNG; got 3 bytes from b'\\xff\\xd8\\xff'"),
        (b"", "a label map must be a PNG; got 0 bytes"),
        (png(Image.fromarray(CLASSES))[:60], "a label map must be a PNG; got 60 bytes"),
        (
            png(Image.new("L", (9, 13))),
            r"its image's size; got 9x13 for an image of 13x9 pixels \(after EXIF orientation\)",
        ),
    ],
)
def test_what_is_no_label_map_is_refused(encoded: bytes, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        place_label_maps([None, LabelMap(encoded)], placed([(9, 13)] * 2, (20, 16)), Targets())
    assert caught.value.position == 1
