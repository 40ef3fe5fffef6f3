"""Test the wheel with its newest dependencies on each Python to be had, and with the oldest on the first.

`make test-versions` runs it. In each environment a fixed part of the fast tests runs, a minute or two of them. A Python
that is neither on this machine nor to be had by uv is named, and is no failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "versions"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TESTS = ("augment", "decode", "geometry", "plan", "targets", "test_extras.py", "test_loader.py")
TESTS += tuple(
    f"sources/test_{name}.py" for name in ("index_file", "shards", "stream", "torchvision_datasets", "writer")
)
DOWNLOAD = 45  # seconds that a Python may take to come


def main() -> int:
    """Run the matrix; 1 if an environment fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="only this one; can be given several times")
    parser.add_argument("--set", choices=("newest", "oldest"), help="only this set of dependencies")
    options = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(ROOT / "tests", WORK / "tree" / "tests")  # without the sources: the wheel must have all
    shutil.copy(ROOT / "pyproject.toml", WORK / "tree")
    uv("build", "--quiet", "--wheel", "--out-dir", str(WORK), str(ROOT))
    [wheel] = WORK.glob("*.whl")
    found = {version: find_python(version) for version in options.python or PYTHONS}
    here = {version: path for version, path in found.items() if path}
    runs = [("newest", version) for version in here] + [("oldest", version) for version in list(here)[:1]]
    runs = [run for run in runs if options.set in (None, run[0])]
    results = {run: passes(wheel, here[run[1]], *run) for run in runs}
    for (which, version), (passed, seconds) in results.items():
        print(f"Python {version}, {which} dependencies: {'passed' if passed else 'FAILED'} in {seconds:.0f} s")
    for version in found.keys() - here.keys():
        print(f"Python {version}: not on this machine, and uv could not get it; not tested")
    return 0 if results and all(passed for passed, _ in results.values()) else 1


def find_python(version: str) -> str | None:
    """The path of a Python that runs: on this machine, from pyenv, or by a download of uv."""
    for path in (
        shutil.which(f"python{version}"),
        *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")),
    ):
        if path and _is(str(path), version):
            return str(path)
    command = [find_uv(), "python", "find", "--managed-python", version]
    for _ in range(2):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and _is(found.stdout.strip(), version):
            return found.stdout.strip()
        try:
            install = [find_uv(), "python", "install", "--quiet", version]
            subprocess.run(install, capture_output=True, check=False, timeout=DOWNLOAD)
        except subprocess.TimeoutExpired:
            return None
    return None


def _is(path: str, version: str) -> bool:
    program = "import ssl, ctypes, sqlite3, lzma, sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([path, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def passes(wheel: Path, python: str, which: str, version: str) -> tuple[bool, float]:
    """Make an environment and run the tests in it: whether they pass, and seconds."""
    start = time.monotonic()
    place = WORK / f"{version}-{which}"
    print(f"== Python {version} ({python}), {which} dependencies", flush=True)
    resolution = "highest" if which == "newest" else "lowest-direct"
    inside = str(place / "bin" / "python")
    try:
        uv("venv", "--quiet", "--python", python, str(place))
        uv("pip", "install", "--quiet", "--python", inside, "--resolution", resolution, f"{wheel}[test]")
        run = [inside, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", "-k", "not dali"]
        environment = os.environ | {"RESFLOW_TEST_DATA": os.environ.get("RESFLOW_TEST_DATA", str(WORK / "none"))}
        tests = [f"tests/{name}" for name in TESTS]
        passed = subprocess.run([*run, *tests], cwd=WORK / "tree", env=environment, check=False).returncode == 0
    except subprocess.CalledProcessError as error:
        print(f"{error}", file=sys.stderr)
        passed = False
    shutil.rmtree(place, ignore_errors=True)
    return passed, time.monotonic() - start


def find_uv() -> str:
    """Of this environment, or of the system."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def uv(*arguments: str) -> None:
    """Run uv."""
    subprocess.run([find_uv(), *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
