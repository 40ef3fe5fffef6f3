"""Kill worker processes in each phase of their work: `python benchmarks/worker_faults.py [--kills 50]`.

A row of the table is a phase and a start method: how many kills (SIGKILL), how many raised a WorkerError that names
pid and signal at the next step of the loop, the longest time from kill to error, what was left behind (processes, file
descriptors, entries of /dev/shm), and how many times the rest of the epoch after `load_state_dict(state_dict())` or the
whole epoch after it was not exactly the samples due.

The phases:

- starting: just after `iter` has started the processes.
- idle: waiting for a request, while the loop waits for another worker.
- reading: inside the dataset.
- decoding: inside the engine.
- handing over: from decoding to the end of a result of several MB, in shared memory and in the pipe.
- loop body: while the program does something else for 0.3 s; the error waits for the next step of the loop.
- between epochs: persistent workers that wait for the next epoch; it starts new ones, and nothing is raised.
- thread: reading, with the loop in another than the main thread.

The last rows kill the program itself and measure when its workers have ended.
"""

from __future__ import annotations

import argparse
import functools
import gc
import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

import resflow as rf
from resflow.errors import WorkerError

COUNT, BATCH = 24, 4
PHASES = ("starting", "idle", "reading", "decoding", "handing over", "loop body", "between epochs", "thread")
_SIDE = {"decoding": 1600, "handing over": 96}
_TARGET_BYTES = 300_000


class Faulty(Dataset[Any]):
    """Images whose reading says where it is, and dawdles while a file `armed` lies in its folder."""

    def __init__(self, folder: Path, phase: str) -> None:
        self.folder, self.phase = folder, phase
        side = _SIDE.get(phase, 32)
        self.pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "JPEG")
        self.encoded = buffer.getvalue()

    def __len__(self) -> int:
        return COUNT

    def get_height_and_width(self, number: int) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def __getitem__(self, number: int) -> tuple[object, object]:
        if (self.folder / "armed").exists():
            self._dawdle()
        if self.phase == "handing over":
            return self.pixels, np.full(_TARGET_BYTES, number % 251, np.uint8).tobytes()
        return self.encoded, number

    def _dawdle(self) -> None:
        worker = get_worker_info()
        if self.phase == "idle" and worker is not None and worker.id:
            time.sleep(1)
            return
        (self.folder / f"at-{os.getpid()}").touch()
        if self.phase in ("reading", "thread"):
            time.sleep(0.1)


@dataclass
class Row:
    """What came of the kills of one phase with one start method."""

    phase: str
    method: str
    kills: int = 0
    typed: int = 0
    worst: float = 0.0
    left: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    late: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def sound(self) -> bool:
        """Whether every kill came as it should and nothing was left."""
        typed = 0 if self.phase == "between epochs" else self.kills
        return self.typed == typed and self.worst < 5 and not (self.left or self.wrong or self.notes)

    def __str__(self) -> str:
        left = ", ".join(f"{count} {what}" for what, count in self.left.items()) or "nothing"
        notes = "; ".join(f"{count}x {note}" for note, count in self.notes.items())
        return (
            f"{self.phase:15} {self.method:11} {self.kills:6} {self.typed:11} {self.worst:8.2f}   "
            f"{left:24} {self.wrong:6}  {notes}"
        )


HEADER = f"{'phase':15} {'method':11} {'kills':>6} {'WorkerError':>11} {'worst s':>8}   {'left':24} {'wrong':>6}"


def make_loader(dataset: Dataset[Any], method: str, *, persistent: bool, shuffle: bool = True) -> rf.DataLoader[Any]:
    """A loader with two workers over the faulty dataset."""
    resolution = {"decoding": 512, "handing over": 768}.get(getattr(dataset, "phase", ""), 32)
    return rf.DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=shuffle,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context=method,
        pipeline=rf.Pipeline(resolution=resolution, buckets=1, stride=8),
    )


def kill_in(phase: str, method: str, kills: int, *, persistent: bool = True) -> Row:
    """Kill a worker so many times in one phase.

    Args:
        phase: one of PHASES.
        method: start method of the workers.
        kills: how many times.
        persistent: whether workers persist over epochs.
    """
    row = Row(phase, method)
    with tempfile.TemporaryDirectory() as folder:
        dataset = Faulty(Path(folder), phase)
        for _ in make_loader(dataset, method, persistent=False):  # starts what the start method keeps for itself
            pass
        gc.collect()
        before = Belongings()
        loader = make_loader(dataset, method, persistent=persistent)
        while row.kills < kills and row.late <= kills:
            _one(loader, dataset, before, row)
        del loader
        gc.collect()
    return row


