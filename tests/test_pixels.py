"""`Pixels`: what becomes of a file's values, and batches of other channels and dtypes, from files to tensors."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from kornia.augmentation import RandomGaussianBlur
from PIL import Image

import resflow as rf
from resflow.errors import ConfigError, DecodeError
from resflow.pixels import Percentiles, Pixels, ValueRange, Window, fit_values
from tests.conftest import Command
from tests.decode.reference import scaled

RNG = np.random.default_rng(7)
Array = npt.NDArray[Any]


def noise(channels: int, dtype: str = "uint16", size: tuple[int, int] = (12, 17)) -> Array:
    if dtype == "float32":
        return RNG.normal(0, 50, (*size, channels)).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, (*size, channels), endpoint=True).astype(dtype)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize(("channels", "wanted"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_bytes_become_what_pillow_converts_them_to(mode: str, channels: int, wanted: str) -> None:
    bands = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2}[mode]
    values = noise(bands, "uint8")
    expected = np.asarray(Image.fromarray(values.squeeze(), mode).convert(wanted))
    found, lost = fit_values(values, Pixels(channels=channels))
    assert np.array_equal(found.squeeze(), expected.squeeze())
    assert lost == ""


@pytest.mark.parametrize("source", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_numbers_are_the_files_own_and_what_is_cut_is_told(source: str, dtype: str) -> None:
    values = noise(1, source)
    found, lost = fit_values(values, Pixels(channels=1, dtype=dtype))
    expected = values.astype(np.float64)
    if dtype != "float32":
        limits = np.iinfo(dtype)
        expected = np.clip(np.rint(expected), limits.min, limits.max)
    assert found.dtype == dtype
    assert np.array_equal(found.astype(np.float64), expected)
    assert bool(lost) == bool((expected != values).any())


def test_colour_of_16_bits_is_halved_as_8_bit_readers_do() -> None:
    values = noise(3)
    found, _ = fit_values(values, Pixels())
    assert np.array_equal(found, values >> 8)


def test_luma_of_deep_colour() -> None:
    values = noise(3)
    found, _ = fit_values(values, Pixels(channels=1, dtype="uint16"))
    expected = np.rint(values.astype(np.float64) @ [0.299, 0.587, 0.114])
    assert np.array_equal(found[..., 0], expected)


@pytest.mark.parametrize(("dtype", "opaque"), [("uint8", 255), ("uint16", 65_535)])
def test_alpha_that_a_file_lacks_is_opaque(dtype: str, opaque: int) -> None:
    found, _ = fit_values(noise(3, dtype), Pixels(channels=4, dtype=dtype))
    assert (found[..., 3] == opaque).all()


@pytest.mark.parametrize(("found", "wanted"), [(5, 3), (2, 5), (6, 4), (5, 1)])
def test_channels_that_mean_nothing_are_refused(found: int, wanted: int) -> None:
    with pytest.raises(ValueError, match=rf'it has {found} channels.*channels={found} or channels="file"'):
        fit_values(noise(found), Pixels(channels=wanted, dtype="uint16"))


def test_functions_of_values() -> None:
    values = np.array([-200.0, -60, 40, 140, 900], np.float32).reshape(1, 5, 1)
    for function in (Window(center=40, width=200), ValueRange(-60, 140)):
        shares, lost = fit_values(values, Pixels(channels=1, dtype="float32", values=function))
        np.testing.assert_allclose(shares.ravel(), [0, 0, 0.5, 1, 1])
        assert lost == ""
        levels, _ = fit_values(values, Pixels(channels=1, values=function))
        assert levels.ravel().tolist() == [0, 0, 128, 255, 255]
    ramp = np.arange(101, dtype=np.float32).reshape(1, 101, 1) * [1, 10]
    shares, _ = fit_values(ramp, Pixels(channels=2, dtype="float32", values=Percentiles(10, 90)))
    np.testing.assert_allclose(shares[0, [0, 10, 50, 90, 100], 1], [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(shares[..., 0], shares[..., 1], atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"channels": 0},
        {"channels": "all"},
        {"channels": 2.5},
        {"dtype": "int8"},
        {"dtype": torch.uint8},
        {"values": 3},
        {"dtype": "int16", "values": ValueRange(0, 1)},
    ],
)
def test_wrong_pixels_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"Pixels\."):
        Pixels(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixels": Pixels(channels=1), "normalize": rf.IMAGENET}, "3 means, and Pipeline.pixels 1 channels"),
        ({"pixels": Pixels(channels=1), "engine": "dali"}, "leave engine at 'auto'"),
        ({"pixels": Pixels(channels=1), "fit": rf.Fit(fill=(1, 2, 3))}, "the same number three times"),
        ({"pixels": Pixels(dtype="uint16"), "transforms": [lambda image: image]}, "take 8-bit RGB"),
        ({"pixels": "uint16"}, "must be a Pixels"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rf.Pipeline(resolution=64, **fields)
    assert words.lower() in str(caught.value).lower()


def test_yaml_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "ct.yaml"
    file.write_text(
        "resolution: 64\npixels:\n  channels: 1\n  dtype: float32\n  values: {window: {center: 40, width: 400}}\n"
        "normalize: {mean: [0.5], std: [0.25]}\n"
    )
    assert rf.Pipeline.from_yaml(file) == rf.Pipeline(
        resolution=64,
        pixels=Pixels(channels=1, dtype="float32", values=Window(40, 400)),
        normalize=rf.Normalize((0.5,), (0.25,)),
    )


def png16(values: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_saved_state_knows_the_pixels() -> None:
    plain, grey = rf.Pipeline(resolution=64), rf.Pipeline(resolution=64, pixels=Pixels(channels=1))
    assert "pixels" not in plain.describe()
    assert plain.describe() | {"pixels": grey.describe()["pixels"]} == grey.describe()
    own = rf.Pipeline(resolution=64, pixels=Pixels(dtype="float32", values=halved)).describe()["pixels"]
    assert own == "Pixels(channels=3, dtype='float32', values=tests.test_pixels.halved)"  # not where it lies in memory
    assert (
        rf.Pipeline(resolution=64, pixels=Pixels(values=Window(1, 2)))
        .describe()["pixels"]
        .endswith("values=Window(center=1, width=2))")
    )


def halved(values: Array) -> Array:
    return values / 2


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve 16-bit grey PNGs in class folders."""
    root = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(1)
    for number in range(12):
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        values = rng.integers(0, 65_536, (40 + number, 60)).astype(np.uint16)
        (folder / f"{number:02}.png").write_bytes(png16(values))
    return root


