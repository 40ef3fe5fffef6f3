"""The library: what it refuses, what it gives back, that all its kinds give the same pixels, and how it is built."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from resflow.decode import native, open_engine, place, resample
from resflow.decode.native import build
from resflow.decode.planes import to_planes
from resflow.decode.registry import _warn_once
from resflow.decode.turbo import TurboDecoder
from resflow.errors import ConfigError
from tests.decode import samples
from tests.decode.test_jpeg import KINDS, decode, encode
from tests.laws.test_decode_laws import placements

LEVELS = [0, 3, 4] if platform.machine() == "x86_64" else [0]


@pytest.fixture
def unlibraried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that does not find the library."""
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "nothing.so")
    monkeypatch.setattr(native, "_entries", {})
    native.missing.cache_clear()
    _warn_once.cache_clear()
    yield
    native.missing.cache_clear()


@pytest.mark.parametrize("level", LEVELS[1:])
def test_pixels_do_not_depend_on_the_processor(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: code for any kind of processor gives the same pixels."""
    if native.best_level() < level:
        pytest.skip(f"this processor runs no code of level {level}")

    def pixels() -> list[np.ndarray]:
        found = []
        for seed, options in enumerate(KINDS.values()):
            data = encode(samples.picture(97, 131, seed), **options)
            for step in (0.7, 1.6, 2.1, 3.2, 4.5, 6.5, 13.0):
                found += [decode(data, (3.3, 5.7), (40, 50), step, 1.5, code) for code in range(3)]
        source, fill, box = samples.picture(61, 77), np.array([1, 2, 3], np.uint8), np.array([2, 1, 40, 29])
        for code in range(3):
            for step in (-0.4, 1.3, 5.0):
                found.append(np.zeros((30, 41, 3), np.uint8))
                native.resize(source, found[-1], box, 80.0 if step < 0 else -1.5, 0.3, step, abs(step), fill, code)
            found.append(np.zeros((30, 41, 3), np.uint8))
            turn = np.array([[1.1, 0.4, -3], [-0.5, 1.2, 9], [0, 0, 1]])
            native.warp(source, found[-1], turn, 77.0, 61.0, np.ones(2), np.zeros(2, np.int64), fill, code)
        return found

    own = pixels()
    monkeypatch.setattr(native, "_entries", native.open_entries(0))
    plain = pixels()
    monkeypatch.setattr(native, "_entries", native.open_entries(level))
    for one, other, third in zip(own, plain, pixels(), strict=True):
        assert one is not None
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_numpy_gives_the_same_pixels(code: int) -> None:
    for number, (height, width) in enumerate(((1, 1), (33, 47), (90, 61))):
        source, fill = samples.picture(height, width, number), np.array([7, 100, 200], np.uint8)
        for box in ([0, 0, 32, 24], [3, 5, 31, 6], [4, 4, 4, 9]):
            for step in (-0.7, 0.3, 1.0, 2.6, 40.0):
                outs = [np.zeros((24, 32, 3), np.uint8) for _ in range(2)]
                for kernels, out in zip((native, resample), outs, strict=True):
                    start = (width + 1.0 if step < 0 else -0.4), 0.21
                    kernels.resize(source, out, np.array(box), *start, step, abs(step), fill, code)
                assert np.abs(outs[0].astype(int) - outs[1]).max() <= (0 if code == 2 else 1)
        for case in ("rotated 17", "sheared", "rotated 5, large"):
            outs = [np.zeros((24, 32, 3), np.uint8) for _ in range(2)]
            inverse = np.linalg.inv(placements(height, width, (24, 32))[case])
            for kernels, out in zip((native, resample), outs, strict=True):
                where = inverse, float(width), float(height), np.ones(2), np.zeros(2, np.int64)
                kernels.warp(source, out, *where, fill, code)
            assert np.abs(outs[0].astype(int) - outs[1]).max() <= (0 if code == 2 else 1)


@pytest.mark.parametrize("there", [True, False], ids=["library", "numpy"])
def test_planes_are_what_torchvision_makes(there: bool, request: pytest.FixtureRequest) -> None:
    if not there:
        request.getfixturevalue("unlibraried")
    batch = np.stack([samples.picture(13, 17, seed) for seed in range(4)])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    levels = torch.arange(256, dtype=torch.uint8).float().div(255)
    table = levels.sub(mean[:, None]).div(deviation[:, None]).numpy()
    for source in (batch[2], batch[:, 3], batch[1, ::2], batch[1, ::-1], batch[3, :, 2:9]):
        expected = torch.from_numpy(source.copy()).permute(2, 0, 1)
        out = np.full((3, *source.shape[:2]), 7, np.float32)
        to_planes(source, out, table)
        assert np.array_equal(out, expected.float().div(255).sub(mean[:, None, None]).div(deviation[:, None, None]))
        raw = np.zeros((3, *source.shape[:2]), np.uint8)
        to_planes(source, raw)
        assert np.array_equal(raw, expected)
    with pytest.raises(ValueError, match=r"13x17|planes|shape"):
        to_planes(batch[0], np.zeros((3, 13, 16), np.float32), table)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((20, 30, 3), np.int8),
        np.zeros((20, 30), np.uint8),
        np.zeros((20, 30, 4), np.uint8),
        np.zeros((20, 60, 3), np.uint8)[:, ::2],
    ],
    ids=["type", "axes", "channels", "strides"],
)
def test_compiled_code_never_sees_an_array_of_another_kind(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"compiled code needs a contiguous uint8 array \[any, any, 3\]; got (u?int8)"):
        native.fill_outside(array, np.array([0, 0, 1, 1]), np.zeros(3, np.uint8))


@pytest.mark.parametrize("box", [[-1, 0, 5, 5], [0, 0, 31, 5], [0, 0, 5, 21], [2**62, 0, 2**63 - 1, 5]])
def test_a_box_that_leads_out_of_its_output_is_refused(box: list[int]) -> None:
    out, fill, data = (
        np.zeros((20, 30, 3), np.uint8),
        np.zeros(3, np.uint8),
        np.frombuffer(samples.jpeg(8, 8), np.uint8),
    )
    with pytest.raises(ValueError, match="a box outside its output"):
        native.fill_outside(out, np.array(box), fill)
    with pytest.raises(ValueError, match="a box outside its output"):
        native.resize(out, out.copy(), np.array(box), 0.0, 0.0, 1.0, 1.0, fill)
    with pytest.raises(ValueError, match="a box outside its output"):
        native.decode_window(data, out, np.array(box), 0.0, 0.0, 1.0, 1.0, 8, 8, 1, 1.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, -1e300])
def test_numbers_that_are_none_do_no_damage(value: float) -> None:
    data, source = np.frombuffer(samples.jpeg(40, 56), np.uint8), samples.picture(40, 56)
    out, fill, box = np.zeros((20, 30, 3), np.uint8), np.zeros(3, np.uint8), np.array([0, 0, 30, 20])
    for code in range(3):
        for where in ((value, 0.0, 1.0, 1.0), (0.0, 0.0, value, 1.0), (0.0, value, 1.0, value)):
            native.decode_window(data, out, box, *where, 56, 40, 1, 1.5, code)
            native.resize(source, out, box, *where, fill, code)
        turn = np.full((3, 3), value)
        native.warp(source, out, turn, 56.0, 40.0, np.full(2, value), np.zeros(2, np.int64), fill, code)


def _rounds(count: int) -> None:
    data = np.frombuffer(samples.jpeg(300, 400), np.uint8)
    out, box = np.zeros((200, 300, 3), np.uint8), np.array([0, 0, 300, 200])
    for _ in range(count):
        assert native.decode_window(data, out, box, 0.0, 0.0, 1.0, 1.0, 400, 300, 1, 1.5)
        assert not native.decode_window(data[:-1].copy(), out, box, 0.0, 0.0, 1.0, 1.0, 400, 300, 1, 1.5)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_all_memory_is_given_back() -> None:
    _rounds(50)
    before = _resident()
    _rounds(400)  # of about 0.7 MB each
    assert _resident() - before < 8 << 20


def test_want_of_memory_is_an_error_not_a_crash() -> None:
    code = """
        import resource
        import numpy as np
        from PIL import Image
        from resflow.decode import native
        from tests.decode import samples

        data = np.frombuffer(samples.encode(Image.new("RGB", (4000, 3000)), "JPEG"), np.uint8)
        out, box = np.zeros((3000, 4000, 3), np.uint8), np.array([0, 0, 4000, 3000])
        arguments = data, out, box, 0.0, 0.0, 1.0, 1.0, 4000, 3000, 1, 1.5
        native.fill_outside(out, box, np.zeros(3, np.uint8))
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), -1))
        try:
            native.decode_window(*arguments)
        except MemoryError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        assert native.decode_window(*arguments)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "not enough memory to decode an image (in decode_window)" in done.stdout


