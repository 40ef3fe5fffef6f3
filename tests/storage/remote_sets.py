"""Shards to be served, and what remote reads are held to."""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflow.errors import ResflowError, ShardError
from resflow.sources import Sample, ShardSource, build_index, index_path, write_index, write_shards

SLACK = 3.0  # seconds beyond a deadline, on a machine that runs two tests at a time


def make_served(folder: Path, shards: int = 3, each: int = 4) -> str:
    """Shards of some 300 kB, indexed; returns the pattern of their names."""
    rng = np.random.default_rng(len(folder.parts))

    def pictures() -> Iterator[dict[str, object]]:
        for number in range(shards * each):
            buffer = io.BytesIO()
            pixels = rng.integers(0, 256, (190 + number, 220, 3), np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
            yield {"__key__": f"{number:04d}", "jpg": buffer.getvalue(), "cls": str(number)}

    folder.mkdir(parents=True, exist_ok=True)
    write_shards(pictures(), str(folder / "train-%04d.tar"), max_samples=each, max_bytes=1 << 30)
    name = f"train-{{0000..{shards - 1:04d}}}.tar"
    write_index(build_index(f"{folder}/{name}", workers=1), index_path(f"{folder}/{name}"))
    return name


def plain(samples: Sequence[Sample]) -> list[tuple[str, dict[str, bytes], bytes]]:
    return [(s.key, {name: bytes(data) for name, data in s.members.items()}, bytes(s.image)) for s in samples]


def check_equal(remote: ShardSource, local: ShardSource, seed: int = 0, rounds: int = 3) -> None:
    """Law: whatever is asked for in whatever order, the bytes are those on the local disk."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        wanted = rng.integers(0, len(local), 10)
        assert plain(remote.read(wanted)) == plain(local.read(wanted))


@contextmanager
def fails_within(seconds: float, message: str, kind: type[ResflowError] = ShardError) -> Iterator[None]:
    """Law: a failure is a typed error that comes before the deadline does, or not long after."""
    began = time.monotonic()
    with pytest.raises(kind, match=message) as caught:
        yield
    took = time.monotonic() - began
    assert took <= seconds + SLACK, f"took {took:.2f} s of {seconds} s"
    check_silent(caught.value)


def check_silent(error: BaseException) -> None:
    """Law: nothing of what is printed of an error is a secret (all secrets of the tests have SECRET in them)."""
    printed = "".join(traceback.format_exception(error, chain=True)) + repr(error)
    lines = [line for line in printed.splitlines() if not line.startswith("    ")]  # lines of the tests' own code
    assert "SECRET" not in "\n".join(lines), printed
