"""That each check of ranks sees the fault it is there for."""

from __future__ import annotations

import copy
import re

import pytest

from tests.ranks.checks import Step, check_in_step, check_order, check_turns, global_order

LEG: list[list[Step]] = [
    [(0, step, [4 * step + 2 * rank, 4 * step + 2 * rank + 1], [64, 48]) for step in range(3)] for rank in range(2)
]
ORDER = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def changed(rank: int, at: int, **fields: object) -> list[list[Step]]:
    leg = copy.deepcopy(LEG)
    names = ("epoch", "step", "ids", "shape")
    leg[rank][at] = tuple(fields.get(name, leg[rank][at][place]) for place, name in enumerate(names))  # type: ignore[assignment]
    return leg


def test_what_is_right_passes() -> None:
    check_in_step(LEG)
    check_order([LEG], ORDER)
    check_order([[rank[:1] for rank in LEG], [rank[1:] for rank in LEG]], ORDER)
    assert global_order([LEG]) == ORDER


@pytest.mark.parametrize(
    ("leg", "message"),
    [
        (changed(1, 1, ids=[6]), "1 samples are lost, sample 7 1 time(s); got at []"),
        (changed(1, 1, ids=[6, 7, 5]), "1 samples are repeated, sample 5 1 time(s); got at [1]"),
        (changed(1, 1, ids=[6, 6]), "1 samples are lost, sample 7"),
        (changed(1, 1, ids=[7, 6]), "batch 1 should be [4, 5, 6, 7]; got [4, 5, 7, 6]"),
        ([LEG[1], LEG[0]], "batch 0 should be [0, 1, 2, 3]; got [2, 3, 0, 1]"),
        ([[rank[0], rank[2], rank[1]] for rank in LEG], "batch 1 should be [4, 5, 6, 7]; got [8, 9, 10, 11]"),
        ([rank[:2] for rank in LEG], "4 samples are lost, sample 8"),
    ],
    ids=["lost", "repeated", "one for another", "reordered", "ranks swapped", "steps swapped", "cut short"],
)
def test_a_lost_a_repeated_and_a_reordered_sample_are_caught(leg: list[list[Step]], message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_order([leg], ORDER)


@pytest.mark.parametrize(
    ("leg", "message"),
    [
        ([LEG[0], LEG[1][:2]], "ranks have [3, 2] batches"),
        (changed(1, 2, step=1), "ranks are at [(0, 2), (0, 1)]"),
        (changed(0, 2, shape=[48, 64]), "step 2 of epoch 0: ranks have shapes [[48, 64], [64, 48]]"),
        (changed(0, 2, ids=[8, 9, 10, 11]), "step 2 of epoch 0: ranks have [4, 2] samples"),
    ],
    ids=["fewer batches", "out of step", "other shape", "uneven"],
)
def test_ranks_out_of_step_are_caught(leg: list[list[Step]], message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_in_step(leg)


def test_ranks_that_take_turns_are_held_to_the_same_samples() -> None:
    turns = copy.deepcopy(LEG)
    turns[1] = [(0, step, LEG[1][other][2], [64, 48]) for step, other in enumerate((1, 0, 2))]
    check_turns(turns, ORDER)
    for leg, message in (
        (changed(1, 1, ids=[6]), "1 samples are lost, the first is 7"),
        (changed(1, 1, ids=[6, 7, 5]), "1 samples are repeated, the first is 5"),
        (changed(1, 1, ids=[7, 6]), "rank 1 has [7, 6], which is its part of no batch: out of order"),
        ([LEG[1], LEG[0]], "rank 0 has [2, 3], which is its part of no batch: out of order"),
        ([LEG[0], LEG[1][:2]], "rank 1 is at [(0, 0), (0, 1)], rank 0 at [(0, 0), (0, 1), (0, 2)]"),
        ([LEG[0], LEG[1][::-1]], "rank 1 is at [(0, 2), (0, 1), (0, 0)]"),
    ):
        with pytest.raises(AssertionError, match=re.escape(message)):
            check_turns(leg, ORDER)
