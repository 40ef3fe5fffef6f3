"""The targets of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from resflow.errors import TargetError
from resflow.sources import NO_TARGET, Sample, collate_targets, emptied


def samples(targets: list[Any]) -> list[Sample]:
    return [Sample(f"k{i}", "Set", memoryview(b""), {}, target) for i, target in enumerate(targets)]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return type(other) is type(one) and one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


BOXES = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(2, 2))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([3, 1, -2], torch.tensor([3, 1, -2])),
        ([3], torch.tensor([3])),
        ([0.5, 2.0], torch.tensor([0.5, 2.0], dtype=torch.float64)),
        ([True, False], torch.tensor([True, False])),
        ([np.int32(3), np.int32(4)], torch.tensor([3, 4], dtype=torch.int32)),
        ([3, np.int32(4)], torch.tensor([3, 4])),
        ([0.5, np.float32(0.25)], torch.tensor([0.5, 0.25], dtype=torch.float64)),
        ([np.array([1, 2]), np.array([3, 4])], torch.tensor([[1, 2], [3, 4]])),
        ([torch.tensor(1), torch.tensor(2)], torch.tensor([1, 2])),
        ([torch.ones(2, 2), torch.zeros(2, 2)], torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])),
        ([(1, 0.5), (2, 1.5)], (torch.tensor([1, 2]), torch.tensor([0.5, 1.5], dtype=torch.float64))),
        ([(1, ("a", 2)), (3, ("b", 4))], (torch.tensor([1, 3]), (["a", "b"], torch.tensor([2, 4])))),
        (["a", "b"], ["a", "b"]),
        ([None, None], [None, None]),
        ([{"boxes": 1}, {"labels": 2}], [{"boxes": 1}, {"labels": 2}]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ([[], [{"id": 3}]], [[], [{"id": 3}]]),
        ([(1,), (1, 2)], [(1,), (1, 2)]),
        ([NO_TARGET, NO_TARGET], None),
        ([], None),
    ],
)
def test_targets_become(targets: list[Any], expected: Any) -> None:
    assert equal(collate_targets(samples(targets)), expected)


@pytest.mark.parametrize(
    "targets",
    [
        [torch.ones(1, 4), torch.ones(2, 4)],
        [np.ones(2), np.ones(3)],
        [torch.ones(2), torch.ones(2, dtype=torch.int64)],
        [np.array(["a"]), np.array(["b"])],
        [BOXES, BOXES],
        [Image.new("L", (2, 2)), Image.new("L", (2, 2))],
    ],
)
def test_the_rest_stay_as_they_are(targets: list[Any]) -> None:
    found = collate_targets(samples(targets))
    assert isinstance(found, list)
    assert all(one is other for one, other in zip(found, targets, strict=True))


@pytest.mark.parametrize(
    ("targets", "got", "beside"),
    [
        ([1, 2, 0.5], "float", "int"),
        ([1, 2, None], "None", "int"),
        ([1, 2, NO_TARGET], "no target", "int"),
        ([None, None, "a"], "str", "None"),
        ([True, True, 1], "int", "bool"),
        ([torch.ones(1), torch.ones(1), np.ones(1)], "array", "tensor"),
        ([{}, {}, []], "list", "dict"),
    ],
)
def test_mixed_kinds_are_refused_naming_the_sample(targets: list[Any], got: str, beside: str) -> None:
    message = rf"targets of a batch must be of one kind; got {got} beside {beside} \(sample k0\)\. .*\(sample Set/k2\)"
    with pytest.raises(TargetError, match=message) as caught:
        collate_targets(samples(targets))
    assert caught.value.position == 2
    with pytest.raises(TargetError, match=r"targets\[1\] of a batch must be of one kind"):
        collate_targets(samples([(0, target) for target in targets]))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([1, 2], torch.empty(0, dtype=torch.int64)),
        ([torch.ones(2, 3)], torch.empty(0, 2, 3)),
        ([("a", 1)], ([], torch.empty(0, dtype=torch.int64))),
        ([{}], []),
        ([NO_TARGET], None),
    ],
)
def test_no_targets_are_of_the_same_kind(targets: list[Any], expected: Any) -> None:
    assert equal(emptied(collate_targets(samples(targets))), expected)
