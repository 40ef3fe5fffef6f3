"""Run the compiled decoder under AddressSanitizer and UndefinedBehaviorSanitizer: `python -m fuzz.sanitize`.

First on damaged files, through the same loader and the same sources as in production; then under a coverage-guided
fuzzer: libFuzzer where the compiler is clang, else `native/driver.c`. Any complaint fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "resflow" / "decode" / "native"
WORK = ROOT / "fuzz" / "work" / "native"
_PRELOADED = "RESFLOW_SANITIZED"  # set in the process that runs damaged files


def _module(name: str, path: Path) -> ModuleType:
    """A module without its package, which would load torch under the sanitizers."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def damaged(files: int) -> None:
    """Decode damaged files by the library under sanitizers, which this process has loaded."""
    import numpy as np

    from tests.decode.samples import damaged_jpegs

    native = _module("native", NATIVE / "__init__.py")
    native.LIBRARY = next(WORK.glob("resflow_native.*"))
    levels = [level for level in (0, 3, 4) if level <= native.best_level()]
    kinds = [native.open_entries(level) for level in levels]
    rng, done, start = np.random.default_rng(1), [0, 0], time.monotonic()
    for data, number in damaged_jpegs(files, 1):
        native._entries.clear()
        native._entries.update(kinds[number % len(kinds)])
        out, box = np.zeros((30, 34, 3), np.uint8), np.array([2, 3, 30, 27])
        where = (*rng.uniform(-3, 30, 2), *rng.uniform(0.3, 9, 2), 56, 40, int(rng.integers(1, 5)), 1.5, number % 3)
        done[native.decode_window(data, out, box, *where)] += 1
    spent = time.monotonic() - start
    print(f"{files} damaged files at levels {levels}: {done[1]} decoded, {done[0]} refused, {spent:.0f} s: no fault")


def fuzz(compiler: list[str], seconds: int) -> None:
    """Fuzz for so many seconds."""
    from tests.decode.samples import JPEG_KINDS, jpeg

    build = _module("build", NATIVE / "build.py")
    seeds = WORK / "seeds"
    shutil.rmtree(seeds, ignore_errors=True)
    seeds.mkdir(parents=True)
    wide = jpeg(16, 1000)  # one row of which, cut short, takes more bits than there are zeros behind a scan
    files = [jpeg(24, 33, number, **options) for number, options in enumerate(JPEG_KINDS.values())]
    for number, data in enumerate([*files, wide, wide[: len(wide) // 2] + b"\xff\xd9"]):
        chosen = bytes([20, 20, 2, 3, 1 + 9 * (number % 3), 110 + 9 * number, 20 * number, 36 + number])
        (seeds / f"{number}").write_bytes(chosen + data)
    own = build.LEVELS[3] if platform.machine() == "x86_64" and _has_avx2() else []
    clang = "clang" in subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    flags = [*build.FLAGS, *build.SAME, *build.SANITIZE, *own, *(["-DRESFLOW_LEVEL=3"] if own else [])]
    harness, program = ROOT / "fuzz" / "native" / "harness.c", WORK / "fuzzer"
    crash = WORK / "crash"
    crash.unlink(missing_ok=True)
    if clang:
        subprocess.run([*compiler, *flags, "-fsanitize=fuzzer", str(harness), "-lm", "-o", str(program)], check=True)
        limits = [f"-max_total_time={seconds}", "-timeout=10", "-max_len=16384", f"-exact_artifact_path={crash}"]
        subprocess.run([str(program), *limits, "-print_final_stats=1", "-verbosity=0", str(seeds)], check=True)
        return
    traced, driver = WORK / "harness.o", ROOT / "fuzz" / "native" / "driver.c"
    subprocess.run(
        [*compiler, *flags, "-fsanitize-coverage=trace-pc", "-c", str(harness), "-o", str(traced)], check=True
    )
    subprocess.run([*compiler, *flags, str(driver), str(traced), "-lm", "-o", str(program)], check=True)
    inputs = [str(seed) for seed in sorted(seeds.iterdir())]
    subprocess.run([str(program), str(seconds), str(crash), *inputs], check=True)


def _has_avx2() -> bool:
    native = _module("native", NATIVE / "__init__.py")
    native.LIBRARY = NATIVE / native.LIBRARY.name
    return bool(native.best_level() >= 3)


def main() -> None:
    """Read the arguments, and run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing")
    options = parser.parse_args()
    if os.environ.get(_PRELOADED):
        damaged(options.files)
        return
    build = _module("build", NATIVE / "build.py")
    compiler = build.find_compiler()
    if compiler is None or compiler == build.zig():
        sys.exit("needs gcc or clang with their sanitizers: apt-get install gcc")
    WORK.mkdir(parents=True, exist_ok=True)
    build.build(WORK, extra=[*build.STRICT, *build.SANITIZE])
    names = ("libclang_rt.asan-x86_64.so",) if "clang" in compiler[0] else ("libasan.so", "libubsan.so")
    paths = [
        subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]
    # Python's own leaks at its end are not looked for.
    loaded = {"LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": "detect_leaks=0", _PRELOADED: "1"}
    command = [sys.executable, "-m", "fuzz.sanitize", "--files", str(options.files)]
    subprocess.run(command, env=os.environ | loaded, cwd=ROOT, check=True)
    fuzz(compiler, options.seconds)


if __name__ == "__main__":
    main()
