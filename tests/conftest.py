"""What tests of several folders share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from resflow.cli.main import main
from resflow.decode import registry
from tests.examples.loading import write_tars

Command: TypeAlias = Callable[..., int]

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks PyPI for its newest version when it is imported


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `resflow` with arguments, in this process; its exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["resflow", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that a test registers are forgotten after it."""
    monkeypatch.setattr(registry, "_ENGINES", dict(registry._ENGINES))


@pytest.fixture
def tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes as CIFAR-10's ten lie in its tars: reddish and bluish squares of 32 pixels."""
    write_tars(tmp_path)
    monkeypatch.setenv("RESFLOW_TEST_DATA", str(tmp_path))
    return tmp_path
