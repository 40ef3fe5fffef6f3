"""Fuzz a target: `python -m fuzz.run NAME --seconds 300`, by atheris; with `--engine afl` under AFL++.

An exception that is not a ResflowError is a fault. Each new one (by type and place) is printed, its input is kept, and
the run goes on; a time-out (10 s) or a crash of the process ends it, and libFuzzer or AFL++ keeps the input.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import traceback
from pathlib import Path

HOME = Path(__file__).parent / "work"
_TIMEOUT = 10


class Counter:
    """Counts runs and faults of a target, and writes them down every second.

    Args:
        name: of the target.
        folder: for inputs that brought faults, and `stats.json`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from fuzz.targets import open_target

        files = folder / "files"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir(parents=True)
        self.target = open_target(name, files)
        self._name, self._folder = name, folder
        self._execs, self._faults = 0, dict[str, int]()
        self._start = self._written = time.monotonic()

    def __call__(self, data: bytes) -> None:
        """Run the target on an input."""
        self._execs += 1
        try:
            self.target.run(data)
        except Exception as error:  # noqa: BLE001 (this is what is looked for)
            self._note(error, data)
        now = time.monotonic()
        if now - self._written > 1:
            self._written = now
            stats = {"target": self._name, "seconds": round(now - self._start, 1), "execs": self._execs}
            (self._folder / "stats.json").write_text(json.dumps(stats | {"faults": self._faults}))

    def _note(self, error: Exception, data: bytes) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "resflow/" in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        fault = f"{type(error).__name__} at {place}"
        if fault not in self._faults:
            (self._folder / f"fault-{len(self._faults)}.bin").write_bytes(data)
            print(f"fault: {fault}: {str(error)[:200]}", file=sys.stderr, flush=True)
        self._faults[fault] = self._faults.get(fault, 0) + 1


def main() -> None:
    """Read the arguments, and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--report", action="store_true", help="tell of the last runs; fails where there were faults")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--engine", choices=("atheris", "afl"), default="atheris")
    options = parser.parse_args()
    if options.list:
        from fuzz.targets import NAMES

        print(*NAMES)
        return
    if options.report:
        sys.exit(report())
    if options.name is None:
        parser.error("name a target; --list tells which there are")
    folder = HOME / options.name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (atheris_run if options.engine == "atheris" else afl_run)(options.name, folder, corpus, options.seconds)


def report() -> int:
    """Print runs and faults of each target; how many faults there were."""
    faults = 0
    for path in sorted(HOME.glob("*/stats.json")):
        stats = json.loads(path.read_text())
        faults += len(stats["faults"])
        found = stats["faults"] or "none"
        print(f"{stats['target']:10} {stats['execs']:10,} runs in {stats['seconds']:.0f} s, faults: {found}")
    return min(faults, 1)


def atheris_run(name: str, folder: Path, corpus: Path, seconds: int) -> None:
    """Fuzz in this process, for so many seconds."""
    import atheris

    with atheris.instrument_imports(include=["resflow"]):
        from fuzz.targets import MAX_BYTES, quiet

        counter = Counter(name, folder)
    quiet()
    _write_seeds(counter, corpus)
    flags = [f"-max_total_time={seconds}", f"-timeout={_TIMEOUT}", "-rss_limit_mb=4096", f"-max_len={MAX_BYTES}"]
    atheris.Setup([name, *flags, f"-artifact_prefix={folder}/", "-print_final_stats=1", str(corpus)], counter)
    atheris.Fuzz()


def afl_run(name: str, folder: Path, corpus: Path, _: int) -> None:
    """Started by `py-afl-fuzz -i CORPUS -o OUT -- python -m fuzz.run NAME --engine afl`; reads standard input."""
    import os

    import afl

    from fuzz.targets import quiet

    counter = Counter(name, folder)
    quiet()
    _write_seeds(counter, corpus)
    while afl.loop(1000):
        counter.target.run(sys.stdin.buffer.read())  # an exception is a crash
        sys.stdin.seek(0)
    os._exit(0)


def _write_seeds(counter: Counter, corpus: Path) -> None:
    for number, seed in enumerate(counter.target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)


if __name__ == "__main__":
    main()
