"""What each rank does in the tests of Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch

from tests.trainers.common import EVALUATION, Net, Seen, make_loader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.seen: Seen = []
        self.validated: list[int] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.sample_ids.tolist(), batch.resolution))
        return torch.nn.functional.cross_entropy(self.net(batch.images), batch.targets)

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated += batch.sample_ids.tolist()

    def predict_step(self, batch: Any, _: int) -> list[int]:
        ids: list[int] = batch.sample_ids.tolist()
        return ids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def _trainer() -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(data: Path) -> Seen:
    """As torchrun starts it; the loader is made before there is a process group."""
    module = Module()
    _trainer().fit(module, make_loader(data))
    return module.seen


def fit_launched(data: Path) -> Seen:
    """As Lightning's own launcher starts it: the first process learns of the others when fit is called."""
    rank = int(os.environ["RANK"])
    for name in ("RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        del os.environ[name]
    later = {name: os.environ.pop(name) for name in ("WORLD_SIZE", "LOCAL_RANK")} if rank == 0 else {}
    os.environ["NODE_RANK"] = "0"
    module, loader = Module(), make_loader(data)
    os.environ.update(later)
    _trainer().fit(module, loader)
    return module.seen


def evaluate(data: Path) -> dict[str, list[int]]:
    """Validation and prediction, each sample once over the ranks."""
    module, trainer = Module(), _trainer()
    trainer.validate(module, make_loader(data, pipeline=EVALUATION), verbose=False)
    predicted = trainer.predict(module, make_loader(data, pipeline=EVALUATION))
    return {"validated": module.validated, "predicted": [i for ids in predicted for i in ids]}
