from __future__ import annotations

import gc
import itertools
import threading
import time

import pytest

from resflow.session.prefetch import Prefetcher


def alive() -> int:
    return sum(thread.name == "resflow-prefetch" for thread in threading.enumerate())


def wait_until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_results_come_in_order_and_end(depth: int) -> None:
    assert list(Prefetcher(range(50), lambda n: n * n, depth)) == [n * n for n in range(50)]
    wait_until(lambda: alive() == 0)


def test_no_more_than_depth_results_wait() -> None:
    made: list[int] = []
    results = Prefetcher(itertools.count(), lambda n: made.append(n) or n, 3)
    wait_until(lambda: len(made) >= 4)
    time.sleep(0.3)
    assert len(made) == 4  # three wait, one is in hand
    assert next(results) == 0
    wait_until(lambda: len(made) == 5)
    results.close()
    assert alive() == 0


def test_an_error_is_raised_where_it_would_have_been_and_ends_the_thread() -> None:
    results = Prefetcher(range(5), lambda n: 1 // (2 - n), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
    assert alive() == 0


def test_an_error_of_the_requests_is_raised() -> None:
    def requests():
        yield 1
        raise OSError("gone")

    results = Prefetcher(requests(), lambda n: n, 2)
    assert next(results) == 1
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_del_and_close_end_the_thread_and_drop_what_waits() -> None:
    results = Prefetcher(itertools.count(), lambda n: bytearray(1000), 2)
    next(results)
    del results
    gc.collect()
    wait_until(lambda: alive() == 0)
    closed = Prefetcher(itertools.count(), lambda n: n, 2)
    closed.close()
    closed.close()
    assert list(closed) == []
    assert alive() == 0
