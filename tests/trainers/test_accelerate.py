"""Accelerate over planned loaders and over loaders without a pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import resflow as rf
from tests.trainers.common import (
    COUNT,
    EVALUATION,
    KINDS,
    Net,
    Seen,
    as_torch_gives,
    assert_planned,
    make_data,
    make_loader,
    planned,
)
from tests.trainers.ranks import in_ranks

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'resflow[trainers]'")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_data(root)
    return root


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """Accelerate keeps its state in classes."""
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def seen_in(loader: Any, epoch: int) -> Seen:
    return [(epoch, batch.sample_ids.tolist(), batch.resolution) for batch in loader]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_prepare_keeps_the_loader_and_its_plan(data: Path, kind: str, workers: int) -> None:
    made = make_loader(data, kind, num_workers=workers)
    loader = accelerate.Accelerator(cpu=True).prepare(made)
    assert loader is made
    assert loader.total_batch_size == 6
    seen = [batch for epoch in range(3) for batch in seen_in(loader, epoch)]
    assert_planned(seen, make_loader(data, kind), range(3))
    loader.set_epoch(1)
    assert seen_in(loader, 1) == planned(loader, [1])


def test_accumulation_steps_at_the_end_of_each_epoch(data: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
    model, loader = accelerator.prepare(Net(), make_loader(data))
    steps = []
    for _ in range(2):
        for _batch in loader:
            with accelerator.accumulate(model):
                steps.append(accelerator.sync_gradients)
    assert steps == [False, False, True, False, True] * 2


def test_a_loop_that_was_left_and_a_loop_within_a_loop_leave_no_trace(data: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    training, evaluation = accelerator.prepare(make_loader(data), make_loader(data, pipeline=EVALUATION))
    state = accelerator.gradient_state
    for _ in training:
        assert state.active_dataloader is training
        for _ in evaluation:
            assert state.active_dataloader is evaluation
        assert state.active_dataloader is training
        assert not state.end_of_dataloader
        break
    del _
    assert not state.in_dataloader


@pytest.mark.parametrize("kind", KINDS)
def test_save_state_and_load_state_at_every_batch(data: Path, kind: str, tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    _, loader = accelerator.prepare(Net(), make_loader(data, kind))
    whole = []
    for epoch in range(2):
        for batch in loader:
            whole.append((epoch, batch.sample_ids.tolist(), batch.resolution))
            accelerator.save_state(str(tmp_path / str(len(whole))))
    assert_planned(whole, loader, range(2))
    for step in range(1, 10):
        _afresh_now()
        accelerator = accelerate.Accelerator(cpu=True)
        _, loader = accelerator.prepare(Net(), make_loader(data, kind))
        accelerator.load_state(str(tmp_path / str(step)))
        assert loader.epoch == whole[step - 1][0]
        rest = [batch for epoch in range(loader.epoch, 2) for batch in seen_in(loader, epoch)]
        assert rest == whole[step:], f"loaded after {step} batches"


def _afresh_now() -> None:
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def test_skip_first_batches(data: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    loader = accelerator.prepare(make_loader(data))
    loader.set_epoch(1)
    skipped = accelerate.skip_first_batches(loader, 2)
    assert [batch.images.dtype for batch in skipped] == [torch.float32] * 3
    assert seen_in(skipped, 1) == planned(loader, [1])[2:]
    loader.set_epoch(2)
    assert seen_in(loader, 2) == planned(loader, [2])


def test_gather_for_metrics_alone(data: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    for even in (False, True):
        loader = accelerator.prepare(make_loader(data, pipeline=EVALUATION, even=even))
        gathered = [i for batch in loader for i in accelerator.gather_for_metrics(batch.sample_ids).tolist()]
        assert gathered == [i for _, ids, _ in planned(loader, [0]) for i in ids]


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_pipeline_as_with_torch(workers: int) -> None:
    seen = []
    for kind in (torch.utils.data.DataLoader, rf.DataLoader):
        torch.manual_seed(1)
        loader = accelerate.Accelerator(cpu=True).prepare(
            kind(as_torch_gives(), batch_size=3, shuffle=True, num_workers=workers)
        )
        seen.append([(images.sum().item(), targets.tolist()) for _ in range(2) for images, targets in loader])
        seen.append([targets.tolist() for _, targets in accelerate.skip_first_batches(loader, 2)])
        _afresh_now()
    assert seen[:2] == seen[2:]


@pytest.fixture(scope="module")
def ranks(data: Path) -> dict[str, list[Any]]:
    return in_ranks("tests.trainers.accelerate_ranks", [("train", 2), ("gather", 2), ("gather", 3)], data)


def test_two_ranks_share_each_batch_of_the_plan(data: Path, ranks: dict[str, list[Any]]) -> None:
    loader = make_loader(data, batch_size=4)
    first, second = ranks["train/2"]
    both = [(e, one + other, r) for (e, one, r), (_, other, _) in zip(first, second, strict=True)]
    assert_planned(both, loader, [0, 1, 5], ranks=2)
    for epoch in (0, 1, 5):
        used = [i for e, ids, _ in both for i in ids if e == epoch]
        assert COUNT % 4 == 1  # the last batch is one sample, which both ranks get
        assert Counter(used[:-1]) == Counter(range(COUNT))
        assert used[-1] == used[-2]


@pytest.mark.parametrize("size", [2, 3])
def test_gather_for_metrics_gives_each_sample_once(ranks: dict[str, list[Any]], size: int) -> None:
    first, *others = ranks[f"gather/{size}"]
    assert len(first) == 6
    for how, ids in first.items():
        assert Counter(ids) == Counter(range(COUNT)), how
    assert all(other == first for other in others)
