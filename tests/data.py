"""Real images and annotations, where they are; RESFLOW_TEST_DATA names another folder of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("RESFLOW_TEST_DATA", ROOT.parent / "shared" / "data"))


def real(name: str) -> Path:
    """A file or folder of the data; the test is skipped where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}; RESFLOW_TEST_DATA names the folder of test data")
    return path


def answer(*command: str) -> Any:
    """What a program of our own prints as its last line, JSON; tests' modules are run with `python -m`."""
    done = subprocess.run(
        command if command[0] == "unshare" else [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
