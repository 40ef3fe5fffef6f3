"""The site builds without a warning, and the concepts' pictures are drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    reference = (tmp_path / "site" / "api" / "resflow" / "index.html").read_text()
    assert all(f'id="resflow.{name}"' in reference for name in ("DataLoader", "Pipeline", "Batch"))


@pytest.mark.slow
def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    command = [sys.executable, "docs/pictures.py", "--folder", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert len(list(tmp_path.glob("*.png"))) == 6
