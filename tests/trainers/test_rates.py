"""The learning rate at each step is that of the same script with PyTorch's loader, whatever the number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainers.common import COUNT, make_data
from tests.trainers.ranks import in_ranks

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'resflow[trainers]'")
pytest.importorskip("transformers", reason="transformers is not installed: pip install 'resflow[trainers]'")

JOBS = [("cv_example", 1), ("diffusers", 4), ("accumulating", 2)]
JOBS += [("prepared_first", 2), ("split_batches", 2), ("trainer", 2)]
REST = [
    (habit, size)
    for habit in ("cv_example", "diffusers", "accumulating", "prepared_first", "split_batches", "trainer")
    for size in (1, 2, 4)
    if (habit, size) not in JOBS
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_data(root)
    return root


@pytest.fixture(scope="module")
def seen(data: Path) -> dict[str, list[Any]]:
    return in_ranks("tests.trainers.rates", [*JOBS, ("unprepared", 2), ("gathered", 2)], data)


def assert_same_rates(ranks: list[Any]) -> None:
    for rank in ranks:
        rates, *told = rank["torch"]
        assert len(set(rates)) > 1  # a schedule that stands still tells nothing
        for kind, ours in rank.items():
            assert ours[0] == pytest.approx(rates), kind
            assert ours[1:] == told, kind


@pytest.mark.parametrize(("habit", "size"), JOBS)
def test_rates_are_those_of_pytorchs_loader(seen: dict[str, list[Any]], habit: str, size: int) -> None:
    assert_same_rates(seen[f"{habit}/{size}"])


@pytest.mark.slow
def test_rates_of_all_habits_on_all_numbers_of_ranks(data: Path) -> None:
    for ranks in in_ranks("tests.trainers.rates", REST, data).values():
        assert_same_rates(ranks)


def test_a_loader_that_is_not_prepared_is_whole_in_each_process(seen: dict[str, list[Any]]) -> None:
    for rank in seen["unprepared/2"]:
        assert rank["resflow"] == rank["torch"] == [8, 8, COUNT, 2]


def test_metrics_are_gathered_without_a_word_about_even(seen: dict[str, list[Any]]) -> None:
    for rank in seen["gathered/2"]:
        assert rank["resflow"] == rank["torch"] == [4, COUNT]
