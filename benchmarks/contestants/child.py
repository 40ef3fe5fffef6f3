"""Starts runs in processes of their own, and watches the memory of each process tree."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from contestants.run import MARK

_LIMIT = 600.0  # seconds for one run
_FINE, _COARSE = (
    0.1,
    1.0,
)  # seconds between looks at memory: until the warm pass has ended, and after, while time counts


class Failed(Exception):
    """A contestant cannot take part; says why."""


def run(python: Path, arguments: list[str], log: Path) -> dict[str, Any]:
    """Run `contestants.run` and collect its result.

    Args:
        python: the interpreter.
        arguments: of `contestants.run`.
        log: file for what it prints to stderr.

    Returns:
        What `contestants.run.measure` returns (nothing for `prepare`), and `peak` and `peak_own`: bytes of proportional
        set size summed over the process tree at its highest, with and without pages that files back; and `start`:
        seconds from the start of the process to the first batch.

    Raises:
        Failed: it ended with an error, or took too long.
    """
    here = Path(__file__).parents[1]  # and this checkout's Resflow, whichever is installed
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # all start from cached byte code, as they usually do
    result: dict[str, Any] = {}
    started = time.time()
    command = [str(python), "-m", "contestants.run", *arguments]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        ) as process,
    ):
        memory, late = _Memory(process.pid), threading.Timer(_LIMIT, _end, [process])
        late.start()
        memory.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(MARK):
                    message = json.loads(line[len(MARK) :])
                    memory.every = _COARSE if "warm" in message else memory.every
                    result |= message
            process.wait()
        finally:
            late.cancel()
            _end(process)  # also workers that outlived it, and all where this process is told to end
            process.wait()
            memory.stop()
    if process.returncode:
        raise Failed(_reason(log) or f"ended with exit code {process.returncode} (limit {_LIMIT:.0f} s)")
    if "first_batch_at" in result:
        result["start"] = result.pop("first_batch_at") - started
    result |= {"peak": memory.peak, "peak_own": memory.peak_own}
    return result


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _reason(log: Path) -> str:
    """The last line that says anything."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    named = [line for line in lines if "Error" in line or "error:" in line or "WrongWork" in line]
    return (named or [line for line in lines if line] or [""])[-1][:500]


class _Memory(threading.Thread):
    """Looks at a process tree's memory again and again."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.every, self.peak, self.peak_own = _FINE, 0, 0
        self._process, self._done = psutil.Process(pid), threading.Event()

    def run(self) -> None:
        while not self._done.wait(self.every):
            with contextlib.suppress(psutil.Error, OSError):
                parts = [_proportional(one.pid) for one in (self._process, *self._process.children(recursive=True))]
                self.peak = max(self.peak, sum(whole for whole, _ in parts))
                self.peak_own = max(self.peak_own, sum(own for _, own in parts))

    def stop(self) -> None:
        self._done.set()
        self.join()


def _proportional(pid: int) -> tuple[int, int]:
    """Bytes of proportional set size, and of these the ones that no file backs; psutil does not tell them apart."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (ProcessLookupError, FileNotFoundError):  # it has ended
        return 0, 0
    size = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}
    return size["Pss"], size["Pss_Anon"] + size["Pss_Shmem"]
