"""Hostile images in every engine and the whole loader: the reference's pixels or a typed error, within bounds."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resflow import Pipeline
from resflow.decode import open_engine
from resflow.errors import ConfigError, DecodeError
from resflow.geometry.affine import Geometry, identity
from resflow.images import MAX_PIXELS, count_scans
from tests.decode import samples
from tests.hostile import images
from tests.hostile.run import ENGINES

MEMORY = (
    400  # MiB that all cases may add, one after the other; one of 8 million pixels takes 24 MB, and again for copies
)
SECONDS = 10.0


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.hostile.run", request.param, str(tmp_path_factory.mktemp("hostile"))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=100)
    assert result.returncode == 0, result.stderr[-2000:]
    return dict(json.loads(result.stdout.splitlines()[-1]))


def faults(found: Mapping[str, Mapping[str, Mapping[str, Any]]], expected: Mapping[str, bool | None]) -> list[str]:
    """The law: every way of reading an image ends in pixels or a typed error, as the case says, and in time."""
    wrong = []
    for name, ways in found.items():
        for way, result in ways.items():
            kind = result["outcome"].partition(":")[0]
            allowed = {True: ["pixels"], False: ["refused"]}.get(expected[name], ["pixels", "refused"])  # type: ignore[call-overload]
            if kind.removesuffix(" without a reference") not in allowed:
                wrong.append(f"{name}, {way}: {result['outcome'][:200]}; expected {allowed}")
            if result["seconds"] > SECONDS:
                wrong.append(f"{name}, {way}: {result['seconds']:.1f} s")
    return wrong


def test_every_image_gives_pixels_or_a_typed_error(report: dict[str, Any]) -> None:
    found = report["found"]
    assert {way for ways in found.values() for way in ways} > {*ENGINES, "index turbo", "stream turbo"}
    assert faults(found, report["expected"]) == []
    assert sum(outcome["outcome"] == "pixels" for ways in found.values() for outcome in ways.values()) > len(found) / 2


def test_memory_stays_under_a_cap(report: dict[str, Any]) -> None:
    assert report["peak"] - report["before"] < MEMORY


def test_the_law_can_fail() -> None:
    def one(outcome: str, seconds: float = 0.1) -> dict[str, dict[str, dict[str, Any]]]:
        return {"a": {"turbo": {"outcome": outcome, "seconds": seconds}}}

    assert faults(one("pixels"), {"a": True}) == faults(one("refused: x"), {"a": None}) == []
    assert len(faults(one("refused: x"), {"a": True})) == 1
    assert len(faults(one("pixels"), {"a": False})) == 1
    assert len(faults(one("wrong: mean error 9"), {"a": None})) == 1
    assert len(faults(one("crash: KeyError"), {"a": None})) == 1
    assert len(faults(one("pixels", 11.0), {"a": True})) == 1


@pytest.mark.parametrize("name", ENGINES)
def test_max_pixels_is_checked_before_decoding(name: str) -> None:
    """The second image's bytes are of no format: whoever looked at them would say so."""
    good = samples.jpeg(40, 50)
    where = Geometry(np.tile(identity(1), (2, 1, 1)), np.array([[40, 50], [100, 120]], np.int32), (32, 32))
    engine = open_engine(name, max_pixels=11_999)
    with pytest.raises(DecodeError) as caught:
        engine.decode([good, b"no image at all"], where)
    assert caught.value.position == 1
    assert "100x120 (HxW) are 12000 pixels; at most max_pixels=11999 are accepted" in str(caught.value)
    assert "Leave it out, or raise the limit: Pipeline(max_pixels=12000)" in str(caught.value)
    engine.close()
    raised = open_engine(name, max_pixels=12_000)
    assert raised.decode([good, samples.jpeg(100, 120)], where).dtype == torch.uint8
    raised.close()


def test_pixels_that_a_dataset_decoded_itself_are_not_limited() -> None:
    where = Geometry(identity(1), np.array([[100, 120]], np.int32), (32, 32))
    placed = open_engine("turbo", max_pixels=10).decode([np.full((100, 120, 3), 7, np.uint8)], where)
    assert placed.shape == (1, 3, 32, 32)
    assert (placed == 7).all()


def test_the_default_limit_is_that_of_pillow() -> None:
    limit = inspect.signature(open_engine).parameters["max_pixels"].default
    assert limit == Pipeline(resolution=32).max_pixels == MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many"])
def test_max_pixels_is_a_whole_number(value: object) -> None:
    with pytest.raises(ConfigError, match=r"Pipeline.max_pixels must be a whole number of pixels above 0; got"):
        Pipeline(resolution=32, max_pixels=value)  # type: ignore[arg-type]


def test_a_run_may_go_on_with_another_limit() -> None:
    assert Pipeline(resolution=32).describe() == Pipeline(resolution=32, max_pixels=5).describe()


def test_scans_are_counted() -> None:
    assert count_scans(samples.jpeg(48, 67)) == 1
    assert count_scans(samples.jpeg(48, 67, progressive=True)) == 10
    assert count_scans(images.scan_bomb(scans=500)) == 509
    where = Geometry(identity(1), np.array([[64, 64]], np.int32), (64, 64))
    with pytest.raises(
        DecodeError, match=r"turbo cannot decode image 0 .*: it has 509 scans, at most 100 are accepted"
    ):
        open_engine("turbo").decode([images.scan_bomb(scans=500)], where)
