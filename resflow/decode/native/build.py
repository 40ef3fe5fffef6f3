"""Compile the library: `python resflow/decode/native/build.py`, or `make native`; installing Resflow does it, too.

Needs Python alone and a C compiler: $CC, cc, gcc or clang, or else PyPI's ziglang. GCC from 12 and Clang will do.
With `--target` zig compiles for another machine, such as aarch64-linux-gnu.2.17, aarch64-macos or x86_64-windows.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-fno-math-errno"]
SAME = ["-ffp-contract=off"]
"""What makes pixels the same on all machines: nothing is fused but where the sources say so."""
STRICT = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
SANITIZE = ["-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
_AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2"]
_AVX512 = [*_AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq"))]
LEVELS = {0: [], 3: _AVX2, 4: [*_AVX512, "-mprefer-vector-width=512"]}
"""Flags by kind of processor, for x86-64; other machines have the first only."""
_TRIAL = """
typedef int v __attribute__((vector_size(16)));
v f(v a, v b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
"""


def find_compiler() -> list[str] | None:
    """The command of a C compiler that compiles what we ask of it: the system's, else zig; None where there is none."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = shlex.split(command)
        if words and shutil.which(words[0]) and _compiles(words):
            return words
    if importlib.util.find_spec("ziglang") is not None:
        return zig()
    return None


def zig() -> list[str]:
    """The command of PyPI's ziglang."""
    return [sys.executable, "-m", "ziglang", "cc"]


def _compiles(command: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.c")
        source.write_text(_TRIAL)
        words = [*command, "-shared", "-fPIC", "-O1", str(source), "-o", str(source.with_suffix(".so"))]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0


def library_name(target: str = "") -> str:
    """The library's file name, on this machine or for one of zig's targets."""
    system = target or sys.platform
    ending = ".dll" if "win32" in system or "windows" in system else ".so"
    return "resflow_native" + (".dylib" if "darwin" in system or "macos" in system else ending)


def is_current(library: Path) -> bool:
    """Whether a library is newer than all sources."""
    sources = [Path(__file__), *HERE.glob("*.[ch]")]
    return library.exists() and library.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def build(folder: Path, target: str = "", extra: list[str] | None = None) -> Path:
    """Compile the library into a folder.

    Args:
        folder: where it is put.
        target: one of zig's targets; "" is this machine.
        extra: more flags.

    Returns:
        Its path.

    Raises:
        RuntimeError: there is no compiler.
        subprocess.CalledProcessError: it failed.
    """
    command = zig() if target else find_compiler()
    if command is None:
        raise RuntimeError(
            "Resflow's decoder needs a C compiler: install gcc (from 12) or clang, or `pip install ziglang`."
        )
    print(f"resflow: compiling the decoder with {shlex.join(command)}", flush=True)
    machine = target.partition("-")[0] or platform.machine().lower()
    levels = LEVELS if machine in ("x86_64", "amd64") else {0: []}
    if command == zig():
        command = [*command, "-mcpu=baseline", *(["-target", target or _this_machine()] if _this_machine() else [])]
    flags = [*FLAGS, *SAME, *([] if "windows" in target else ["-fPIC"]), *(extra or [])]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        objects = []
        for level, own in levels.items():
            made = Path(work, f"level{level}.o")
            named = [f"-DRESFLOW_LEVEL={level}"] if level else []
            subprocess.run([*command, *flags, *own, *named, "-c", str(HERE / "all.c"), "-o", str(made)], check=True)
            objects.append(str(made))
        library = Path(work, library_name(target))
        strip = [] if extra and "-g" in extra else ["-s"] if "macos" not in target and sys.platform != "darwin" else []
        subprocess.run([*command, *(extra or []), *strip, "-shared", *objects, "-lm", "-o", str(library)], check=True)
        return library.replace(folder / library.name)  # at once: running processes keep the one they have


def _this_machine() -> str:
    """Zig's name for a Linux of this kind, with the oldest library that it may meet; "" elsewhere."""
    if sys.platform != "linux":
        return ""
    return f"{platform.machine()}-linux-{'gnu.2.17' if platform.libc_ver()[0] == 'glibc' else 'musl'}"


def main() -> None:
    """Read the arguments, and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE, help="a folder; this one, if none is named")
    parser.add_argument("--target", default="", help="of zig, for another machine")
    parser.add_argument("--strict", action="store_true", help="all warnings, as errors")
    parser.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UndefinedBehaviorSanitizer")
    parser.add_argument("--if-needed", action="store_true", help="only where sources are newer than the library")
    options = parser.parse_args()
    if options.if_needed and is_current(options.output / library_name(options.target)):
        return
    extra = [*(STRICT if options.strict else []), *(SANITIZE if options.sanitize else [])]
    build(options.output, options.target, extra)


if __name__ == "__main__":
    main()
