"""The compiled kernels are loaded, not compiled; what is kept of them is trusted only where it can be."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from resflow.decode import native
from tests.decode import samples


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.o"
    native._keep(path, b"object code")
    return path


def test_code_comes_back_as_it_was_written(kept: Path) -> None:
    assert native._kept(kept) == b"object code"
    assert native._kept(kept.with_name("nothing")) is None
    assert list(kept.parent.iterdir()) == [kept]  # and nothing half written


@pytest.mark.parametrize("damage", ["shorter", "flipped", "empty", "another digest"])
def test_damaged_code_is_not_loaded(kept: Path, damage: str) -> None:
    content = kept.read_bytes()
    kept.write_bytes(
        {
            "shorter": content[:-1],
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "empty": b"",
            "another digest": hashlib.sha256(b"other").digest() + content[32:],
        }[damage]
    )
    assert native._kept(kept) is None


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_code_that_others_could_have_written_is_not_loaded(kept: Path, mode: int) -> None:
    kept.chmod(mode)
    assert native._kept(kept) is None


def test_where_nothing_can_be_kept_nothing_breaks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    native._keep(tmp_path / "file" / "kernels.o", b"object code")
    with native._alone(tmp_path / "file" / "kernels.lock"):
        pass


def test_the_name_of_the_file_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    key = native._key()
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: "another")
    assert native._key() != key


def test_a_process_that_finds_the_code_starts_no_compiler() -> None:
    native.object_code()
    code = """
        import sys
        import numpy as np
        from resflow.decode import native
        from tests.decode import samples

        pixels = samples.picture(40, 60)
        out = np.zeros((20, 30, 3), np.uint8)
        native.resize(pixels, out, np.array([0, 0, 30, 20]), 0.0, 0.0, 2.0, 2.0, np.zeros(3, np.uint8))
        assert np.abs(out - pixels.reshape(20, 2, 30, 2, 3).mean((1, 3))).mean() < 4
        assert "numba" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


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
    with pytest.raises(
        TypeError, match=r"compiled kernels need a contiguous uint8 array \[any, any, 3\]; got (u?int8)"
    ):
        native.fill_outside(array, np.array([0, 0, 1, 1]), np.zeros(3, np.uint8))


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
        from resflow.decode import native
        from tests.decode import samples

        data = np.frombuffer(samples.jpeg(3000, 4000), np.uint8)
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
