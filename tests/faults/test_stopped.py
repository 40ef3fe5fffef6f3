"""Workers that stand still (SIGSTOP): the loader's timeout holds, and they end with their pass."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.worker_faults import COUNT, Belongings, Faulty
from resflow.errors import ConfigError, WorkerError
from tests.faults.loaders import make_loader


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_stopped_worker_is_an_error_once_the_timeout_is_over(tmp_path: Path, stopped: int) -> None:
    list(make_loader(Faulty(tmp_path, "handing over"), timeout=0))
    gc.collect()
    before = Belongings()
    loader = make_loader(Faulty(tmp_path, "handing over"), timeout=1)
    batches = iter(loader)
    seen = next(batches).sample_ids.tolist()
    workers = [process.pid for process in before.new_children()]
    for worker in workers[:stopped]:
        os.kill(worker, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        seen.extend(number for batch in batches for number in batch.sample_ids.tolist())
    assert time.monotonic() - start < 5
    pids = ", ".join(str(worker) for worker in workers[:stopped])
    assert str(caught.value) == (
        f"DataLoader workers gave nothing for 1 s, the loader's timeout; pid {pids} stood still (SIGSTOP). They were "
        "ended, and the rest of this pass is lost with them; the next pass starts new workers, and "
        "load_state_dict(state_dict()) goes on from the last batch. If a batch takes so long, raise timeout."
    )
    del batches, caught
    assert not before.more()
    loader.load_state_dict(loader.state_dict())
    assert sorted(seen + [number for batch in loader for number in batch.sample_ids.tolist()]) == list(range(COUNT))


def test_a_slow_worker_is_not_said_to_be_stopped(tmp_path: Path) -> None:
    loader = make_loader(Sleeping(tmp_path, "reading"), timeout=1)
    with pytest.raises(WorkerError, match=r"gave nothing for 1 s, the loader's timeout\. They were ended"):
        list(loader)


class Sleeping(Faulty):
    def __getitem__(self, number: int) -> tuple[object, object]:
        time.sleep(30)
        return super().__getitem__(number)


def test_without_a_timeout_a_stopped_worker_goes_on_when_it_may(tmp_path: Path) -> None:
    before = Belongings()
    batches = iter(make_loader(Faulty(tmp_path, "reading"), timeout=0))
    seen = next(batches).sample_ids.tolist()
    victim = before.new_children()[0].pid
    os.kill(victim, signal.SIGSTOP)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(victim, signal.SIGCONT))
    signal.setitimer(signal.ITIMER_REAL, 1)
    for batch in batches:
        seen += batch.sample_ids.tolist()
    assert sorted(seen) == list(range(COUNT))


def test_a_pass_that_is_given_up_ends_stopped_workers_at_once(tmp_path: Path) -> None:
    list(make_loader(Faulty(tmp_path, "reading"), timeout=0))
    gc.collect()
    before = Belongings()
    batches = iter(make_loader(Faulty(tmp_path, "reading"), timeout=0))
    next(batches)
    for worker in before.new_children():
        os.kill(worker.pid, signal.SIGSTOP)
    start = time.monotonic()
    del batches
    assert time.monotonic() - start < 3
    assert not before.more()


def test_what_cannot_be_sent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a batch cannot be sent from its worker process: .*pickle.*num_workers=0"):
        list(make_loader(Unsendable(tmp_path, "reading"), timeout=0))


class Unsendable(Faulty):
    def __getitem__(self, number: int) -> tuple[object, object]:
        return super().__getitem__(number)[0], lambda: number
