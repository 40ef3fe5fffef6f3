"""Tars as people make them: with files that are no samples, dots in names, and members out of order."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from resflow.cli.main import app
from resflow.errors import HeaderError, ShardError
from resflow.sources import ShardSource, ShardStream, build_index
from resflow.sources.index_lookup import open_index
from tests.shards import jpeg

Make = Callable[..., Path]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def keys(path: Path) -> tuple[list[str], list[str]]:
    """By index and as a stream."""
    index = build_index(str(path), workers=1)
    return [index.name(number)[1] for number in range(len(index))], [one.key for one in ShardStream(str(path))]


def members(*names: str) -> list[tuple[str, bytes]]:
    return [(n, jpeg(20, 30, i) if n.lower().endswith(("jpg", "jfif")) else b"1") for i, n in enumerate(names)]


def test_stray_files_are_ignored_and_counted_everywhere(make_tar: Make) -> None:
    path = make_tar(
        "t.tar",
        members(
            "README.md", "LICENSE", "Thumbs.db", "._a.jpg", "a.jpg", "a.cls", "b.jfif", "b.cls", "./c.jpg", "./c.cls"
        ),
    )
    assert keys(path) == (["a", "b", "./c"],) * 2
    line = "4 files that are no samples are ignored: LICENSE, README.md, ._a.jpg, ..."
    assert line in run("index", path)
    assert line in run("info", path)
    assert line in run("lint", path, "--workers", 0)
    remark: dict[str, Any] = {"count": 4, "examples": ["LICENSE", "README.md", "._a.jpg"]}
    for command in (("index", path), ("info", path), ("lint", path, "--workers", 0)):
        assert json.loads(run(*command, "--json"))["remarks"] == {"ignored": remark}
    assert open_index(str(path)).remarks["ignored"].count == 4


def test_images_that_share_a_key_are_told_of_once(make_tar: Make, caplog: pytest.LogCaptureFixture) -> None:
    path = make_tar("t.tar", members("cat.jpg", "cat.1.jpg", "dog.jpg", "eel.jpg", "fox.jpg"))
    for output in (run("index", path), run("info", path), run("lint", path, "--workers", 0)):
        assert output.count("1 sample holds a further image") == 1
        assert "cat.jpg and cat.1.jpg" in output
    with caplog.at_level(logging.WARNING, "resflow"):
        assert (
            len(list(ShardStream([str(path), str(make_tar("u.tar", members("a.jpg", "a.2.jpg", "b.jpg", "c.jpg")))])))
            == 7
        )
    assert ["cat.1.jpg" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("cat.0.jpg", "cat.1.jpg", "dog.0.jpg"), HeaderError, r"key ends at the first dot.*'cat.0.jpg'.*cat_1.jpg"),
        (("0.jpg", "1.jpg", "0.cls", "1.cls"), ShardError, r"members of sample '0' lie apart: jpg .*--sort=name"),
        (("0.cls", "1.cls", "0.jpg", "1.jpg"), (ShardError, HeaderError), r"--sort=name"),
        (("0.jpg", "0.cls", "1.cls"), HeaderError, r"no image among its members \['cls'\].*missing, add it"),
        (("README.md", "Thumbs.db"), ShardError, r"no samples \(2 files that are no samples .*README.md, Thumbs.db\)"),
    ],
)
def test_the_true_cause_is_named(make_tar: Make, names: tuple[str, ...], error: type[Exception], message: str) -> None:
    path = make_tar("t.tar", members(*names))
    for read in (lambda: build_index(str(path), workers=1), lambda: list(ShardStream(str(path)))):
        with pytest.raises(error, match=message):
            read()


def test_tar_of_the_current_folder(tmp_path: Path) -> None:
    """As `tar -cf t.tar -C folder .` writes it: a prefix, and the order of the folder."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "in" / "a" / f"{number}.jpg").write_bytes(jpeg(20, 30, number))
        (tmp_path / "in" / "a" / f"{number}.cls").write_text(str(number))
    (tmp_path / "in" / "README.txt").write_text("hello")
    path = tmp_path / "t.tar"
    subprocess.run(["tar", "--sort=name", "-cf", path, "-C", tmp_path / "in", "."], check=True)
    source = ShardSource(build_index(str(path), workers=1))
    assert len(source) == 12
    assert sorted(bytes(one.members["cls"]).decode() for one in source.read(np.arange(12))) == sorted(
        map(str, range(12))
    )
    assert len(list(ShardStream(str(path)))) == 12


def test_a_pipe_named_as_a_shard_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ShardError, match=r"pipe.tar: this is no regular file"):
        build_index(str(tmp_path / "*.tar"), workers=1)
