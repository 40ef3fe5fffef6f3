"""Without an extra's packages the rest works, and what needs one names it with a command; each in a fresh process."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resflow
from resflow.extras import EXTRAS

ROOT = Path(__file__).parents[1]
OPTIONAL = ("albumentations", "fsspec", "gcsfs", "kornia", "matplotlib", "nvidia.dali", "pycocotools", "ray", "rich")
OPTIONAL += ("s3fs", "timm", "torchvision", "typer")
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {hidden} or name.startswith(tuple(one + "." for one in {hidden})):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import resflow as rf
"""
MASKS = """
from resflow.targets.masks import decode_mask
decode_mask([[0.0, 0, 4, 0, 4, 4]], (8, 8))
"""
OPENS = "next(iter(rf.DataLoader({folder!r}, batch_size=2, pipeline=rf.Pipeline(resolution=32, {fields}))))"
NEEDS = {
    "coco": ("pycocotools", MASKS),
    "kornia": ("kornia", "rf.augment.Augment"),
    "kornia, by name": ("kornia", 'rf.augment.named_operation("color_jiggle", {})'),
    "vision": ("torchvision", "rf.fuse"),
    "vision, from transforms": ("torchvision", "rf.Pipeline.from_transforms(None)"),
    "vision, by name": (
        "torchvision",
        "from resflow.augment.per_image_by_name import _found as f; f('Resize')",
    ),
    "plots": ("matplotlib", "from resflow.viz import require_matplotlib as f; f()"),
    "ray": ("ray", "from resflow.sources.ray_tasks import ray_cluster as f; f(None).__enter__()"),
    "cli": ("typer", "from resflow.cli import command as f; f()"),
    "dali": ("nvidia.dali", OPENS.replace("{fields}", "engine='dali'")),
    "s3": ("s3fs", "from resflow.storage.fsspec_store import FsspecTransport as T\nT('s3://b/k', rf.sources.Store())"),
    "gs": ("gcsfs", "from resflow.storage.fsspec_store import FsspecTransport as T\nT('gs://b/k', rf.sources.Store())"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        buffer = io.BytesIO()
        Image.fromarray(np.full((48, 64, 3), 60 * number, np.uint8)).save(buffer, "JPEG")
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
    return folder


def python(program: str, *hidden: str) -> subprocess.CompletedProcess[str]:
    program = HIDE.format(hidden=repr(hidden)) + program
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", NEEDS)
def test_a_missing_extra_is_named_with_a_command(case: str, photos: Path) -> None:
    package, program = NEEDS[case]
    extra = case.partition(",")[0]
    result = python(program.replace("{folder!r}", repr(str(photos))), package)
    assert result.returncode == 1, result.stderr
    said = result.stderr.strip().splitlines()[-1]
    assert f"pip install 'resflow[{extra}]'" in said
    assert "not installed" in said
    assert extra in metadata()["optional-dependencies"]


def test_the_core_makes_a_batch_without_any_extra(photos: Path) -> None:
    program = OPENS.replace("{folder!r}", repr(str(photos))).replace("{fields}", "buckets=2, targets=None")
    result = python(f"print({program}.images.shape)\nrf.models.spatial_spec", *OPTIONAL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("torch.Size([2, 3, ")


def test_the_first_batch_needs_no_home_and_nothing_to_write_to(photos: Path) -> None:
    read_only = """
import errno, os
def refuse(event, given):
    if event == "open" and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and given[0] != os.devnull:
        raise OSError(errno.EROFS, "Read-only file system", given[0])
    if event in ("os.mkdir", "os.rename", "os.symlink", "os.link"):
        raise OSError(errno.EROFS, "Read-only file system", given[0])
sys.addaudithook(refuse)
"""
    program = OPENS.replace("{folder!r}", repr(str(photos))).replace("{fields}", "buckets=2, targets=None")
    program = f"{HIDE.format(hidden=['dill'])}{read_only}print({program}.images.shape)"  # dill asks for a folder
    command = [sys.executable, "-B", "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env={"PATH": os.defpath})
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("torch.Size([2, 3, ")


def test_the_table_is_that_of_the_metadata() -> None:
    extras = metadata()["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(re.match(rf"{package}\b", requirement) for requirement in extras[extra]), (package, extra)
    for extra in ("cli", "coco", "dali", "kornia", "plots", "ray", "remote", "vision"):
        assert re.search(rf"[\[,]{extra}[\],]", extras["all"][0])


def test_the_core_is_small() -> None:
    core = {re.match(r"[\w-]+", one)[0] for one in metadata()["dependencies"]}  # type: ignore[index]
    assert core <= {
        "torch", "numpy", "pillow", "pyarrow", "simplejpeg", "webdataset", "braceexpand", "pyyaml", "typing-extensions",
    }  # fmt: skip


def test_the_version_stands_in_one_place() -> None:
    assert metadata()["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", resflow.__version__)


def metadata() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found
