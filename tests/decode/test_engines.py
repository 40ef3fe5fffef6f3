"""What every engine promises besides pixels: batches, outputs, errors, options."""

from __future__ import annotations

import ast
import io
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resflow import DataLoader, Pipeline, decode
from resflow.decode import Decoder, EngineOptions, engine_names, open_engine, register_engine
from resflow.decode.turbo import TurboDecoder
from resflow.errors import ConfigError, DecodeError
from resflow.geometry import Fit, Rotate
from resflow.geometry.affine import Geometry, identity
from tests.decode import samples
from tests.decode.reference import FILL, geometry

SIZE = (60, 80)


@pytest.fixture(scope="module", params=["pillow", "turbo", "turbo threads", "dali"])
def engine(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    name, _, threads = request.param.partition(" ")
    opened = open_engine(name, fill=FILL, threads=3 if threads else 1, max_batch=4)
    yield opened
    opened.close()


def whole(batch: int) -> Geometry:
    return Geometry(identity(batch), np.tile(np.array([SIZE], dtype=np.int32), (batch, 1)), SIZE)


def bad_images() -> dict[str, bytes]:
    """Damaged files by name; each is found while decoding or before."""
    good, progressive = samples.jpeg(*SIZE), samples.jpeg(*SIZE, progressive=True)
    flat = samples.png(*SIZE)
    return {
        "jpeg cut in half": good[: len(good) // 2],
        "jpeg without its end": good[:-2],
        "progressive jpeg cut": progressive[: len(progressive) * 2 // 3],
        "png cut": flat[: len(flat) // 2],
        "bmp cut": samples.encode(samples.Image.fromarray(samples.picture(*SIZE)), "BMP")[:-500],
        "gif cut": samples.encode(samples.Image.fromarray(samples.picture(*SIZE)), "GIF")[:1500],
        "avif cut": samples.encode(samples.Image.fromarray(samples.picture(*SIZE)), "AVIF")[:-300],
        "webp cut": samples.encode(samples.Image.fromarray(samples.picture(*SIZE)), "WEBP")[:-300],
        "no image": b"this is a text file, not an image",
        "nothing": b"",
    }


@pytest.mark.parametrize("name", list(bad_images()))
def test_a_damaged_image_is_named_and_the_engine_lives_on(engine: Decoder, name: str) -> None:
    good, bad = samples.jpeg(*SIZE), bad_images()[name]
    expected = engine.decode([good] * 5, whole(5))
    with pytest.raises(DecodeError) as caught:
        engine.decode([good, good, bad, good, good], whole(5))
    assert caught.value.position == 2
    message = str(caught.value)
    assert "cannot decode image 2 of the batch" in message
    assert f"{len(bad)} bytes, expected a complete image" in message
    assert "Replace the file or leave it out." in message
    assert torch.equal(engine.decode([good] * 5, whole(5)), expected)


@pytest.mark.parametrize("name", ["pillow", "turbo"])
def test_random_damage_raises_nothing_but_decode_errors(name: str) -> None:
    rng = np.random.default_rng(3)
    decoder = open_engine(name)
    where = Geometry(identity(1), np.array([[48, 67]], np.int32), (48, 67))
    refused = 0
    for data in samples.formats().values():
        for _ in range(6):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            try:
                decoder.decode([damaged[: rng.integers(1, 2 * len(data))].tobytes()], where)
            except DecodeError:
                refused += 1
    assert refused > 50


def test_strictly_turbo_refuses_damaged_data_that_still_decodes() -> None:
    bad = bytearray(samples.jpeg(*SIZE))
    bad[-900:-880] = b"\xff\xd5" * 10
    with pytest.raises(DecodeError, match=r"Corrupt JPEG data.*got jpeg, \d+ bytes"):
        TurboDecoder(strict=True).decode([bytes(bad)], whole(1))


def test_stray_bytes_between_segments_harm_nothing(engine: Decoder) -> None:
    good = samples.jpeg(*SIZE)
    stray = good[:20] + b"\0" * 7 + good[20:]
    difference = engine.decode([stray], whole(1)).int() - engine.decode([good], whole(1)).int()
    assert difference.abs().max() <= 4  # turbo leaves such a file to libjpeg-turbo


def test_another_size_than_the_geometry_expects(engine: Decoder) -> None:
    for other in (samples.jpeg(60, 81), samples.png(80, 60), samples.oriented("JPEG", 6, *SIZE)):
        with pytest.raises(DecodeError, match=r"image 1 .* is \d+x\d+ .* expects 60x80.*resflow index") as caught:
            engine.decode([samples.jpeg(*SIZE), other], whole(2))
        assert caught.value.position == 1


@pytest.mark.parametrize("side", [15_000, 60_000])
def test_decompression_bombs_are_refused_before_decoding(engine: Decoder, side: int) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND\xaeB`\x82"
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + end
    with pytest.raises(DecodeError, match=f"{side}x{side}.*pixels") as caught:
        engine.decode([bomb], Geometry(identity(1), np.array([[side, side]], np.int32), SIZE))
    assert caught.value.position == 0


def test_an_empty_batch(engine: Decoder) -> None:
    images = engine.decode([], whole(0))
    assert images.shape == (0, 3, *SIZE)
    assert images.dtype == torch.uint8


def test_out_is_filled_and_returned(engine: Decoder) -> None:
    encoded = [samples.jpeg(*SIZE, seed) for seed in range(3)]
    out = torch.zeros((3, 3, *SIZE), dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert engine.decode(encoded, whole(3), out) is out
    assert torch.equal(out, engine.decode(encoded, whole(3)))


@pytest.mark.parametrize(
    "out",
    [
        torch.zeros((2, 3, *SIZE), dtype=torch.uint8),
        torch.zeros((2, 3, *SIZE)).to(memory_format=torch.channels_last),
        torch.zeros((1, 3, *SIZE), dtype=torch.uint8).to(memory_format=torch.channels_last),
    ],
    ids=["contiguous", "float", "short"],
)
def test_an_unfit_out_is_refused(engine: Decoder, out: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"out must be uint8 \[2, 3, 60, 80\] in channels_last on cpu; got"):
        engine.decode([samples.jpeg(*SIZE)] * 2, whole(2), out)


def test_lengths_must_agree(engine: Decoder) -> None:
    with pytest.raises(ConfigError, match="decode got 1 images but a geometry for 2"):
        engine.decode([samples.jpeg(*SIZE)], whole(2))


def test_batches_of_any_length_mixed_formats_and_turns(engine: Decoder) -> None:
    """Longer than max_batch, other lengths and output sizes at each call; each image as it is alone."""
    angle = np.radians(20)
    turned = np.array([[np.cos(angle), -np.sin(angle), 9], [np.sin(angle), np.cos(angle), -3], [0, 0, 1]])
    for batch, size in ((11, (40, 52)), (3, (64, 32)), (6, (17, 19))):
        encoded, matrices = [], []
        for number in range(batch):
            kinds = (samples.jpeg(*SIZE, number), samples.png(31, 47, number), samples.oriented("GIF", 1))
            encoded.append(kinds[(0, 0, 2, 1)[number % 4]])
            matrices.append(turned if number % 3 == 1 else np.diag([0.7, 0.6, 1.0]))
        where = geometry(encoded, matrices, size)
        together = engine.decode(encoded, where)
        for number, data in enumerate(encoded):
            alone = engine.decode([data], geometry([data], [matrices[number]], size))
            assert torch.equal(together[number], alone[0]), number


def test_memoryviews_are_decoded(engine: Decoder) -> None:
    data = samples.jpeg(*SIZE)
    padded = memoryview(b"xx" + data + b"yy")[2:-2]
    assert torch.equal(engine.decode([padded], whole(1)), engine.decode([data], whole(1)))


def test_oversample_trades_accuracy_for_size() -> None:
    data = samples.jpeg(240, 320)
    where = geometry([data], [np.diag([0.2, 0.2, 1.0])], (48, 64))
    exact = TurboDecoder(oversample=np.inf).decode([data], where).float()
    errors = [
        float((TurboDecoder(oversample=value).decode([data], where).float() - exact).abs().mean())
        for value in (1.25, 2.5, 5.0)
    ]
    assert errors[0] > errors[1] > errors[2] >= 0


def test_auto_is_turbo_on_the_cpu() -> None:
    assert isinstance(open_engine("auto").engine, TurboDecoder)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "opencv"}, "engine must be one of auto, turbo, dali, pillow, wide; got 'opencv'"),
        (
            {"name": "turbo", "device": "cuda"},
            "engine 'turbo' decodes on the CPU; got device 'cuda'. Use engine 'dali'",
        ),
        ({"name": "auto", "device": "tpu"}, "device must be 'cpu', 'cuda' or 'cuda:N'; got 'tpu'"),
        (
            {"name": "turbo", "threads": 0},
            "max_batch and max_pixels must be at least 1; got 0, 256 and 178956970",
        ),
        ({"name": "turbo", "fill": (0, 0, 256)}, r"fill must be three values in 0..255 \(RGB\); got"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_engine(**options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_named() -> None:
    pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'resflow[dali]'")
    with pytest.raises(ConfigError, match=r"device 'cuda' asked for, but torch finds no CUDA device. Use device 'cpu'"):
        open_engine("auto", device="cuda")


def test_missing_dali_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "resflow.decode.dali", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ConfigError, match=r"not installed\. Install it with `pip install 'resflow\[dali\]'`"):
        open_engine("dali")


@pytest.mark.parametrize("module", ["__init__", "base", "registry"])
def test_importing_the_package_loads_no_engine(module: str) -> None:
    tree = ast.parse((Path(decode.__file__).parent / f"{module}.py").read_text())
    loaded = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert loaded
    assert not [name for name in loaded if name and name.rsplit(".", 1)[-1] in ("turbo", "dali", "pillow")]
    assert not [name for name in loaded if name and name.startswith(("nvidia", "simplejpeg", "PIL"))]


class Grey:
    """An engine of one's own: every pixel is of one grey."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options

    def decode(
        self,
        encoded: Sequence[object],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: object = "bilinear",
        warp: object = "bilinear",
    ) -> torch.Tensor:
        shape = (len(encoded), 3, *geometry.output_size)
        return (torch.empty(shape, dtype=torch.uint8) if out is None else out).fill_(77)

    def close(self) -> None:
        pass


@pytest.fixture
def grey(engines: None) -> None:
    register_engine("grey-77", Grey)


@pytest.mark.usefixtures("grey")
@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (1, "spawn")])
def test_an_engine_of_ones_own_decodes_for_the_loader(workers: int, context: str | None) -> None:
    images = [(samples.jpeg(40, 56, seed), seed) for seed in range(4)]
    pipeline = Pipeline(resolution=32, targets="class", engine="grey-77", normalize=None)
    loader = DataLoader(images, 2, num_workers=workers, multiprocessing_context=context, pipeline=pipeline)
    batches = list(loader)
    assert [batch.targets.tolist() for batch in batches] == [[0, 1], [2, 3]]
    assert all((batch.images == 77).all() for batch in batches)
    assert "grey-77" in engine_names()


@pytest.mark.usefixtures("grey")
def test_engines_that_cannot_be_registered_are_named() -> None:
    register_engine("grey-77", Grey)  # again is no fault
    for name, message in (
        ("auto", "other than"),
        ("a b", "a name of letters"),
        ("turbo", "there is an engine 'turbo'"),
    ):
        with pytest.raises(ConfigError, match=message):
            register_engine(name, Grey)
    with pytest.raises(ConfigError, match="needs a callable and devices among"):
        register_engine("other", Grey, devices=("tpu",))
    with pytest.raises(ConfigError, match="engine 'grey-77' decodes on the CPU; got device 'cuda'"):
        open_engine("grey-77", device="cuda")
    with pytest.raises(ConfigError, match="one of auto, turbo, dali, pillow, wide, grey-77"):
        Pipeline(resolution=32, engine="gray")


@pytest.mark.parametrize("name", ["turbo", "dali", "pillow"])
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_are_placed_as_their_lossless_encoding_is(name: str, turned: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    pixels[0] = np.sort(pixels[0], axis=1)
    encoded = [_png(image) for image in pixels]
    matrix = Fit().place(np.tile(np.array([[40, 60]], dtype=np.int32), (3, 1)), (32, 64))
    if turned:
        matrix = Rotate(degrees=20)(matrix, np.zeros((3, 2), dtype=np.int32), (32, 64), np.array([[0.1], [0.5], [0.9]]))
    placed = Geometry(matrix, np.tile(np.array([[40, 60]], dtype=np.int32), (3, 1)), (32, 64))
    engine = open_engine(name)
    expected = engine.decode(encoded, placed)
    read_only = pixels[0].copy()
    read_only.setflags(write=False)
    mixed = engine.decode([read_only, encoded[1], np.asfortranarray(pixels[2])], placed)
    assert (expected.int() - mixed.int()).abs().max() <= (0 if name != "dali" else 40)
    assert (expected.float() - mixed.float()).abs().mean() < 1
    engine.close()


@pytest.mark.parametrize("name", ["turbo", "dali", "pillow"])
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 5, 3), dtype=np.float32), r"pixels must be uint8 \[H,W,3\], RGB; got float32 \[4, 5, 3\]"),
        (np.zeros((4, 5), dtype=np.uint8), r"got uint8 \[4, 5\]"),
        (np.zeros((4, 6, 3), dtype=np.uint8), r"it is 4x6 \(HxW, upright\), but its geometry expects 4x5"),
    ],
)
def test_pixels_of_another_kind_or_size_are_refused(name: str, pixels: np.ndarray, message: str) -> None:
    placed = Geometry(np.eye(3)[None], np.array([[4, 5]], dtype=np.int32), (4, 5))
    with pytest.raises(DecodeError, match=message):
        open_engine(name).decode([pixels], placed)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
