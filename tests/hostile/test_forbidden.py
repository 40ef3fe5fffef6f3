"""What the package never does: unpickle, run a shell, evaluate text, unpack an archive, take YAML with Python in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import resflow

ROOT = Path(resflow.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "subprocess", "pty"}
HARMLESS = {"pickle.UnpicklingError"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.spawnv", "os.posix_spawn", "torch.load",
    "torch.hub.load", "joblib.load", "pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "shutil.unpack_archive", "tarfile.open", "zipfile.ZipFile", "tempfile.mktemp",
}  # fmt: skip
METHODS = {"extractall", "extract"}
LOADERS = {f"yaml.{name}" for name in ("Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader")}
SAFE = {"shell": False, "allow_pickle": False, "weights_only": True}
"""Arguments, and the only value that they may have."""

BETWEEN_OWN_PROCESSES = {"session/transport.py", "sources/ray_tasks.py"}
"""Files that pickle what processes of one loader, or of one Ray job, send each other; none of it was ever stored."""
WHEN_BUILT = {"decode/native/build.py"}
"""Files that run a compiler, on our own sources, when Resflow is built; nothing imports them."""


def forbidden(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of everything in a file that the package never does."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # what a name stands for: `import numpy as np`, `from os import system as run`
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = dotted(node, names)
            if name in LOADERS or (name.partition(".")[0] in MODULES and "." in name and name not in HARMLESS):
                yield node.lineno, name
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in of_call(node, dotted(node.func, names)))


def of_call(node: ast.Call, called: str) -> Iterator[str]:
    """What is wrong with one call."""
    writes = len(node.args) > 1 and isinstance(node.args[1], ast.Constant) and str(node.args[1].value).startswith("w")
    if called in CALLS | BUILTINS and not (called == "tarfile.open" and writes):
        yield called
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield f".{node.func.attr}"
    given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
    yield from (f"{name}={given[name]}" for name, safe in SAFE.items() if name in given and given[name] is not safe)
    if called == "numpy.load" and "allow_pickle" not in given:
        yield "numpy.load without allow_pickle=False"


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what an expression stands for, "" where it is not a name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (before := dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return ""


def test_exceptions_are_files_of_the_package() -> None:
    assert [name for name in sorted(BETWEEN_OWN_PROCESSES | WHEN_BUILT) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_forbidden_is_done(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    allowed = "pickle." if name in BETWEEN_OWN_PROCESSES else "subprocess.run" if name in WHEN_BUILT else None
    assert [found for _, found in forbidden(path.read_text()) if not (allowed and found.startswith(allowed))] == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("import pickle\npickle.loads(b'')", "pickle.loads"),
        ("from pickle import loads\nloads(b'')", "pickle.loads"),
        ("import yaml\nyaml.load('', Loader=yaml.Loader)", "yaml.load"),
        ("import yaml\nyaml.compose('', Loader=yaml.UnsafeLoader)", "yaml.UnsafeLoader"),
        ("import subprocess as s\ns.run('ls', shell=True)", "shell=True"),
        ("import subprocess\nsubprocess.run(['ls'])", "subprocess.run"),
        ("import tarfile\ntarfile.open('a.tar')", "tarfile.open"),
        ("import tarfile\ntarfile.open('a.tar', mode)", "tarfile.open"),
        ("import os\nos.system('ls')", "os.system"),
        ("from os import system as run\nrun('ls')", "os.system"),
        ("def f(x):\n    return eval(x)", "eval"),
        ("exec('1')", "exec"),
        ("archive.extractall('/')", ".extractall"),
        ("archive.extract(member)", ".extract"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("import torch\ntorch.jit.load('x', weights_only=False)", "weights_only=False"),
        ("import numpy as np\nnp.load('x')", "numpy.load without allow_pickle=False"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle=True"),
        ("import numpy as np\nnp.load('x', allow_pickle=sure)", "allow_pickle=None"),
    ],
)
def test_the_rule_catches_a_planted_fault(planted: str, found: str) -> None:
    assert found in [name for _, name in forbidden(planted)]


def test_the_rule_lets_what_is_safe_pass() -> None:
    sound = (
        "import numpy as np\nimport yaml\nnp.load('x', allow_pickle=False)\nyaml.compose('', Loader=yaml.SafeLoader)\n"
    )
    assert list(forbidden(sound + "model.eval()\nimport re\nre.compile('x')\n")) == []
