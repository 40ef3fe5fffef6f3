"""Which errors make a sample bad, and how bad samples are found and counted."""

from __future__ import annotations

import errno
import struct
import zlib

import pytest
import torch
from PIL.Image import DecompressionBombError

from resflow import errors
from resflow.batch import Batch
from resflow.errors import DecodeError, SampleError, ShardError, SkipBudgetError, TargetError
from resflow.session.skip import Faults, SkipReport, is_of_sample, make_sound, skipped
from resflow.skip import Skip, Skipped

BAD = {"ShardError", "SampleError", "HeaderError", "DecodeError", "TargetError", "TransformError"}


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_each_error_of_resflow_is_judged(kind: type[Exception]) -> None:
    arguments = {"shard": "a.tar"} if issubclass(kind, ShardError) else {}
    assert is_of_sample(kind("wrong", **arguments)) == (kind.__name__ in BAD)


@pytest.mark.parametrize(
    "error",
    [
        OSError("x"),
        ValueError("x"),
        EOFError(),
        SyntaxError("x"),
        struct.error(),
        zlib.error(),
        DecompressionBombError(),
    ],
)
def test_what_damaged_files_raise_makes_a_sample_bad(error: Exception) -> None:
    assert is_of_sample(error)


@pytest.mark.parametrize(
    "cause",
    [
        *(OSError(number, "x") for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)),
        ConnectionRefusedError(),
        TimeoutError(),
        MemoryError(),
    ],
    ids=repr,
)
def test_what_machine_and_network_lack_is_no_samples_fault_however_it_is_wrapped(cause: Exception) -> None:
    assert not is_of_sample(cause)
    for wrapped in (ShardError("cannot be opened", shard="a.tar"), DecodeError("cannot"), ValueError("wrapped")):
        assert is_of_sample(wrapped)
        wrapped.__cause__ = OSError("between")
        wrapped.__cause__.__cause__ = cause
        assert not is_of_sample(wrapped)


def batch_of(places: list[int]) -> Batch:
    nothing = torch.zeros(len(places), 0)
    return Batch(
        torch.zeros(len(places), 3, 1, 1), None, nothing, nothing, nothing, nothing, tuple(map(str, places)), 1
    )


def test_a_failing_batch_is_tried_one_by_one_and_then_made_once() -> None:
    calls = []

    def make(places: list[int]) -> Batch:
        calls.append(places)
        if 3 in places:
            raise DecodeError("bad", position=places.index(3))
        return batch_of(places)

    faults: Faults = {1: OSError("gone")}
    assert make_sound(make, 5, faults, skips=True).keys == ("0", "2", "4")
    assert sorted(faults) == [1, 3]
    assert calls == [[0, 2, 3, 4], [0], [2], [3], [4], [0, 2, 4]]


@pytest.mark.parametrize("skips", [False, True])
def test_what_is_wrong_with_the_batch_alone_is_raised_with_its_place(skips: bool) -> None:
    def make(places: list[int]) -> Batch:
        if len(places) > 1:
            raise TargetError("of two kinds", position=1)
        return batch_of(places)

    with pytest.raises(SampleError, match="of two kinds") as caught:
        make_sound(make, 4, {0: OSError("gone"), 2: OSError("gone")}, skips=skips)
    assert caught.value.position == 3


def test_a_reason_is_short_and_the_same_in_every_batch() -> None:
    error = DecodeError("turbo cannot decode image 0 of the batch: " + "x" * 1000, position=0, key="k", shard="s")
    record = skipped(error, "k", "s", 0, 1, 2, 512)
    assert record.reason.startswith("DecodeError: turbo cannot decode the image: xxx")
    assert len(record.reason) == 500
    assert record.offset == 512
    assert skipped(ShardError("torn", shard="s", offset=7), "k", "s", 0, 1, 2, 512).offset == 7


def test_the_report_forgets_what_was_not_handed_out_and_counts_on() -> None:
    def records(count: int) -> list[Skipped]:
        return [Skipped(str(number), "s", "r", 0, 0, number) for number in range(count)]

    report = SkipReport(Skip(0.5, grace=2))
    report.begin(resumes=False)
    report.take(records(2), samples=2)
    with pytest.raises(SkipBudgetError, match="3 bad samples in epoch 0"):
        report.take(records(1), samples=4)
    assert len(report.records) == 3
    assert len(report.state()["skipped"]["records"]) == 2
    other = SkipReport(Skip(0.5, grace=2))
    other.restore(report.state())
    other.begin(resumes=True)
    other.take(records(1), samples=6)
    assert len(other.records) == 3
    other.begin(resumes=False)
    assert other.records == []
    assert other.state() == {}
