"""A rehearsal of `benchmarks/peers.py` with two contestants, and its sums."""

from __future__ import annotations

import importlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    return lambda name: importlib.import_module(f"contestants.{name}")


@pytest.mark.slow
def test_two_contestants_run_in_turn_and_the_results_are_written(tmp_path: Path) -> None:
    chosen = ["decode-full", "resflow-tiers"]
    command = [sys.executable, str(_BENCHMARKS / "peers.py"), "--quick", "--contestants", *chosen]
    command += ["--tasks", "drawn-96", "--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "peers.json")]
    done = subprocess.run([*command, "--plot", str(tmp_path / "peers.png")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in chosen)
    assert "did not take part" not in done.stdout

    results = json.loads((tmp_path / "peers.json").read_text())
    assert [run["contestant"] for run in results["runs"]] == chosen
    for run in results["runs"]:
        assert run["samples"] == 64
        assert min(run[key] for key in ("rate", "cpu", "read", "first_batch", "start", "peak_own")) > 0
        assert run["peak"] > run["peak_own"]
    assert results["failed"] == []
    assert results["contestants"]["resflow-tiers"]["versions"]["torch"]
    assert {record["contestant"] for record in results["summary"]} == set(chosen)
    assert (tmp_path / "peers.png").stat().st_size > 0


@pytest.mark.skipif(shutil.which("cc") is None, reason="decode-crop is compiled: apt-get install gcc")
@pytest.mark.skipif(not Path("/usr/include/jpeglib.h").exists(), reason="apt-get install libjpeg62-turbo-dev")
@pytest.mark.parametrize("window", [(0, 0, 320, 240), (37, 51, 128, 96), (200, 130, 120, 110), (0, 0, 20, 20)])
def test_decode_crop_shows_the_window(load: Any, window: tuple[int, int, int, int]) -> None:
    x, y, width, height = window
    ramp = np.mgrid[0:240, 0:320].astype(np.float64)
    pixels = np.stack([ramp[0], ramp[1] * 0.75, (ramp[0] + ramp[1]) / 3], -1).astype(np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=95, subsampling=0)
    found = load("raw").crop_resize(buffer.getvalue(), window, 48)
    box = (x, y, x + width, y + height)
    expected = np.asarray(Image.open(buffer).resize((48, 48), Image.Resampling.BILINEAR, box=box))
    assert np.abs(found.astype(int) - expected).max() <= 6


def test_ratios_are_taken_within_a_round(load: Any) -> None:
    # The second round was disturbed: all took ten times as long.
    rates = {"torch-pil": (100, 10, 100), "dali-cpu": (200, 20, 180), "resflow-threads": (300, 30, 330)}
    runs = [
        {"task": "t", "contestant": name, "round": number, "rate": rate, "samples": 10, "cpu": 0.1, "read": 5000}
        | {"first_batch": 1.0, "start": 2.0, "peak": 3, "peak_own": 2, "difference": None}
        for name, values in rates.items()
        for number, rate in enumerate(values)
    ]
    found = {record["contestant"]: record for record in load("report").summary(runs)}
    ours = found["resflow-threads"]
    assert (ours["rate"], ours["baseline"], ours["best_peer"], ours["best_peer_name"]) == (300, 3.0, 1.5, "dali-cpu")
    assert found["dali-cpu"]["baseline"] == 2.0
    assert (ours["cpu_ms"], ours["read_kb"]) == (10.0, 0.5)
    del runs[:3]
    assert load("report").summary(runs)[0]["baseline"] is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3], None),
        ([0, 1, 2], "1 are missing, 0 came more than once"),
        ([0, 1, 2, 2], "1 are missing, 1 came more than once"),
        ([0, 1, 2, 3, 3], "0 are missing, 1 came more than once"),
        ([0, 1, 2, 4], "must give each of 4 samples once"),
    ],
)
def test_lost_and_repeated_samples_are_wrong_work(load: Any, labels: list[int], message: str | None) -> None:
    run = load("run")
    if message is None:
        run._check_labels(np.array(labels), 4, 0)
        return
    with pytest.raises(run.WrongWork, match=message):
        run._check_labels(np.array(labels), 4, 0)


def test_wrong_shapes_types_and_pixels_are_wrong_work(load: Any, tmp_path: Path) -> None:
    import torch

    run, images, job = load("run"), load("images"), load("job")
    run._check(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 8)
    run._check(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 8)
    for wrong in (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9, dtype=torch.uint8)):
        with pytest.raises(run.WrongWork, match="a batch must be uint8"):
            run._check(wrong, 8)

    one = job.Job(str(images.image_set("drawn", 4, tmp_path)), False, (32, 32))
    assert one.files()[3][1] == 3
    found = [
        np.asarray(run.Image.open(path).resize((32, 32), run.Image.Resampling.BILINEAR)) for path, _ in one.files()
    ]
    assert run._difference(one, np.stack(found), range(4)) == 0.0
    with pytest.raises(run.WrongWork, match="differ from Pillow's"):
        run._difference(one, np.stack(found)[::-1], range(4))


def test_a_contestant_that_fails_is_named_with_the_reason(load: Any, tmp_path: Path) -> None:
    child = load("child")
    with pytest.raises(child.Failed, match=r"No module named 'contestants\.nobody'"):
        child.run(Path(sys.executable), ["nobody", "no.json"], tmp_path / "log")
    environment, contestant = load("environment"), importlib.import_module("contestants").Contestant
    strange = contestant("strange", "strange", "cannot be installed", requires=("not a requirement!",))
    with pytest.raises(child.Failed, match=r"uv"):
        environment.interpreter(strange, tmp_path)
