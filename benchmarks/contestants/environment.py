"""Environments of the contestants' own, made with uv outside the project.

Each sees the project's site-packages behind its own, by a .pth file, and never installs PyTorch: all contestants then
run on one PyTorch, and nothing of its size is downloaded again. What a contestant needs in another version it gets in
its own environment, which comes first.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from contestants import Contestant
from contestants.child import Failed

_SHARED = ("torch", "torchvision")


def interpreter(contestant: Contestant, cache: Path) -> Path:
    """The Python that runs a contestant; its environment is made when it is missing.

    Args:
        contestant: who.
        cache: where environments are kept.

    Returns:
        Path of the interpreter; the project's own for those that require nothing.

    Raises:
        Failed: uv is missing, or it cannot install the packages.
    """
    if not contestant.requires:
        return Path(sys.executable)
    shared = sysconfig.get_path("purelib")
    name = hashlib.sha256(" ".join((*contestant.requires, sys.version, shared)).encode()).hexdigest()[:8]
    folder = cache / "environments" / f"{contestant.module}-{name}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise Failed("uv is needed to make its environment: pip install uv")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _call([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    left_out = folder / "left-out.txt"
    left_out.write_text("".join(f'{package}; sys_platform == "never"\n' for package in _SHARED))
    own = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    (Path(own.strip()) / "shared.pth").write_text(f"{shared}\n")
    _call([uv, "pip", "install", "--python", str(python), "--override", str(left_out), *contestant.requires])
    ready.touch()
    return python


def versions(contestant: Contestant, python: Path) -> dict[str, str]:
    """Versions of what a contestant runs on."""
    names = [*contestant.requires, "torch", "torchvision", "numpy", "pillow", "simplejpeg", "webdataset"]
    names += ["nvidia-dali-cuda120", "resflow"]
    code = (
        "import sys, json, importlib.metadata as m; found = {d.metadata['Name'].lower(): d.version for d in "
        "reversed(list(m.distributions()))}; print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))"
    )
    import json

    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code, *names], text=True))
    return found


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line or "could not" in line.lower()] or lines[:2]
        raise Failed(f"{Path(command[0]).name} {command[1]} failed: {' '.join(telling)[:400]}")
