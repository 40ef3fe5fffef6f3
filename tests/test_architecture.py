"""Who may import whom, what is public, and what `import resflow` loads."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

import resflow

ROOT = Path(resflow.__file__).parent
MAY_IMPORT = {
    "errors": set(),
    "checks": {"errors"},
    "extras": {"errors"},
    "images": {"errors", "extras"},
    "pixels": {"checks", "errors"},
    "headers": {"images"},
    "storage": {"checks", "errors"},
    "plan": {"checks", "errors"},
    "geometry": {"checks", "errors"},
    "targets": {"checks", "errors", "extras", "geometry"},
    "world": {"errors", "plan"},
    "progress": set(),
    "sources": {"checks", "errors", "extras", "images", "plan", "geometry", "progress", "storage", "targets", "world"},
    "augment": {"checks", "errors", "extras", "geometry", "plan", "targets"},
    "models": {"checks", "errors", "extras", "geometry", "plan", "augment"},
    "decode": {"errors", "images", "pixels", "plan", "geometry"},
    "fusion": {"errors", "extras", "images", "plan", "geometry", "targets", "sources", "decode", "augment"},
    "config": {"errors"},
    "normalize": {"checks", "errors", "geometry"},
    "skip": {"checks", "errors"},
    "batch": {"errors", "geometry", "skip", "targets"},
    "pipeline_fields": {"errors", "augment", "config", "geometry", "normalize", "pixels", "plan", "skip", "targets"},
    "evaluation": {"errors", "augment", "geometry", "plan"},
    "transform_fields": {"errors", "augment", "fusion", "geometry", "normalize", "plan"},
    "pipeline": {
        "checks",
        "errors",
        "extras",
        "augment",
        "config",
        "decode",
        "evaluation",
        "geometry",
        "images",
        "models",
        "normalize",
        "pipeline_fields",
        "pixels",
        "plan",
        "skip",
        "targets",
        "transform_fields",
    },
    "session": {
        "checks",
        "errors",
        "extras",
        "images",
        "augment",
        "batch",
        "decode",
        "geometry",
        "pipeline",
        "plan",
        "skip",
        "sources",
        "targets",
        "world",
    },
    "loader": {"decode", "errors", "fusion", "pipeline", "plan", "session", "skip", "sources"},
    "sampling": {"plan"},
    "schedules": {"geometry", "plan"},
    "views": {"geometry"},
    "testing": {"errors", "plan", "geometry", "sources", "decode"},
    "viz": {"errors", "extras", "batch", "plan", "geometry", "normalize"},
    "demo": {"errors", "extras", "batch", "geometry", "loader", "normalize", "viz", "pipeline", "plan", "sources"},
    "cli": {
        "errors",
        "extras",
        "augment",
        "batch",
        "config",
        "decode",
        "demo",
        "geometry",
        "images",
        "loader",
        "normalize",
        "viz",
        "pipeline",
        "plan",
        "progress",
        "session",
        "skip",
        "sources",
        "targets",
    },
}
NUMPY_ONLY = ("plan", "geometry")


def packages(path: Path) -> Iterator[tuple[str, str]]:
    """(top-level package, package below resflow or "") of everything a file imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "resflow":
                names = [f"resflow.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            yield top, rest.partition(".")[0] if top == "resflow" else ""


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [path for path in sorted(ROOT.rglob("*.py")) if part(path) != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    here = part(path)
    imported = {below for top, below in packages(path) if top == "resflow"} - {here}
    assert imported <= MAY_IMPORT[here], f"{path} may not import {sorted(imported - MAY_IMPORT[here])}"


def modules_of(path: Path, known: Collection[str]) -> set[str]:
    """The package's modules that a file names in its imports, lazily or not, for types alone or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in whole}
    return found & set(known)


def circles(uses: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each reaches the others; itself alone is none."""
    reached: dict[str, set[str]] = {}
    for name in uses:
        seen: set[str] = set()
        rest = [*uses[name]]
        while rest:
            if (other := rest.pop()) not in seen:
                seen.add(other)
                rest += uses[other]
        reached[name] = seen - {name} if name not in seen else seen
    groups = {frozenset({name} | {other for other in reached[name] if name in reached[other]}) for name in uses}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    paths = {module_name(path): path for path in ROOT.rglob("*.py")}
    uses = {name: modules_of(path, paths) - {name} for name, path in paths.items()}
    assert len(uses) > 200
    assert circles(uses) == []


def test_a_planted_circle_of_three_is_found(tmp_path: Path) -> None:
    texts = {
        "resflow.a": "import resflow.b\n",
        "resflow.b": "def f():\n    from resflow.c import x\n",
        "resflow.c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from resflow import a\n",
        "resflow.d": "from resflow.a import x\n",
    }
    uses = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        uses[name] = modules_of(tmp_path / name, texts)
    assert circles(uses) == [["resflow.a", "resflow.b", "resflow.c"]]
    uses["resflow.c"].clear()
    assert circles(uses) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_can_be_held_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_rules_have_no_circle() -> None:
    done: list[str] = []
    rest = dict(MAY_IMPORT)
    while rest:
        free = [name for name, below in rest.items() if below <= set(done)]
        assert free, f"a circle among {sorted(rest)}"
        done += free
        for name in free:
            del rest[name]


@pytest.mark.parametrize(
    "path", [p for p in FILES if part(p) in NUMPY_ONLY], ids=lambda path: str(path.relative_to(ROOT))
)
def test_plan_and_geometry_need_numpy_alone(path: Path) -> None:
    outside = {top for top, _ in packages(path)} - set(sys.stdlib_module_names) - {"resflow"}
    assert outside <= {"numpy"}


def test_the_rule_catches_an_import_that_goes_up(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from resflow.loader import DataLoader\n    import torch\n")
    assert list(packages(planted)) == [("resflow", "loader"), ("torch", "")]


ROW = re.compile(r"^\| `([a-z_]+)(?:/|\.py)` \|.*\| ([^|]*) \|$", re.MULTILINE)


def disagreements(page: str) -> list[str]:
    """The rows of docs/architecture.md to write anew, each by the column that should end it."""
    told = {name: set(re.findall(r"`(\w+)`", imports)) for name, imports in ROW.findall(page)}
    rules = {name: below - {"checks", "errors", "extras"} for name, below in MAY_IMPORT.items()} | {
        "pipelines": set[str]()
    }
    return [
        f"`{name}`: {', '.join(f'`{one}`' for one in sorted(rules.get(name, ()))) or 'none'}"
        for name in sorted(told.keys() | rules.keys())
        if told.get(name) != rules.get(name)
    ]


def test_the_page_on_architecture_tells_the_rules() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    assert disagreements(page) == []
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {name for name, _ in ROW.findall(page)} & folders
    less, more = page.replace("| `plan/` |", "| `plans/` |"), page.replace("| `geometry`, `plan` |", "| `plan` |")
    assert disagreements(less) == ["`plan`: none", "`plans`: none"]
    assert len(disagreements(more)) == 1


def test_the_public_names() -> None:
    assert sorted(resflow.__all__) == [
        "Batch",
        "Buckets",
        "DataLoader",
        "Fit",
        "IMAGENET",
        "Normalize",
        "Pipeline",
        "PixelBudget",
        "Pixels",
        "Skip",
        "Targets",
        "World",
        "augment",
        "fuse",
        "sampling",
        "schedules",
        "sources",
        "views",
    ]  # fmt: skip
    assert len(resflow.__all__) <= 18
    for name in resflow.__all__:
        assert getattr(resflow, name) is not None
    with pytest.raises(AttributeError, match="module 'resflow' has no attribute 'nothing'"):
        resflow.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import resflow", ["torch", "numpy", "nvidia", "kornia", "matplotlib", "pyarrow"]),
        ("import resflow; resflow.DataLoader", ["nvidia.dali", "kornia", "matplotlib", "webdataset"]),
        (
            "import sys, contextlib; sys.argv = ['resflow', '--help']\n"
            "from resflow.cli.main import main\n"
            "with contextlib.suppress(SystemExit): main()",
            ["torch", "nvidia", "kornia", "matplotlib", "pyarrow"],
        ),
    ],
    ids=["import", "loader", "help"],
)
def test_nothing_is_loaded_before_it_is_needed(program: str, absent: list[str]) -> None:
    program += "\nimport sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = json.loads(result.stdout.splitlines()[-1])
    assert [name for name in absent if name in loaded] == []


def test_a_loader_without_workers_needs_nothing_that_only_posix_has() -> None:
    program = """
import os, random, sys
import torch  # Python and PyTorch look by themselves
sys.modules["fcntl"] = None
del os.register_at_fork
import resflow as rf
from resflow.errors import ConfigError
import resflow.storage.fetch
from resflow.storage.cache import ShardCache
from pathlib import Path
from tests.decode import samples
images = [(samples.jpeg(40, 56, seed), seed) for seed in range(4)]
loader = rf.DataLoader(images, batch_size=2, pipeline=rf.Pipeline(resolution=32, targets="class"))
print(sum(len(batch.images) for batch in loader))
try:
    ShardCache(Path("cache"), 1)
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.stdout.startswith("4\na cache of shards needs POSIX file locks"), done.stdout + done.stderr
