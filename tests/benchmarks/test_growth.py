"""`benchmarks/growth.py` on few samples, and that its judgement finds what grows too fast."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    return importlib.import_module("growth")


@pytest.mark.slow
def test_it_measures_and_judges(tmp_path: Path) -> None:
    command = [sys.executable, str(_BENCHMARKS / "growth.py"), "--quick", "--cache", str(tmp_path / "cache")]
    done = subprocess.run([*command, "--json", str(tmp_path / "growth.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "growth.json").read_text())
    few, many = report["points"]
    assert (few["samples"], many["samples"]) == (64, 8000)
    assert 50 < many["index_bytes"] / 8000 < 80
    assert 8 <= many["plan_bytes"] / 8000 < 10
    assert min(few["image_s"], few["image_cpu_s"], few["first_batch_s"], few["memory"]) > 0
    assert {check["figure"] for check in report["checks"]} == {"memory", "plan_memory", "plan_bytes", "index_bytes"}
    assert "| 8,000 |" in done.stdout
    assert list((tmp_path / "cache" / "sets" / "drawn-64").glob("tmp*")) == []


def rows(growth: Any, **figures: Any) -> list[dict[str, Any]]:
    """Measurements of a loader that grows as it may, but for the figures given as functions of samples."""
    sound = {
        "image_s": 1e-3,
        "image_cpu_s": 1e-3,
        "first_batch_s": 1.0,
        "memory": 1e8,
        "plan_s": 0.1,
        "plan_memory": 1e6,
    }
    sizes = {"index_bytes": lambda n: 60 * n, "plan_bytes": lambda n: 8 * n + 500}
    every = [{"axis": "samples", "samples": n} for n in (500, 4000, 32_000)]
    for row in every:
        n = row["samples"]
        row |= sound | {name: of(n) for name, of in (sizes | figures).items()}
    return every


@pytest.mark.parametrize(
    ("figure", "of"),
    [
        ("image_s", lambda n: 1e-6 * n),  # an epoch's time grows with the square
        ("first_batch_s", lambda n: 1e-6 * n**2),
        ("index_bytes", lambda n: n**1.2),
        ("plan_bytes", lambda n: 8 * n * (2 if n > 4000 else 1)),
        ("plan_memory", lambda n: n**2),
    ],
)
def test_what_grows_too_fast_is_found(growth: Any, figure: str, of: Any) -> None:
    assert all(check["passed"] for check in growth.judged(rows(growth), False))
    checks = growth.judged(rows(growth, **{figure: of}), False)
    [failed] = [check for check in checks if not check["passed"]]
    assert (failed["figure"], failed["axis"], failed["to"]) == (figure, "samples", 32_000)


def test_seconds_with_more_workers_than_cores_are_not_judged(growth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth.os, "sched_getaffinity", lambda _: {0, 1})
    slow = [
        {"axis": "workers", "workers": n, "image_s": 1e-3 * max(1, n - 1), "image_cpu_s": 1e-3, "memory": 1.0}
        for n in (1, 2, 3, 4)
    ]
    assert all(check["passed"] for check in growth.judged(slow, False))
    slow[1]["image_s"] = 2e-3
    assert not all(check["passed"] for check in growth.judged(slow, False))
    assert all(check["passed"] for check in growth.judged(slow, True))
