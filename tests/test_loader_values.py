"""Numbers in masks that are no class are told of at the first batch, by info and by lint; `values=` renumbers them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset
from typer.testing import CliRunner

import resflow as rf
from resflow.cli.main import app
from resflow.errors import ConfigError
from resflow.sources.writer import source_samples
from tests.sources.annotated_sets import mask, picture

SIZE = (40, 60)


def folder(root: Path, *numbers: int, palette: bool = False) -> tuple[Path, Path]:
    """An image of stripes of these numbers, as wide as one another."""
    picture(root / "images" / "a.jpg", *SIZE)
    columns = np.repeat(np.array(numbers, np.uint8), SIZE[1] // len(numbers))
    mask(root / "masks" / "a.png", np.tile(columns, (SIZE[0], 1)), palette=palette)
    return root / "images", root / "masks"


class Own(Dataset[Any]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Any:
        return np.full((*SIZE, 3), 90, np.uint8), Image.open(self.path)


def values(source: Any, *, workers: int = 0, **targets: Any) -> tuple[set[int], list[str]]:
    """Numbers in the first batch, padding aside, and what is said."""
    pipeline = rf.Pipeline(resolution=64, targets=rf.Targets(**targets))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        (batch,) = rf.DataLoader(source, batch_size=1, num_workers=workers, pipeline=pipeline)
    left, top, right, bottom = batch.valid[0].tolist()
    said = [str(one.message) for one in told if "label maps" in str(one.message)]
    return set(batch.targets[0, top:bottom, left:right].unique().tolist()), said


@pytest.mark.parametrize("workers", [0, 1])
def test_a_foreground_that_would_be_ignored_is_told_of(tmp_path: Path, workers: int) -> None:
    folders = folder(tmp_path, 0, 255)
    found, said = values(rf.sources.MaskFolder(*folders, classes=["no", "yes"]), workers=workers)
    assert found == {0, 255}
    assert len(said) == 1
    assert "nothing but 0 and 255, and 255 is ignored" in said[0]
    assert "values={255: 1}" in said[0]
    assert "a.jpg" in said[0]
    assert values(Own(tmp_path / "masks" / "a.png"))[1]
    assert "class 255" in values(Own(tmp_path / "masks" / "a.png"), ignore_index=254)[1][0]


def test_the_way_out_works_everywhere(tmp_path: Path) -> None:
    folders = folder(tmp_path, 0, 255)
    for classes in (["no", "yes"], None):
        source = rf.sources.MaskFolder(*folders, classes=classes, values={255: 1})
        assert values(source) == ({0, 1}, [])
        (sample,) = source_samples(source)
        path = tmp_path / "again.png"
        path.write_bytes(sample["seg.png"])  # type: ignore[arg-type]
        assert values(Own(path)) == ({0, 1}, [])
    assert values(rf.sources.MaskFolder(*folders), values={255: 1}) == ({0, 1}, [])
    assert values(Own(folders[1] / "a.png"), values={255: 1}) == ({0, 1}, [])
    prints = {rf.sources.MaskFolder(*folders, values=table).index.fingerprint for table in (None, {255: 1}, {255: 2})}
    assert len(prints) == 3


def test_numbers_that_are_no_class_are_named(tmp_path: Path) -> None:
    folders = folder(tmp_path, 0, 1, 7, 9, 255)
    source = rf.sources.MaskFolder(*folders, classes=["a", "b"])
    _, (said,) = values(source)
    assert "hold 7, 9, which are none of the 2 classes (0 to 1)" in said
    swapped = rf.sources.MaskFolder(*folders, classes=["a", "b"], values={0: 1, 1: 0, 7: 0, 9: 1})
    assert values(swapped) == ({0, 1, 255}, [])
    expected = np.array([1, 0, 0, 1, 255])[:, None]
    target: Any = swapped.target(0)
    assert np.array_equal(target.encoded[0].reshape(5, -1), np.tile(expected, (1, SIZE[1] // 5)))


@pytest.mark.parametrize("numbers", [(0, 1), (0, 1, 255), (0, 0), (1, 255)])
def test_nothing_is_said_of_classes_and_borders(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    folders = folder(tmp_path, *numbers, palette=True)
    assert values(rf.sources.MaskFolder(*folders, classes=["a", "b"]))[1] == []
    assert values(rf.sources.MaskFolder(*folders))[1] == []


def test_wide_numbers_are_renumbered(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg", *SIZE)
    (tmp_path / "masks").mkdir()
    pixels = np.zeros(SIZE, np.uint16)
    pixels[:20] = 1000
    Image.fromarray(pixels).save(tmp_path / "masks" / "a.png")
    source = rf.sources.MaskFolder(tmp_path / "images", tmp_path / "masks", classes=["a", "b"])
    assert "hold 1000, which" in values(source)[1][0]
    assert values(source, values={1000: 1}) == ({0, 1}, [])
    renamed = rf.sources.MaskFolder(tmp_path / "images", tmp_path / "masks", values={1000: 1, 5000: 3})
    assert values(renamed) == ({0, 1}, [])


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    for wrong in ({255: "a"}, {"255": 1}, {-1: 1}, 255):
        with pytest.raises(ConfigError, match=r"Targets\.values must be"):
            rf.Targets(values=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"values has classes \[7\]; expected 0 to 1"):
        rf.sources.MaskFolder(*folder(tmp_path, 0, 255), classes=["a", "b"], values={255: 7})


@pytest.mark.parametrize(("numbers", "code"), [((0, 1, 255), 0), ((0, 255), 3), ((0, 1, 7), 3)])
def test_info_and_lint_tell_the_numbers(tmp_path: Path, numbers: tuple[int, ...], code: int) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("a\nb\n")
    places = [*map(str, folder(tmp_path, *numbers)), "--format", "masks", "--classes", str(names)]
    share = f"{1 / len(numbers):.1%}"
    shown = f"label maps hold {', '.join(f'{number} ({share})' for number in numbers)} of their pixels"
    info = CliRunner().invoke(app, ["info", *places])
    assert (info.exit_code, shown in info.output) == (0, True), info.output
    lint = CliRunner().invoke(app, ["lint", *places, "--workers", "0"])
    assert (lint.exit_code, shown in lint.output) == (code, True), lint.output
    assert ("values={" in info.output, "values={" in lint.output) == (code == 3, code == 3)
    whole = json.loads(CliRunner().invoke(app, ["lint", *places, "--workers", "0", "--json"]).output)
    assert len(whole["bad"]) == (code == 3)
    assert shown in whole["notes"][0]
