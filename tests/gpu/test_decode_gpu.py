"""The DALI engine on a GPU: the same placement, its own JPEG decoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from resflow.decode import Decoder, open_engine
from resflow.errors import DecodeError
from tests.decode import samples
from tests.decode.reference import FILL, Tolerance, check_batch, geometry
from tests.laws.test_decode_laws import DALI, SIZES, placements

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

JPEG = Tolerance(3.0, 64.0, 8.0, 64.0)
"""The GPU's JPEG decoder rounds and upsamples chroma in its own way."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Decoder]:
    opened = open_engine("auto", device="cuda", fill=FILL, threads=4, max_batch=32)
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_placements(engine: Decoder, kind: str) -> None:
    for number, (height, width) in enumerate(SIZES):
        cases = placements(height, width, (48, 64))
        data = samples.png(height, width, number) if kind == "png" else samples.jpeg(height, width, number)
        encoded = [data] * len(cases)
        where = geometry(encoded, list(cases.values()), (48, 64))
        images = engine.decode(encoded, where)
        assert images.is_cuda
        assert images.is_contiguous(memory_format=torch.channels_last)
        check_batch(images, encoded, where, DALI if kind == "png" else JPEG, list(cases))


def test_formats_and_orientations(engine: Decoder) -> None:
    images = samples.formats() | {f"orientation {n}": samples.oriented("JPEG", n, 48, 67) for n in range(1, 9)}
    encoded = list(images.values())
    where = geometry(encoded, [np.diag([0.8, 0.7, 1.0])] * len(encoded), (48, 64))
    check_batch(engine.decode(encoded, where), encoded, where, JPEG, list(images))


def test_batches_in_a_row_do_not_overwrite_each_other(engine: Decoder) -> None:
    encoded = [samples.png(90, 120, seed) for seed in range(8)]
    where = geometry(encoded[:1], [np.eye(3)], (90, 120))
    kept = [engine.decode([data], where) for data in encoded]
    for data, images in zip(encoded, kept, strict=True):
        check_batch(images, [data], where, DALI)


def test_a_truncated_jpeg_is_named_and_the_engine_lives_on(engine: Decoder) -> None:
    good = samples.jpeg(60, 80)
    where = geometry([good] * 3, [np.eye(3)] * 3, (60, 80))
    before = engine.decode([good] * 3, where)
    for bad in (good[:-2], good[: len(good) // 2]):
        with pytest.raises(DecodeError, match="cannot decode image 1 of the batch") as caught:
            engine.decode([good, bad, good], where)
        assert caught.value.position == 1
        assert torch.equal(engine.decode([good] * 3, where), before)
