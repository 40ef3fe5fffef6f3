"""A little of `make fuzz` each time: seeded mutations of every target's seeds bring ResflowErrors and nothing else."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.mutate import mutations
from fuzz.targets import MAX_BYTES, NAMES, open_target, quiet
from resflow.sources import tar

COUNTS = {"header": 1000, "cursor": 1000, "tar": 300, "coco": 60, "voc": 60, "yolo": 20, "jpeg": 150, "index": 200}


@pytest.fixture
def loud() -> Iterator[None]:
    """Afterwards the log is as loud as before, for other tests."""
    log = logging.getLogger("resflow")
    level = log.level
    yield
    log.setLevel(level)


@pytest.mark.usefixtures("loud")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_mutated_input_brings_nothing_but_typed_errors(name: str, tmp_path: Path) -> None:
    quiet()
    target = open_target(name, tmp_path)
    for seed in target.seeds:
        target.run(seed)
    for data in mutations(target.seeds, COUNTS.get(name, 200), seed=len(name), most=MAX_BYTES):
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}; input {data[:200]!r}") from error


def test_mutations_are_the_same_each_time() -> None:
    seeds = [bytes(range(200)), b"text"]
    assert mutations(seeds, 50, 7) == mutations(seeds, 50, 7) != mutations(seeds, 50, 8)
    assert len(set(mutations(seeds, 50, 7))) > 40


@pytest.mark.parametrize("fault", [IndexError, struct.error, AssertionError])
def test_a_planted_fault_is_found(fault: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> int:
        raise fault("planted")

    monkeypatch.setattr(tar, "_number", broken)
    target = open_target("tar", tmp_path)
    with pytest.raises(fault, match="planted"):
        target.run(mutations(target.seeds, 1, seed=1)[0])
