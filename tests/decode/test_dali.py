"""What is DALI's own about the DALI engine: routes, a pipeline that is built once, memory that is handed over."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'resflow[dali]'")

from resflow.decode.dali import DaliDecoder
from resflow.decode.routes import is_native
from resflow.errors import ConfigError, DecodeError
from resflow.images import read_header
from tests.decode import samples
from tests.decode.reference import geometry

SIZE = (60, 80)


@pytest.fixture(scope="module")
def engine() -> Iterator[DaliDecoder]:
    opened = DaliDecoder(threads=2, max_batch=8)
    yield opened
    opened.close()


def reframed(data: bytes, marker: int = 0xC0, precision: int = 8) -> bytes:
    """A baseline JPEG whose frame header says otherwise."""
    at = data.index(b"\xff\xc0")
    return data[:at] + bytes([0xFF, marker]) + data[at + 2 : at + 4] + bytes([precision]) + data[at + 5 :]


def routes() -> dict[str, tuple[bytes, bool]]:
    """Images by name, and whether DALI decodes them."""
    plain, formats = samples.jpeg(*SIZE), samples.formats()
    fallen = {"jpeg cmyk", "png 16 grey", "gif", "gif animated", "avif"}
    return {name: (data, name not in fallen) for name, data in formats.items()} | {
        "arithmetic": (reframed(plain, marker=0xC9), False),
        "progressive arithmetic": (reframed(plain, marker=0xCA), False),
        "lossless": (reframed(plain, marker=0xC3), False),
        "12 bits": (reframed(plain, marker=0xC1, precision=12), False),
        "extended": (reframed(plain, marker=0xC1), True),
        "fill bytes": (plain[:20] + b"\xff" * 5 + plain[20:], True),
    }


@pytest.mark.parametrize("name", list(routes()))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_nvjpeg_refuses_goes_to_threads(name: str, device: str) -> None:
    data, native = routes()[name]
    for encoded in (data, memoryview(data)):
        assert is_native(read_header(encoded), encoded, device) is native


def test_a_jpeg_without_its_end_is_not_for_a_gpu() -> None:
    data = samples.jpeg(*SIZE)[:-2]
    assert is_native(read_header(data), data, "cpu")
    assert not is_native(read_header(data), data, "cuda")


def test_one_pipeline_serves_all_lengths_and_shapes(engine: DaliDecoder) -> None:
    good, built = samples.jpeg(*SIZE), set()
    for batch, shape in ((3, (48, 64)), (8, (30, 31)), (1, (90, 20)), (5, (48, 64))):
        where = geometry([good] * batch, [np.diag([0.5, 0.5, 1.0])] * batch, shape)
        assert engine.decode([good] * batch, where).shape == (batch, 3, *shape)
        built.add(engine._pipelines[False])
    assert len(built) == 1


def test_the_first_of_several_damaged_images_is_named_and_the_engine_lives_on(engine: DaliDecoder) -> None:
    good, bad = samples.jpeg(*SIZE), samples.jpeg(*SIZE)[:900]
    where = geometry([good] * 4, [np.eye(3)] * 4, SIZE)
    expected = engine.decode([good] * 4, where)
    for position in range(4):
        with pytest.raises(DecodeError) as caught:
            engine.decode([bad if number >= position else good for number in range(4)], where)
        assert caught.value.position == position
        assert torch.equal(engine.decode([good] * 4, where), expected)


def test_what_was_handed_out_is_not_written_again(engine: DaliDecoder) -> None:
    encoded = [[samples.jpeg(*SIZE, seed)] * 4 for seed in range(6)]
    where = geometry(encoded[0], [np.eye(3)] * 4, SIZE)
    handed = [engine.decode(batch, where) for batch in encoded]
    copies = [images.clone() for images in handed]
    for batch in encoded * 3:
        engine.decode(batch, where)
    assert all(torch.equal(images, copy) for images, copy in zip(handed, copies, strict=True))
    assert len({images.data_ptr() for images in handed}) == len(handed)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"hardware_load must be a share in \[0, 1\], or None; got {share}"):
        DaliDecoder(hardware_load=share)


def test_a_forked_process_leaves_the_parents_pipelines_alone() -> None:
    """Run in a program of its own, which forks after DALI's threads have started; a hang is a failure."""
    program = textwrap.dedent("""
        import gc, os, time
        import numpy as np
        from resflow.decode import open_engine
        from resflow.geometry import Geometry
        from tests.decode import samples

        class Cycle:
            pass

        def forked(how):
            cycle = Cycle()
            cycle.itself = cycle
            cycle.engine = open_engine("dali", device="cpu", fill=(0, 0, 0), threads=2, max_batch=4)
            where = Geometry(np.tile(np.eye(3), (4, 1, 1)), np.full((4, 2), (40, 50), np.int32), (40, 50))
            cycle.engine.decode([samples.jpeg(40, 50, 0)] * 4, where)
            engine = cycle.engine if how == "closed" else None
            if how == "closed before":
                cycle.engine.close()  # DALI's pipelines are cycles themselves
            del cycle
            child = os.fork()
            if not child:
                if engine is not None:
                    engine.close()
                    del engine
                gc.collect()
                os._exit(0)
            for _ in range(200):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    break
                time.sleep(0.05)
            else:
                os.kill(child, 9)
                status = "hangs"
            print(how, status)

        for how in ("collected", "closed", "closed before"):
            gc.disable()
            forked(how)
            gc.enable()
            gc.collect()
        """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "collected 0\nclosed 0\nclosed before 0\n", done.stderr
