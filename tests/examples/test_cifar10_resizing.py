"""All four rows are there, and the one without weights says why it did not run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from torchvision.models import resnet18

from tests.examples.loading import drawn_on, load


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load("cifar10_resizing")


@pytest.fixture(autouse=True)
def _small(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "WAYS", {name: (32, views) for name, (_, views) in example.WAYS.items()})


def settings(output: Path) -> list[str]:
    return ["--epochs", "1", "--images", "16", "--batch-size", "8", "--output", str(output)]


@pytest.mark.slow
def test_with_weights_from_a_file_there_is_a_row_more(
    example: ModuleType, tars: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "WAYS", {"32 px": (32, [])})
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tars / "weights.pth")
    results = example.main([*settings(tars / "out"), "--weights", str(tars / "weights.pth")])
    assert list(results) == [*example.WAYS, example.FROZEN]
    assert [len(epochs) for epochs in results.values()] == [1, 1]
    assert all(seconds > 0 and 0 <= share <= 1 for ((seconds, share),) in results.values())
    assert results[example.FROZEN][0][1] > 0.8  # reddish or bluish: features drawn at random tell
    assert drawn_on(tars / "out" / "accuracy.png")
    assert "not run" not in capsys.readouterr().out


def test_without_weights_three_rows_run_and_the_fourth_says_why(
    example: ModuleType, tars: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unreachable:
        url = "https://download.example/resnet18.pth"

        @staticmethod
        def get_state_dict(*, progress: bool) -> None:
            raise URLError("no route to host")

    monkeypatch.setattr(example, "WEIGHTS", Unreachable)
    results = example.main(settings(tars / "out"))
    assert list(results) == list(example.WAYS)
    said = capsys.readouterr().out
    assert said.count("not run") == 3  # time and accuracy in the table, and the reason below
    assert "no weights at https://download.example/resnet18.pth (<urlopen error no route to host>)" in said
    assert "name a file by --weights" in said


def test_a_missing_file_is_a_reason_and_a_wrong_one_an_error(example: ModuleType, tmp_path: Path) -> None:
    assert "No such file" in example.pretrained(tmp_path / "nothing.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        example.pretrained(tmp_path / "other.pth")
