"""`resflow plan --tiers` as it is run from a shell, and what is drawn for it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import resflow as rf
from resflow.cli.main import app
from resflow.cli.tier_plan import planned_tiers, schedule_epochs
from resflow.errors import ConfigError
from resflow.plan import learn_buckets
from resflow.session.sampled_windows import draw_windows
from resflow.sources import build_index, index_path, write_index, write_shards
from tests.conftest import Command
from tests.decode import samples as pictures

YAML = """
resolution:
  linear: {start: 32, stop: 64, epochs: 4, step: 16}
buckets: 2
stride: 16
views:
  - random_resized_crop: {scale: [0.5, 1.0]}
"""


@pytest.fixture
def shards(tmp_path: Path) -> str:
    made = ({"__key__": f"{i:02d}", "jpg": pictures.jpeg(200 + 8 * i, 300, i), "cls": b"0"} for i in range(12))
    path = str(write_shards(made, f"{tmp_path}/s-%d.tar", max_samples=99)[0])
    write_index(build_index(path), index_path(path))
    (tmp_path / "pipeline.yaml").write_text(YAML)
    return path


def test_tiers_are_proposed_within_the_budget(
    shards: str, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", tmp_path / "pipeline.yaml", "--data", shards, "--batch-size", 4, "--tiers", "auto"]
    assert command(*asked, "--budget", 0.6, "--json") == 0
    told = json.loads(capsys.readouterr().out)["tiers"]
    assert told["sides"]
    assert all(side % 32 == 0 for side in told["sides"])
    assert told["bytes_share"] <= 0.6
    assert told["epochs"] == 4
    assert told["speedup"] == pytest.approx(told["milliseconds_without"] / told["milliseconds"])
    assert told["speedup"] > 1

    assert command(*asked, "--budget", 0.6) == 0
    out = capsys.readouterr().out
    sides = ",".join(map(str, told["sides"]))
    assert f"tiers {sides}: " in out
    assert f"{told['speedup']:.1f} times as fast" in out
    printed = out.rstrip().rpartition("make them: resflow ")[2]
    assert printed.endswith(f" --tiers {sides}")
    assert CliRunner().invoke(app, shlex.split(printed)).exit_code == 0  # it runs as printed

    assert command(*asked, "--budget", 0.0001) == 0
    assert "tiers: none pays within" in capsys.readouterr().out


def test_given_tiers_are_told_of(
    shards: str, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", tmp_path / "pipeline.yaml", "--data", shards, "--batch-size", 4, "--epochs", 6, "--json"]
    assert command(*asked, "--tiers", "96,48") == 0
    told = json.loads(capsys.readouterr().out)["tiers"]
    assert (told["sides"], told["epochs"], told["budget"]) == ([48, 96], 6, None)
    assert all(0 < share < 1 for share in told["used"])


def test_what_is_wrong_is_named(
    shards: str, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", tmp_path / "pipeline.yaml", "--data", shards, "--batch-size", 4, "--tiers"]
    assert command(*asked, "auto", "--budget", "-1") != 0
    assert "budget of tiers must be a share of the originals' bytes above 0, e.g. 0.3; got -1" in _error(capsys)
    assert command(*asked, "some") != 0
    assert "--tiers must be whole numbers separated by commas" in _error(capsys)
    (tmp_path / "pipeline.yaml").write_text(f"{YAML}tier_quality: null\n")
    assert command(*asked, "auto") != 0
    assert "the pipeline reads originals alone (tier_quality: null)" in _error(capsys)


def test_only_shards_have_tiers() -> None:
    pipeline = rf.Pipeline(resolution=32)
    buckets = learn_buckets(np.array([[40, 40]], np.int32), 1, resolutions=(32,), stride=32)
    with pytest.raises(ConfigError, match="--tiers is for shards, beside which tiers lie; got a ItemSource"):
        planned_tiers("auto", 0.3, pipeline, buckets, ItemSource(), epochs=1, seed=0)


class ItemSource:
    """Has no shards."""


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_windows_are_those_that_a_loader_draws(shards: str) -> None:
    pipeline = rf.Pipeline(
        resolution=rf.schedules.Linear(32, 64, epochs=3, step=16),
        buckets=1,
        stride=16,
        views=[rf.views.RandomResizedCrop(), rf.views.HorizontalFlip(), rf.views.Rotate(20)],
        normalize=None,
    )
    loader = rf.DataLoader(shards, batch_size=4, shuffle=True, seed=3, pipeline=pipeline)
    size = np.array([(200 + 8 * i, 300) for i in range(12)], np.int32)
    draws = draw_windows(pipeline, loader.buckets, size, epochs=3, seed=3)
    assert len(draws) == 36
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            for key, matrix in zip(batch.keys, batch.transform.numpy(), strict=True):
                row = int(key.rsplit("/", 1)[-1])
                [at] = np.flatnonzero(draws.row == row)[epoch : epoch + 1]
                np.testing.assert_allclose(draws.matrix[at], matrix, rtol=1e-6)
                assert draws.shape[at].tolist() == list(batch.images.shape[2:])


def test_windows_of_a_large_dataset_are_spread_over_it_and_over_an_epoch() -> None:
    size = np.random.default_rng(0).integers(100, 400, (100_000, 2)).astype(np.int32)
    schedule = rf.schedules.Linear(64, 128, epochs=2, within_epoch=True)
    pipeline = rf.Pipeline(resolution=schedule, buckets=4)
    buckets = learn_buckets(size, 4, resolutions=schedule.resolutions, stride=32)
    draws = draw_windows(pipeline, buckets, size, epochs=2)
    rows, times = np.unique(draws.row, return_counts=True)
    assert set(times.tolist()) == {2}
    assert len(draws) == 32_768
    assert np.diff(rows).max() <= 7
    area = draws.shape.prod(axis=1)
    # A quarter of the time near the lowest resolution, a half at the middle, a quarter at the highest.
    near = np.abs(np.sqrt(area)[:, None] - np.array([64, 96, 128])).argmin(axis=1)
    assert np.bincount(near) / len(draws) == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [
        (rf.schedules.Constant(96), 1),
        (rf.schedules.Linear(64, 128, epochs=5), 5),
        (rf.schedules.Cosine(64, 128, epochs=7), 7),
        (rf.schedules.Steps({0: 64, 6: 96}), 7),
        (rf.schedules.Cyclic(64, 96, period=2.5), 3),
        (rf.schedules.RandomMultiScale((64, 96)), 1),
    ],
)
def test_epochs_of_a_schedule(schedule: rf.plan.Schedule, epochs: int) -> None:
    assert schedule_epochs(schedule) == epochs
