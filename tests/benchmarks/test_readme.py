"""`benchmarks/readme.py`: the README's speeds are those of the benchmark's file, and of no other."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def readme(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    return importlib.import_module("readme")


@pytest.fixture
def results(readme: Any) -> dict[str, Any]:
    rates = {
        "torch-pil": 500,
        "dali-cpu": 1000,
        "resflow-threads": 1100,
        "resflow-workers": 1250,
        "resflow-tiers": 3000,
    }
    summary = [
        {"task": task, "contestant": name, "rate": rate, "baseline": rate / 500, "best_peer_name": "dali-cpu"}
        for task in readme.TASKS
        for name, rate in rates.items()
    ]
    machine = {"cpu": "A CPU", "cores": 2, "memory_gib": 15.6, "system": "Linux", "python": "3.11.2"}
    versions = {name: {"what": "", "versions": {"torch": "2.9.0", "timm": "1.0"}} for name in ("torch-pil", "timm")}
    return {
        "date": "2026-11-21",
        "machine": machine,
        "options": {"workers": 2, "quick": False, "rounds": 5},
        "contestants": versions,
        "failed": [{"contestant": "ffcv", "task": "installation", "reason": "no compiler"}],
        "summary": summary,
        "runs": [],
    }


def test_the_table_is_written_between_the_markers(readme: Any, results: dict[str, Any], tmp_path: Path) -> None:
    page, file = tmp_path / "README.md", tmp_path / "peers.json"
    page.write_text(f"# A\n\n{readme.BEGIN}\nold\n{readme.END}\n\nrest\n")
    file.write_text(json.dumps(results))
    asked = ["--json", str(file), "--readme", str(page)]
    assert readme.main([*asked, "--check"]) == 1
    assert readme.main(asked) == 0
    assert readme.main([*asked, "--check"]) == 0
    text = page.read_text()
    assert text.startswith(f"# A\n\n{readme.BEGIN}\n| images per second | torch DataLoader + PIL |")
    assert text.endswith(f"{readme.END}\n\nrest\n")
    assert "old" not in text
    row = "| RandomResizedCrop 224 | 500 | 1,000, 2.0 x (dali-cpu) | **1,250, 2.5 x** | **3,000, 6.0 x** |"
    assert row in text
    assert "5 rounds" in text
    assert "2026-11-21; A CPU, 2 cores, 16 GiB, Python 3.11.2; timm 1.0, torch 2.9.0." in text
    assert "Failed and not among the peers of some task: ffcv." in text


def test_what_is_no_full_run_is_refused(
    readme: Any, results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, file = tmp_path / "README.md", tmp_path / "peers.json"
    asked = ["--json", str(file), "--readme", str(page)]
    text = f"{readme.BEGIN}\n{readme.END}\n"

    def refused(content: dict[str, Any], page_text: str) -> str:
        file.write_text(json.dumps(content))
        page.write_text(page_text)
        assert readme.main(asked) == 1
        assert page.read_text() == page_text
        return capsys.readouterr().err

    quick = results | {"options": results["options"] | {"quick": True}}
    assert "these are the results of a quick run" in refused(quick, text)
    less = results | {"summary": [one for one in results["summary"] if one["contestant"] != "resflow-tiers"]}
    assert "imagenet-224 lacks resflow-tiers. Run peers.py with all tasks" in refused(less, text)
    assert "must hold these two lines, once each" in refused(results, readme.BEGIN)
    assert "must hold these two lines, once each" in refused(results, f"{readme.END}{readme.BEGIN}")
    file.unlink()
    assert readme.main(asked) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_projects_readme_is_what_the_file_says(readme: Any) -> None:
    if not (readme.ROOT / "benchmarks" / "results" / "peers.json").exists():
        pytest.skip("no results of benchmarks/peers.py in benchmarks/results")
    assert readme.main(["--check"]) == 0