def _one(loader: rf.DataLoader[Any], dataset: Faulty, before: Belongings, row: Row) -> None:
    phase, seen = row.phase, list[int]()
    epoch = loader.epoch
    if phase in ("loop body", "between epochs"):
        killer, error, raised = _outside(loader, before, seen, between=phase == "between epochs")
    else:
        killer = _Killer(dataset, before)
        run = functools.partial(_pass, loader, killer, seen)
        error, raised = _in_thread(run) if phase == "thread" else run()
        killer.join()
        if error is None and sorted(seen) == list(range(COUNT)):  # it came after the last result: nothing was missing
            row.late += 1
            return
    row.kills += 1
    row.worst = max(row.worst, raised - killer.time)
    where = _where(error)
    error = error and error.with_traceback(None)
    named = str(killer.pid) in str(error) and ("SIGKILL" in str(error) or "Killed" in str(error))
    if isinstance(error, WorkerError) and named:
        row.typed += 1
    elif error is not None or phase != "between epochs":
        row.notes[f"{type(error).__name__}: {str(error)[:80]} {where}"] += 1
    del error, killer
    row.left += before.more()
    if phase == "between epochs":
        seen.clear()
        epoch += 1
    else:
        state = loader.state_dict()
        loader.load_state_dict(state)
    rest = [number for batch in loader for number in batch.sample_ids.tolist()]
    row.wrong += sorted(seen + rest) != list(range(COUNT)) or loader.epoch != epoch + 1
    whole = [number for batch in loader for number in batch.sample_ids.tolist()]
    row.wrong += sorted(whole) != list(range(COUNT))


def _pass(loader: rf.DataLoader[Any], killer: _Killer, seen: list[int]) -> tuple[Exception | None, float]:
    killer.arm()
    batches = iter(loader)
    killer.started.set()
    try:
        for batch in batches:
            seen += batch.sample_ids.tolist()
    except (WorkerError, RuntimeError, OSError, EOFError) as error:
        return error, time.monotonic()
    return None, time.monotonic()


def _where(error: Exception | None) -> str:
    """The innermost line of ours that an error passed."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)] if error is not None else []
    ours = [frame for frame in frames if "/site-packages/" not in frame.f_code.co_filename]
    return f"{ours[-1].f_code.co_qualname}" if ours else ""


def _in_thread(run: Callable[[], Any]) -> Any:
    """Run it in another thread, as wrappers that prefetch do."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run()))
    thread.start()
    thread.join()
    return results[0]


def _outside(
    loader: rf.DataLoader[Any], before: Belongings, seen: list[int], *, between: bool
) -> tuple[_Killer, Exception | None, float]:
    """Kill while the program does something else; with `between` there is no loop to raise it."""
    batches = iter(loader)
    for batch in batches:
        seen += batch.sample_ids.tolist()
        if not between:
            break
    time.sleep(0.1)
    killer = _Killer(None, before)
    try:
        killer.start()
        while killer.is_alive() or time.monotonic() < killer.time + 0.3:
            time.sleep(0.01)
        for batch in () if between else batches:
            seen += batch.sample_ids.tolist()
    except RuntimeError as error:
        return killer, error, time.monotonic()
    return killer, None, killer.time


class _Killer(threading.Thread):
    """Kills a worker once it has reached its phase."""

    def __init__(self, dataset: Faulty | None, before: Belongings) -> None:
        super().__init__(daemon=True)
        self.dataset, self.before = dataset, before
        self.started = threading.Event()
        self.pid, self.time = 0, float("inf")

    def arm(self) -> None:
        """Have the dataset dawdle, and wait for it."""
        assert self.dataset is not None
        if self.dataset.phase != "starting":
            (self.dataset.folder / "armed").touch()
        self.start()

    def run(self) -> None:
        self.pid = self._victim()
        self.time = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)
        if self.dataset is not None:
            for path in self.dataset.folder.iterdir():
                path.unlink()

    def _victim(self) -> int:
        dataset = self.dataset
        if dataset is None:
            return random.choice(self.before.new_children()).pid
        if dataset.phase == "starting":
            self.started.wait()
            return random.choice(self.before.new_children()).pid
        while not (marks := list(dataset.folder.glob("at-*"))):
            time.sleep(0.002)
        time.sleep({"idle": 0.3, "decoding": random.uniform(0, 0.08)}.get(dataset.phase, random.uniform(0, 0.06)))
        return int(random.choice(marks).name.removeprefix("at-"))


