"""The rehearsal of `benchmarks/gpu.py` on the CPU, and what it makes of its figures."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_rehearsal_measures_every_row(tmp_path: Path) -> None:
    command = [sys.executable, str(_BENCHMARKS / "gpu.py"), "--rehearsal", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no figure of it means anything" in done.stdout
    report = json.loads((tmp_path / "gpu.json").read_text())
    rows = [(row["job"]["kind"], row["job"]["what"]) for row in report["rows"]]
    feeds = ["dali alone", "torchvision decode_jpeg", "pytorch", "resflow", "resflow, tiers"]
    assert rows == [
        ("modes", "dali's modes"),
        *[("rate", feed) for feed in feeds],
        ("epochs", "resflow"),
        ("epochs", "resflow, tiers"),
        ("training", "resflow"),
    ]
    assert report["rows"][0]["result"]["equal"] is True  # dynamic mode gives the pipeline's pixels
    for row in report["rows"][1:]:
        assert row["result"]["images"] >= 8
        assert row["result"]["images_per_second"] > 0
    assert report["rows"][6]["result"]["shapes"] > 8
    assert report["rows"][8]["result"]["waiting"] < 1


def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    return importlib.import_module("gpu")


def test_without_a_gpu_it_names_the_rehearsal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load(monkeypatch).main() == 1
    assert "--rehearsal" in capsys.readouterr().out


def test_the_verdict_names_what_was_met_and_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = load(monkeypatch)

    def row(kind: str, what: str, side: int, **result: float) -> dict[str, Any]:
        return {"job": {"kind": kind, "what": what, "side": side, "device": "cuda"}, "result": result}

    rows = [
        row("rate", "dali alone", 128, images_per_second=100.0),
        row("rate", "resflow", 128, images_per_second=95.0),
        row("rate", "dali alone", 224, images_per_second=100.0),
        row("rate", "resflow", 224, images_per_second=94.0),
        {"job": {"kind": "rate", "what": "resflow", "side": 448, "device": "cuda"}, "result": {"error": "no"}},
        row("training", "resflow", 224, waiting=0.021),
    ]
    assert gpu._verdict(rows) == [
        "128: 0.95 of DALI alone on equal work (aim: 0.95; met)",
        "224: 0.94 of DALI alone on equal work (aim: 0.95; missed)",
        "ResNet-50 waits 2.1% of a step for data (aim: at most 2%; missed)",
    ]