def sharded(root: Path, shard: Path) -> Path:
    with tarfile.open(shard, "w") as tar:
        for path in sorted(root.rglob("*.png")):
            for name, data in (
                (path.name, path.read_bytes()),
                (f"{path.stem}.cls", b"%d" % "ab".index(path.parent.name)),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return shard


PIPELINE = rf.Pipeline(resolution=32, buckets=1, pixels=Pixels(channels=1, dtype="uint16"))


def by_key(loader: rf.DataLoader) -> dict[str, torch.Tensor]:
    return {Path(key).stem: image for batch in loader for key, image in zip(batch.keys, batch.images, strict=True)}


def test_batches_of_16_bits_are_the_resized_files(deep: Path) -> None:
    batches = by_key(rf.DataLoader(str(deep), batch_size=5, pipeline=PIPELINE))
    assert len(batches) == 12
    for path in deep.rglob("*.png"):
        values = np.asarray(Image.open(path))
        image = batches[path.stem]
        assert (image.dtype, tuple(image.shape)) == (torch.uint16, (1, 32, 32))
        matrix = PIPELINE.fit.place(np.array([values.shape], np.int32), (32, 32))[0]
        rows = scaled16(values, matrix)
        inside = rows >= 0
        error = np.abs(image[0].numpy().astype(np.float64) - rows)[inside]
        assert error.max() <= 0.51, path  # a rounding
        assert (image[0].numpy()[~inside] == 0).all()


def scaled16(values: Array, matrix: Array) -> Array:
    """float64 [32, 32]: the definition's resize of 16 bits, by its parts of 8; -1 where there is no image."""
    high, low = (np.repeat(part[..., None], 3, axis=2) for part in (values >> 8, values & 255))
    placed = scaled(high, matrix, (32, 32), True)[..., 0] * 256 + scaled(low, matrix, (32, 32), True)[..., 0]
    y, x = np.mgrid[:32, :32] + 0.5
    across, down = (x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1]
    return np.where((across >= 0) & (across < values.shape[1]) & (down >= 0) & (down < values.shape[0]), placed, -1.0)


@pytest.mark.parametrize("way", ["workers", "shards", "stream", "dataset of arrays"])
def test_all_ways_give_the_same(deep: Path, tmp_path: Path, command: Command, way: str) -> None:
    expected = by_key(rf.DataLoader(str(deep), batch_size=5, pipeline=PIPELINE))
    if way == "workers":
        loader = rf.DataLoader(str(deep), batch_size=5, num_workers=1, pipeline=PIPELINE)
    elif way in ("shards", "stream"):
        shard = sharded(deep, tmp_path / "deep.tar")
        data: Any = str(shard)
        if way == "shards":
            assert command("index", shard) == 0
        else:
            data = rf.sources.ShardStream(str(shard))
        loader = rf.DataLoader(data, batch_size=5, pipeline=PIPELINE)
    else:
        paths = sorted(deep.rglob("*.png"), key=lambda path: path.stem)
        loader = rf.DataLoader([(np.asarray(Image.open(path)), 0) for path in paths], batch_size=5, pipeline=PIPELINE)
        found = by_key(loader)
        for path, image in zip(paths, found.values(), strict=True):
            assert torch.equal(image, expected[path.stem])
        return
    found = by_key(loader)
    assert found.keys() == expected.keys()
    for key, image in found.items():
        assert torch.equal(image, expected[key])


def test_a_mirrored_view_mirrors_and_normalised_is_a_share_of_full(deep: Path) -> None:
    normal = rf.Normalize((0.5,), (0.25,))
    plain = by_key(rf.DataLoader(str(deep), batch_size=4, pipeline=PIPELINE))
    views = replace(PIPELINE, views=[rf.views.HorizontalFlip(p=1.0)], normalize=normal)
    for key, image in by_key(rf.DataLoader(str(deep), batch_size=4, pipeline=views)).items():
        expected = (plain[key].double() / 65_535 - 0.5) / 0.25
        # Padding lies on both sides by a pixel more or less.
        assert (image.double() - expected.flip(-1)).abs()[..., 1:-1].max() < 1e-4


def test_a_bad_file_leaves_a_placeholder(deep: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(deep, root)
    bad = root / "a" / "04.png"
    bad.write_bytes(bad.read_bytes()[:-2000])
    pipeline = replace(PIPELINE, on_error=rf.Skip(budget=0.5), fit=rf.Fit(fill=(9, 9, 9)))
    batches = list(rf.DataLoader(str(root), batch_size=12, pipeline=pipeline))
    assert [skip.key.rpartition("/")[2].removesuffix(".png") for batch in batches for skip in batch.skipped] == ["04"]
    assert (batches[0].images[~batches[0].present] == 9).all()


def test_strict_refuses_what_is_cut(deep: Path) -> None:
    lossy = rf.Pipeline(resolution=32, buckets=1, pixels=Pixels(channels=1), strict=True)
    with pytest.raises(DecodeError, match="are cut to whole numbers of 0 to 255"):
        list(rf.DataLoader(str(deep), batch_size=4, pipeline=lossy))
    loader = rf.DataLoader(str(deep), batch_size=4, pipeline=replace(lossy, strict=False))
    assert sum(len(batch.tolerated) for batch in loader) == 12


def test_channels_of_the_file_must_agree_in_a_batch() -> None:
    pipeline = rf.Pipeline(resolution=32, buckets=1, targets=None, pixels=Pixels(channels="file", dtype="float32"))
    five = [noise(5, "float32", (40, 40)) for _ in range(4)]
    for batch in rf.DataLoader(five, batch_size=2, pipeline=pipeline):
        assert batch.images.shape == (2, 5, 32, 32)
        assert batch.images.dtype == torch.float32
    with pytest.raises(DecodeError, match="has 4 channels, and the first has 5"):
        list(rf.DataLoader([*five[:1], noise(4, "float32", (40, 40))], batch_size=2, pipeline=pipeline))
    with pytest.raises(ConfigError, match="known from the files alone"):
        rf.DataLoader(five, batch_size=2, pipeline=pipeline).shapes()
    assert rf.DataLoader(
        five, batch_size=2, pipeline=rf.Pipeline(resolution=32, buckets=1, pixels=Pixels(channels=5))
    ).shapes() == ((2, 5, 32, 32),)


def test_kornia_takes_what_it_can() -> None:
    pipeline = rf.Pipeline(
        resolution=32,
        buckets=1,
        targets=None,
        pixels=Pixels(channels=1, dtype="uint16"),
        augment=[RandomGaussianBlur((3, 3), (1.0, 1.0), p=1.0)],
    )
    flat = [np.full((40, 40, 1), 13_107, np.uint16)] * 2
    (batch,) = rf.DataLoader(flat, batch_size=2, pipeline=pipeline)
    torch.testing.assert_close(batch.images, torch.full((2, 1, 32, 32), 0.2))


def test_rotation_moves_all_bands_alike() -> None:
    view = rf.views.Rotate(degrees=(30, 30))
    bands = noise(1, "uint16", (40, 40))
    pipeline = rf.Pipeline(
        resolution=32, buckets=1, targets=None, views=[view], pixels=Pixels(channels=6, dtype="uint16")
    )
    (batch,) = rf.DataLoader([np.repeat(bands, 6, axis=2)], batch_size=1, pipeline=pipeline)
    assert (batch.images == batch.images[:, :1]).all()
    assert len(batch.images.unique()) > 100
