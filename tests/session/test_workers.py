"""Deaths of workers and of their parent. `make test-slow` kills 50 times in each phase."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch.utils.data

import resflow as rf
from benchmarks.worker_faults import BATCH, COUNT, HEADER, PHASES, Belongings, Faulty, kill_in, kill_parent, make_loader
from resflow.errors import WorkerError

multiprocessing.set_forkserver_preload(["resflow", "resflow.decode.turbo"])


@pytest.mark.parametrize("phase", ["starting", "decoding", "handing over", "loop body", "between epochs"])
def test_a_killed_worker_is_an_error_at_the_next_step_and_leaves_nothing(phase: str) -> None:
    row = kill_in(phase, "fork", 2)
    assert row.sound(), f"\n{HEADER}\n{row}"


def test_so_it_is_where_workers_are_no_children_of_the_loop() -> None:
    row = kill_in("handing over", "forkserver", 1)
    assert row.sound(), f"\n{HEADER}\n{row}"


def test_so_it_is_where_workers_do_not_persist() -> None:
    row = kill_in("reading", "fork", 2, persistent=False)
    assert row.sound(), f"\n{HEADER}\n{row}"


def test_workers_end_with_their_parent() -> None:
    row = kill_parent("decoding", "fork", 1)  # waits for their ends, however busy the machine is
    assert row.kills == row.typed == 1
    assert not row.left


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("phase", PHASES)
def test_fifty_killed_workers(phase: str, method: str) -> None:
    row = kill_in(phase, method, 50)
    assert row.sound(), f"\n{HEADER}\n{row}"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("phase", ["reading", "decoding"])
def test_fifty_killed_parents(phase: str, method: str) -> None:
    row = kill_parent(phase, method, 50)
    assert row.kills == row.typed == 50
    assert not row.left
    assert row.worst < 5


def test_the_error_says_what_to_do_and_stays(tmp_path: Path) -> None:
    before = psutil.Process().children()  # such as what tracks shared memory
    batches = iter(make_loader(Faulty(tmp_path, "reading"), "fork", persistent=False))
    next(batches)
    victim = next(child for child in psutil.Process().children() if child not in before).pid
    os.kill(victim, signal.SIGKILL)
    _wait_for_the_end_of(victim)
    with pytest.raises(WorkerError) as caught:
        list(batches)  # a batch or two may have been made before
    assert str(caught.value) == (
        f"DataLoader worker (pid {victim}) was killed by signal 9 (SIGKILL). The rest of this pass is lost with it; "
        "the next pass starts new workers, and load_state_dict(state_dict()) goes on from the last batch. If memory "
        "ran out, lower num_workers, prefetch_factor or batch_size."
    )
    with pytest.raises(WorkerError):
        next(batches)


def _wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")


def test_a_worker_that_exits_is_named_with_its_code(tmp_path: Path) -> None:
    loader = make_loader(Leaving(tmp_path, "reading"), "fork", persistent=False)
    with pytest.raises(WorkerError, match=r"DataLoader worker \(pid \d+\) ended unasked, with exit code 3\."):
        list(loader)


class Leaving(Faulty):
    def __getitem__(self, number: int) -> tuple[object, object]:
        os._exit(3)


def test_a_stream_says_so_too(tmp_path: Path) -> None:
    loader = make_loader(Stream(tmp_path), "fork", persistent=False, shuffle=False)
    before = Belongings()
    batches = iter(loader)
    next(batches)
    victim = before.new_children()[0].pid
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerError, match=rf"pid {victim}\) was killed by signal 9"):
        list(batches)
    del batches
    assert not before.more()
    assert len([number for batch in loader for number in batch.targets.tolist()]) == 2 * COUNT


class Stream(torch.utils.data.IterableDataset):
    """Each worker gives all samples, with a target of its own."""

    def __init__(self, folder: Path) -> None:
        self.samples = Faulty(folder, "reading")

    def __iter__(self) -> Iterator[tuple[object, object]]:
        worker = torch.utils.data.get_worker_info().id
        return iter([(self.samples[number][0], number + worker * COUNT) for number in range(COUNT)])


def test_the_checker_sees_what_is_left(tmp_path: Path) -> None:
    before = Belongings()
    batches = iter(make_loader(Faulty(tmp_path, "reading"), "fork", persistent=False))
    next(batches)
    left = before.more(wait=0)
    assert left["processes"] == 2
    assert left["descriptors"] >= 2
    del batches
    assert not before.more()


# Without a pipeline it is PyTorch that notices


def test_without_a_pipeline_nothing_stands_between_pytorchs_workers_and_the_loop() -> None:
    loader = rf.DataLoader(Numbers(), batch_size=BATCH, num_workers=1, multiprocessing_context="fork")
    batches = iter(loader)
    assert isinstance(batches, torch.utils.data.dataloader._MultiProcessingDataLoaderIter)
    assert batches._worker_pids_set
    assert loader.worker_init_fn is None
    assert torch.cat(list(batches)).tolist() == list(range(10))


class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int) -> int:
        return number
