"""Hugging Face's Trainer, given a planned loader by get_train_dataloader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import resflow as rf
from tests.trainers.common import (
    BATCH,
    COUNT,
    EVALUATION,
    KINDS,
    Net,
    as_torch_gives,
    make_data,
    make_loader,
    planned,
)

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'resflow[trainers]'")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'resflow[trainers]'"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_data(root)
    return root


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(level)


class Model(torch.nn.Module):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.seen: list[list[int]] = []

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        assert pixel_values.dtype == torch.float32
        self.seen.append(ids.tolist())
        logits = self.net(pixel_values)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def as_dict(batch: rf.Batch) -> dict[str, torch.Tensor]:
    return {"pixel_values": batch.images, "labels": batch.targets, "ids": batch.sample_ids}


def make_trainer(
    data: Path, folder: Path, *, kind: str = "shards", prepare: bool = False, workers: int = 0, **options: Any
) -> Any:
    class Trainer(transformers.Trainer):  # type: ignore[name-defined,misc]
        def get_train_dataloader(self) -> Any:
            loader = make_loader(data, kind, collate_fn=as_dict, num_workers=workers)
            return self.accelerator.prepare(loader) if prepare else loader

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return make_loader(data, kind, collate_fn=as_dict, pipeline=EVALUATION, even=True)

    options = {"num_train_epochs": 2, "save_strategy": "no"} | options
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        label_names=["labels", "ids"],
        **options,
    )
    return Trainer(Model(), arguments)


def ids_of(data: Path, epochs: int) -> list[list[int]]:
    return [ids for _, ids, _ in planned(make_loader(data), range(epochs))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prepare", [False, True])
def test_train_follows_the_plan(data: Path, tmp_path: Path, kind: str, prepare: bool) -> None:
    trainer = make_trainer(data, tmp_path, kind=kind, prepare=prepare, workers=int(prepare))
    trainer.train()
    expected = [ids for _, ids, _ in planned(make_loader(data, kind), range(2))]
    assert trainer.model.seen == expected
    assert Counter(i for ids in expected for i in ids) == Counter([*range(COUNT)] * 2)


@pytest.mark.parametrize("prepare", [False, True])
def test_resume_at_every_batch_gives_the_rest_of_the_plan(data: Path, tmp_path: Path, prepare: bool) -> None:
    make_trainer(data, tmp_path, prepare=prepare, save_strategy="steps", save_steps=1).train()
    for step in (3, 7) if prepare else range(1, 10):
        trainer = make_trainer(data, tmp_path, prepare=prepare)
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert trainer.model.seen == ids_of(data, 2)[step:], f"resumed after {step} batches"


def test_accumulation_steps_at_the_end_of_each_epoch(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path, gradient_accumulation_steps=2)
    assert trainer.train().global_step == 6  # 5 batches an epoch: 2, 2 and 1
    assert trainer.model.seen == ids_of(data, 2)


def test_predict_and_evaluate_use_each_sample_once(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path)
    trainer.compute_metrics = lambda said: {"ids": Counter(said.label_ids[1].tolist()) == Counter(range(COUNT))}
    assert trainer.evaluate()["eval_ids"]


def test_without_a_pipeline_as_with_torch(tmp_path: Path) -> None:
    pairs = [{"pixel_values": image, "labels": label, "ids": label} for image, label in as_torch_gives()]
    seen = []
    for kind in (torch.utils.data.DataLoader, rf.DataLoader):
        trainer = make_trainer(tmp_path, tmp_path, seed=3)
        trainer.get_train_dataloader = lambda kind=kind: kind(pairs, batch_size=4, shuffle=True)
        trainer.train()
        seen.append(trainer.model.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 8
