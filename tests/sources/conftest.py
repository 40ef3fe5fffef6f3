"""Shards made on the spot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

Members = Iterable[tuple[str, bytes]]
MakeTar = Callable[..., Path]


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, height % 256, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(name="jpeg")
def _jpeg() -> Callable[[int, int], bytes]:
    """Encodes a JPEG of (width, height)."""
    return jpeg


@pytest.fixture
def make_tar(tmp_path: Path) -> MakeTar:
    """Writes (name, data) pairs into tmp_path/name with Python's tarfile."""

    def make(name: str, members: Members, format: int = tarfile.USTAR_FORMAT) -> Path:  # noqa: A002
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=format) as archive:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def make_shards(make_tar: MakeTar) -> Callable[..., list[Path]]:
    """Writes `count` shards train-0000.tar, ... of `each` samples: an image (40+i by 30+j), a label, a caption."""

    def make(count: int = 3, each: int = 7) -> list[Path]:
        paths = []
        for i in range(count):
            members: list[tuple[str, bytes]] = []
            for j in range(each):
                stem = f"part{i}/s{j:04d}"
                members += [(f"{stem}.cls", str(j).encode()), (f"{stem}.jpg", jpeg(40 + i, 30 + j))]
                members += [(f"{stem}.caption.TXT", b"x" * (j * 137))]
            paths.append(make_tar(f"train-{i:04d}.tar", members))
        return paths

    return make
