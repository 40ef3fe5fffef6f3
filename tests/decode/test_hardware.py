"""The probe of a GPU's JPEG engines, as far as it goes without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from resflow.decode.hardware import LOADS, Hardware, kept_size, measured_load, probe_hardware


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_device_has_no_engines() -> None:
    assert probe_hardware() == Hardware(0, 0)


def test_the_fastest_share_is_measured_once_and_remembered(tmp_path: Path) -> None:
    memory, tried = tmp_path / "cache" / "hardware.json", []

    def seconds(load: float) -> float:
        tried.append(load)
        return abs(load - 0.7)

    assert measured_load("a GPU", seconds, memory) == 0.65
    assert tried == list(LOADS)
    assert measured_load("a GPU", seconds, memory) == 0.65
    assert len(tried) == len(LOADS)
    assert measured_load("another GPU", lambda load: -load, memory) == 1.0
    assert json.loads(memory.read_text()) == {"a GPU": 0.65, "another GPU": 1.0}


@pytest.mark.parametrize("damaged", ["", "[]", '{"a GPU": 7}', '{"a GPU": "fast"}'])
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, damaged: str) -> None:
    memory = tmp_path / "hardware.json"
    memory.write_text(damaged)
    assert measured_load("a GPU", lambda load: load, memory) == 0.0


def test_memory_is_kept_for_the_largest_image_unless_it_is_too_much() -> None:
    sizes = [(400, 500), (300, 900)]
    assert kept_size(sizes, 64, 64 << 30) == (400, 900)
    assert kept_size([*sizes, (12000, 9000)], 64, 64 << 30) == (0, 0)
