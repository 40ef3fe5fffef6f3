"""The order between a prefetch thread's stream and the loop's, told by stand-ins for CUDA's streams."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from resflow.session.prefetch import OnStream, Prefetcher, prefetched

LOG: list[tuple[str, ...]] = []


class Stream:
    def __init__(self, name: str) -> None:
        self.name = name

    def record_event(self) -> str:
        LOG.append(("record", self.name))
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        LOG.append(("wait", self.name, event))


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    LOG.clear()
    current = threading.local()

    @contextlib.contextmanager
    def within(stream: Stream) -> Iterator[None]:
        current.stream = stream
        yield
        del current.stream

    def copied(tensor: torch.Tensor, *_args: Any, **options: Any) -> torch.Tensor:
        LOG.append(("copy", current.stream.name, str(options["non_blocking"])))
        return tensor

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: Stream("ahead"))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: getattr(current, "stream", Stream("loop")))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "to", copied)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _tensor, stream: LOG.append(("used on", stream.name)))


def test_the_loops_stream_waits_for_the_threads_and_memory_is_kept_for_it() -> None:
    results = OnStream(range(2), lambda n: {"n": torch.tensor(n)}, 1, torch.device("cuda"))
    assert [int(result["n"]) for result in results] == [0, 1]
    expected = [("copy", "ahead", "True"), ("record", "ahead"), ("wait", "loop", "event of ahead"), ("used on", "loop")]
    assert sorted(LOG) == sorted(expected * 2)
    for name, after in itertools.pairwise(expected):
        assert LOG.index(name) < LOG.index(after)


def test_errors_come_through_and_close_ends_the_thread() -> None:
    results = OnStream(range(3), lambda n: 1 // (1 - n), 1, torch.device("cuda"))
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    results.close()
    results.close()


def test_there_are_no_streams_on_the_cpu() -> None:
    assert isinstance(prefetched([1], str, 1, torch.device("cpu")), Prefetcher)
    assert isinstance(prefetched([1], str, 1, torch.device("cuda")), OnStream)


def test_a_thread_that_reads_runs_beside_one_that_decodes() -> None:
    both = threading.Barrier(2, timeout=5)  # passes only if batch 1 is read while batch 0 is decoded

    def read(n: int) -> int:
        if n == 1:
            both.wait()
        return n

    def decode(n: int) -> int:
        if n == 0:
            both.wait()
        return n

    assert list(prefetched(Prefetcher(range(4), read, 1), decode, 1, torch.device("cpu"))) == [0, 1, 2, 3]
