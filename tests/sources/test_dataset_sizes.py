"""Sizes that nobody tells: measured in workers where that takes long, with a word about it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resflow as rf
from resflow.errors import ConfigError
from resflow.sources import dataset_sizes as measuring
from resflow.sources.torchvision_datasets import dataset_source

COUNT = 75


class Own:
    """Decodes its images, as datasets of one's own do; notes the processes that do so."""

    def __init__(self, notes: Path, bad: Any = None) -> None:
        self.notes, self.bad = notes, bad

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> tuple[Any, int]:
        (self.notes / str(os.getpid())).touch()
        if number == COUNT - 1 and self.bad is not None:
            raise self.bad
        return np.zeros((10 + number, 20, 3), np.uint8), number


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_takes_long_is_told_once_and_done_by_the_workers(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(measuring, "PATIENCE", 0.0)
    before = torch.get_rng_state()
    source = dataset_source(Own(tmp_path), workers=workers)
    assert source.index.size.tolist() == [[10 + number, 20] for number in range(COUNT)]
    assert torch.equal(before, torch.get_rng_state())
    assert len(list(tmp_path.iterdir())) == 1 + workers
    (message,) = told(caplog)
    assert f"Own does not tell the sizes of its {COUNT} images" in message
    for way_out in ("sizes='sizes.npz'", "get_height_and_width(i)", "encoded bytes"):
        assert way_out in message


def test_the_loader_hands_its_workers_on_and_the_file_keeps_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(measuring, "PATIENCE", 0.0)
    notes, file = tmp_path / "notes", tmp_path / "sizes.npz"
    notes.mkdir()
    for _ in range(2):
        loader = rf.DataLoader(Own(notes), 4, num_workers=1, pipeline=rf.Pipeline(resolution=32), sizes=file)
        assert len(loader) == 19
    assert len(told(caplog)) == 1
    assert len(list(notes.iterdir())) == 2


def test_what_is_quick_is_done_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset_source(Own(tmp_path), workers=2)
    assert told(caplog) == []
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_as_they_are(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PATIENCE", 0.0)
    with pytest.raises(ZeroDivisionError, match="of its own"):
        dataset_source(Own(tmp_path, ZeroDivisionError("of its own")), workers=workers)
    with pytest.raises(ConfigError, match="no image here"):
        dataset_source(Own(tmp_path, ConfigError("no image here")), workers=workers)
    skipped = dataset_source(Own(tmp_path, OSError("bad")), workers=workers, skips=lambda error: True)
    assert skipped.index.size[-1].tolist() == [1, 1]
