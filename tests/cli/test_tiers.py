"""`resflow tiers` and `resflow shard --tiers` as they are run from a shell."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from resflow.sources import ShardSource, build_index, index_path, write_index, write_shards
from tests.conftest import Command
from tests.decode import samples as pictures


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    made = ({"__key__": f"{i:02d}", "jpg": pictures.jpeg(60 + 4 * i, 90, i)} for i in range(8))
    paths = write_shards(made, f"{tmp_path}/s-%d.tar", max_samples=4)
    pattern = f"{tmp_path}/s-{{0..{len(paths) - 1}}}.tar"
    write_index(build_index(pattern), index_path(pattern))
    return pattern


def test_tiers_are_made_and_told(
    pattern: str, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("tiers", pattern, "--tiers", "70,32", "--workers", 1) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("tier 32: 8 of 8 images, 0.0 MB (")
    assert lines[1].startswith("tier 70: 5 of 8 images, ")
    assert lines[1].endswith("% of the originals), 2 shards made")
    assert lines[3].endswith(".tiers.arrow")
    assert err == ""
    tiers = ShardSource(pattern).open_tiers()
    assert tiers is not None
    assert tiers.sides == (32, 70)
    assert command("tiers", pattern, "--tiers", "32,70", "--workers", 1, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [(tier["side"], tier["images"], tier["shards_made"]) for tier in said["tiers"]] == [(32, 8, 0), (70, 5, 0)]
    assert Path(said["index"]) == tiers.path
    assert command("tiers", pattern, "--tiers", "32", "--overwrite", "--quality", 50, "--workers", 1) == 0
    assert "2 shards made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ("96,x", "--tiers must be whole numbers separated by commas, e.g. 96,160,256; got '96,x'"),
        ("96,96", "tiers must be different whole numbers of pixels from 8 to 4096"),
        ("3", "tiers must be different whole numbers of pixels from 8 to 4096"),
    ],
)
def test_wrong_sides_are_explained(
    pattern: str, sides: str, message: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("tiers", pattern, "--tiers", sides) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resflow: ConfigError\n  {message}")


def test_wrong_usage_and_missing_index(pattern: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("tiers", pattern) == 2
    assert command("tiers", pattern, "--tiers", "32", "--quality", 101) == 2
    capsys.readouterr()
    index_path(pattern).unlink()
    assert command("tiers", pattern, "--tiers", "32") == 1
    assert "there is no index of these shards. Run: resflow index" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_listed(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures.jpeg(90, 90)
    made = [{"__key__": "a", "jpg": data}, {"__key__": "b", "jpg": data[: len(data) // 2]}]
    pattern = str(write_shards(made, f"{tmp_path}/s-%d.tar")[0])
    write_index(build_index(pattern), index_path(pattern))
    assert command("tiers", pattern, "--tiers", "32", "--workers", 1) == 0
    out, err = capsys.readouterr()
    assert out.startswith("tier 32: 1 of 2 images")
    assert err.startswith(f"no tier of {pattern}/b: no tiers can be made of it: OSError: image file is truncated")


def test_shard_writes_tiers_too(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        folder = tmp_path / "in" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(pictures.jpeg(80, 100, number))
    out = tmp_path / "out"
    arguments = ("shard", tmp_path / "in", out, "--format", "folder", "--tiers", "32,64")
    assert command(*arguments, "--no-index") == 1
    assert "--tiers needs the index of the shards. Drop --no-index." in capsys.readouterr().err
    assert command(*arguments[:-1], "32;64") == 1
    assert "got '32;64'" in capsys.readouterr().err
    assert not out.exists()
    assert command(*arguments) == 0
    told = capsys.readouterr().out
    assert "tier 32: 4 of 4 images" in told
    tiers = ShardSource(told.rpartition('shards: "')[2].strip().rstrip('"')).open_tiers()
    assert tiers is not None
    assert tiers.sides == (32, 64)


def test_a_bar_shows_only_once_it_takes_its_time(pattern: str) -> None:
    for patience, expected in (("0", True), ("1000", False)):
        main_end, terminal = pty.openpty()
        program = (
            "import sys; sys.argv[1:] = ['tiers', sys.argv[1], '--tiers', '32', '--overwrite', '--workers', '1']\n"
            f"import resflow.progress as t; t.PATIENCE = {patience}\n"
            "from resflow.cli.main import main; main()"
        )
        process = subprocess.run(
            [sys.executable, "-c", program, pattern],
            stdout=subprocess.PIPE,
            stderr=terminal,
            check=False,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        )
        os.set_blocking(main_end, False)
        try:
            shown = os.read(main_end, 100_000)
        except BlockingIOError:
            shown = b""
        os.close(terminal)
        os.close(main_end)
        assert process.returncode == 0
        assert (b"making tiers" in shown) == expected
        assert process.stdout.startswith(b"tier 32: 8 of 8")
