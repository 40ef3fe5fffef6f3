"""The benchmark of per-image transforms: both ways give the same kind of batches."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["randaugment+erasing", "colorjitter+hue"])
def test_both_ways_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    dropin = runpy.run_path(str(BENCHMARKS / "dropin.py"))
    monkeypatch.setitem(dropin["lay_out"].__globals__, "_DATA", tmp_path / "none")
    (tmp_path / "photos").mkdir()
    assert dropin["lay_out"](tmp_path / "photos", drawn=10) == "10 drawn images"
    module = runpy.run_path(str(BENCHMARKS / "transforms.py"))
    for way in module["WAYS"]:
        rate, of_processor = module["measure"](name, way, str(tmp_path / "photos"), 0, 1)
        assert rate > 0 < of_processor
    sys.modules.pop("dropin", None)
