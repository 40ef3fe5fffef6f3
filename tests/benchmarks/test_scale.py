"""`benchmarks/scale.py` on few samples: that it measures, computes, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_it_measures_computes_and_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, str(_BENCHMARKS / "scale.py"), "--samples", "50000", "--ranks", "8", "--hosts", "4"]
    command += ["--plan-for", "9000000", "--folder", str(tmp_path), "--json", str(tmp_path / "scale.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "scale.json").read_text())
    [row] = report["rows"]
    assert row["steps"] == -(-50_000 // 256)
    assert 60 < row["index_bytes"] / 50_000 < 80
    assert report["computed"]["blocks"] == 3
    assert report["computed"]["size_column_bytes"] == 72_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["scale.json"]