class Belongings:
    """What this process has: children, file descriptors, shared memory."""

    def __init__(self) -> None:
        self._children = {child.pid for child in psutil.Process().children(recursive=True)}
        self._files = _open_files()
        self._shared = set(_shared_memory())

    def new_children(self) -> list[psutil.Process]:
        """Children that were not there before, zombies among them."""
        return [child for child in psutil.Process().children(recursive=True) if child.pid not in self._children]

    def more(self, wait: float = 2) -> Counter[str]:
        """What is there that was not, once all that is under way has had `wait` seconds to end."""
        deadline = time.monotonic() + wait
        while True:
            gc.collect()
            left = Counter(
                processes=len(self.new_children()),
                descriptors=max(0, _open_files() - self._files),
                shared=len(set(_shared_memory()) - self._shared),
            )
            if not +left or time.monotonic() > deadline:
                return +left
            time.sleep(0.02)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _shared_memory() -> Iterator[str]:
    return (path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("torch_"))


_PARENT = """
import sys, time
from pathlib import Path
import psutil
from benchmarks.worker_faults import Faulty, Stuck, make_loader
if __name__ == "__main__":
    loader = make_loader(Stuck(Path(sys.argv[1]), sys.argv[3]), sys.argv[2], persistent=True)
    batches = iter(loader)
    next(batches)
"""


class Stuck(Faulty):
    """Workers that say they are there, and are then busy for a minute."""

    def __getitem__(self, number: int) -> tuple[object, object]:
        (self.folder / f"at-{os.getpid()}").touch()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.phase == "decoding":
                Image.open(io.BytesIO(self.encoded)).resize((8000, 8000), Image.Resampling.LANCZOS)
            else:
                time.sleep(60)
        return self.encoded, number


def kill_parent(phase: str, method: str, kills: int) -> Row:
    """Kill the program so many times while its workers are inside a long call.

    Args:
        phase: "reading" (they sleep) or "decoding" (they resize).
        method: start method of the workers.
        kills: how many times.
    """
    row = Row(f"parent, {phase}", method)
    shared = set(_shared_memory())
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "program.py")
            script.write_text(_PARENT)
            root = Path(__file__).parents[1]
            command = [sys.executable, str(script), folder, method, phase]
            path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
            program = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL)
            while len(list(Path(folder).glob("at-*"))) < 2 and program.poll() is None:
                time.sleep(0.01)
            processes = psutil.Process(program.pid).children(recursive=True)
            time.sleep(random.uniform(0, 0.2))
            start = time.monotonic()
            program.kill()
            program.wait()
            _, alive = psutil.wait_procs(processes, timeout=10)
            row.worst = max(row.worst, time.monotonic() - start)
            row.kills += 1
            row.typed += len(processes) >= 2
            row.left += +Counter(processes=len(alive), shared=len(set(_shared_memory()) - shared))
            for process in alive:
                process.kill()
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--methods", nargs="+", default=["fork", "forkserver", "spawn"])
    parser.add_argument("--phases", nargs="+", default=[*PHASES, "parent"])
    arguments = parser.parse_args()
    multiprocessing.set_forkserver_preload(["resflow", "resflow.decode.turbo"])
    print(HEADER, flush=True)
    rows = []
    for method in arguments.methods:
        for phase in arguments.phases:
            if phase == "parent":
                rows += [kill_parent(part, method, arguments.kills) for part in ("reading", "decoding")]
                print(*rows[-2:], sep="\n", flush=True)
            else:
                rows.append(kill_in(phase, method, arguments.kills))
                print(rows[-1], flush=True)
    faults = [row for row in rows if not row.phase.startswith("parent") and not row.sound()]
    raise SystemExit(f"{len(faults)} rows are not as they should be" if faults else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks import worker_faults  # by the name under which workers find it

    worker_faults.main()