def test_without_the_library_pillow_decodes_and_one_warning_says_so(
    unlibraried: None, caplog: pytest.LogCaptureFixture
) -> None:
    data, where = samples.jpeg(40, 56), samples_geometry()
    for name in ("auto", "turbo", "auto"):
        engine = open_engine(name)
        images = engine.decode([data], where)
        engine.close()
    assert place.kernels() is resample
    assert (images[0].permute(1, 2, 0).numpy().astype(int) - samples.decoded(data)).max() <= 1
    assert len(caplog.messages) == 1
    assert "'pillow' decodes in place of 'turbo'" in caplog.messages[0]
    assert "make native" in caplog.messages[0]
    with pytest.raises(ConfigError, match=r"nothing\.so.*make native"):
        TurboDecoder()


def samples_geometry() -> native.Any:
    from resflow.geometry.affine import Geometry, identity

    return Geometry(identity(1), np.array([[40, 56]], np.int32), (40, 56))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the system does not tell what its processor can do")
def test_the_best_code_is_chosen() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    avx2, avx512 = {"avx2", "fma", "bmi1", "bmi2"}, {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
    best = 0 if not avx2 <= flags else 4 if avx512 <= flags else 3
    assert native.best_level() == best


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    with pytest.raises(ConfigError, match=r"of another version.*make native"):
        native.open_entries()


def test_a_process_without_a_home_that_can_write_nowhere_decodes(tmp_path: Path) -> None:
    """What needs a compiler, a cache or a home at run time is not there any more."""
    code = """
        import numpy as np
        from resflow.decode import open_engine
        from resflow.geometry.affine import Geometry, identity
        from tests.decode import samples
        where = Geometry(identity(1), np.array([[40, 56]], np.int32), (40, 56))
        print(tuple(open_engine("turbo").decode([samples.jpeg(40, 56)], where).shape))
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "PATH")}
    tmp_path.chmod(0o500)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=kept | {"PATH": "", "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "(1, 3, 40, 56)", done.stderr
    assert not list(tmp_path.iterdir())


def test_a_library_is_current_until_a_source_changes(tmp_path: Path) -> None:
    library = tmp_path / build.library_name()
    assert not build.is_current(library)
    library.touch()
    assert build.is_current(library)
    os.utime(library, (0, 0))
    assert not build.is_current(library)


def test_without_a_compiler_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs a C compiler.*pip install ziglang"):
        build.build(tmp_path)


def test_names_of_libraries_follow_the_system() -> None:
    targets = ("aarch64-linux-gnu.2.17", "aarch64-macos", "x86_64-windows")
    assert [build.library_name(target).partition(".")[2] for target in targets] == ["so", "dylib", "dll"]
