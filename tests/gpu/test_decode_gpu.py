"""The DALI engine on a GPU: the decoder law, with the JPEG engines on and off, and its ways with memory and streams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from resflow.decode import Decoder, open_engine
from resflow.decode.dali import DaliDecoder
from resflow.decode.hardware import probe_hardware
from resflow.errors import DecodeError
from tests.data import real
from tests.decode import samples
from tests.decode.reference import FILL, Tolerance, check_batch, geometry, reference_decode
from tests.laws.test_decode_laws import DALI, SIZES, placements

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

JPEG = Tolerance(3.0, 64.0, 8.0, 64.0)
"""The GPU's JPEG decoder rounds and upsamples chroma in its own way."""


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["JPEG engines off", "JPEG engines on"])
def engine(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    if request.param and not probe_hardware().engines:
        pytest.skip(f"{torch.cuda.get_device_name()} has no JPEG engines")
    opened = DaliDecoder(FILL, device="cuda", threads=4, max_batch=32, hardware_load=request.param)
    yield opened
    opened.close()


@pytest.mark.parametrize("size", [(48, 64), (33, 31)])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_placements(engine: Decoder, kind: str, size: tuple[int, int]) -> None:
    for number, (height, width) in enumerate(SIZES):
        cases = placements(height, width, size)
        data = samples.png(height, width, number) if kind == "png" else samples.jpeg(height, width, number)
        encoded = [data] * len(cases)
        where = geometry(encoded, list(cases.values()), size)
        images = engine.decode(encoded, where)
        assert images.is_cuda
        assert images.is_contiguous(memory_format=torch.channels_last)
        check_batch(images, encoded, where, DALI if kind == "png" else JPEG, list(cases))


@pytest.mark.parametrize("placed", ["identity", "crop, mirrored", "rotated 17"])
def test_formats_of_all_kinds_in_one_batch(engine: Decoder, placed: str) -> None:
    images = samples.formats() | {f"orientation {n}": samples.oriented("JPEG", n, 48, 67) for n in range(1, 9)}
    encoded = list(images.values())
    matrices = [placements(*reference_decode(data).shape[:2], (48, 64))[placed] for data in encoded]
    where = geometry(encoded, matrices, (48, 64))
    check_batch(engine.decode(encoded, where), encoded, where, JPEG, list(images))


def test_real_photographs(engine: Decoder) -> None:
    files = sorted(real("imagenet500").glob("*.JPEG"))[::10]
    encoded = [file.read_bytes() for file in files]
    matrices = [placements(*reference_decode(data).shape[:2], (224, 224))["crop"] for data in encoded]
    where = geometry(encoded, matrices, (224, 224))
    check_batch(engine.decode(encoded, where), encoded, where, JPEG, [file.name for file in files])


def test_batches_in_a_row_do_not_overwrite_each_other(engine: Decoder) -> None:
    encoded = [samples.png(90, 120, seed) for seed in range(8)]
    where = geometry(encoded[:1], [np.eye(3)], (90, 120))
    kept = [engine.decode([data], where) for data in encoded]
    for data, images in zip(encoded, kept, strict=True):
        check_batch(images, [data], where, DALI)


def test_what_a_busy_stream_still_reads_is_not_overwritten(engine: Decoder) -> None:
    """Each batch is dropped while the copy of it waits behind slow work."""
    encoded = [[samples.png(90, 120, seed)] * 8 for seed in range(4)]
    where = geometry(encoded[0], [np.eye(3)] * 8, (90, 120))
    expected = [engine.decode(batch, where).cpu() for batch in encoded]
    slow, copies = torch.randn(4096, 4096, device="cuda"), []
    for _ in range(5):
        for batch in encoded:
            images = engine.decode(batch, where)
            for _ in range(10):
                slow = slow @ slow * 1e-4
            copies.append(images.clone())
            del images
    for number, copy in enumerate(copies):
        assert torch.equal(copy.cpu(), expected[number % 4]), number


def test_a_batch_that_dali_decodes_whole_is_not_copied(engine: Decoder) -> None:
    encoded = [samples.jpeg(90, 120, seed) for seed in range(8)]
    where = geometry(encoded, [np.eye(3)] * 8, (90, 120))
    engine.decode(encoded, where)
    before = torch.cuda.memory_allocated()
    images = engine.decode(encoded, where)
    assert images.shape == (8, 3, 90, 120)
    assert torch.cuda.memory_allocated() == before  # the memory is DALI's


@pytest.mark.parametrize("placed", ["crop", "rotated 17"])
def test_nothing_waits_for_the_device(engine: Decoder, placed: str) -> None:
    encoded = [samples.jpeg(90, 120, seed) for seed in range(6)] + [samples.encode(_picture().convert("CMYK"), "JPEG")]
    where = geometry(encoded, [placements(90, 120, (48, 64))[placed]] * 7, (48, 64))
    engine.decode(encoded, where)
    try:
        torch.cuda.set_sync_debug_mode("error")
        engine.decode(encoded, where)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _picture() -> Image.Image:
    return Image.fromarray(samples.picture(90, 120))


def test_a_stream_of_ones_own(engine: Decoder) -> None:
    encoded = [samples.jpeg(90, 120, seed) for seed in range(8)]
    where = geometry(encoded, [np.eye(3)] * 8, (90, 120))
    expected = engine.decode(encoded, where).cpu()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        images = engine.decode(encoded, where) + 0
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(images.cpu(), expected)


def test_a_damaged_image_is_named_and_the_engine_lives_on(engine: Decoder) -> None:
    good = samples.jpeg(60, 80)
    where = geometry([good] * 3, [np.eye(3)] * 3, (60, 80))
    before = engine.decode([good] * 3, where)
    cut_png, no_end, half = samples.png(60, 80)[:900], good[:-2], good[: len(good) // 2]
    for bad in (no_end, half, cut_png):
        with pytest.raises(DecodeError, match="cannot decode image 1 of the batch") as caught:
            engine.decode([good, bad, good], where)
        assert caught.value.position == 1
        assert torch.equal(engine.decode([good] * 3, where), before)


def test_auto_is_dali_and_measures_the_engines_share(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = open_engine("auto", device="cuda", fill=FILL, threads=4, max_batch=32)
    encoded = [samples.jpeg(240, 320, seed) for seed in range(32)]
    where = geometry(encoded, [np.diag([0.5, 0.5, 1.0])] * 32, (120, 160))
    check_batch(engine.decode(encoded, where), encoded, where, JPEG)
    engine.close()
