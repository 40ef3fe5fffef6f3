"""What each rank does in the tests of Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch

from tests.trainers.common import CLASSES, COUNT, EVALUATION, Net, Seen, make_loader

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


def _trainer(devices: int = 2) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        devices=devices,
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


class Scheduled(Module):
    """Makes a schedule as modules do, and notes its rates."""

    def __init__(self, made: Callable[[], Any], steps: Callable[[Any], int]) -> None:
        super().__init__()
        self._made, self._steps = made, steps
        self.rates: list[float] = []
        self.told = 0

    def train_dataloader(self) -> Any:
        return self._made()

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, targets = batch
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return torch.nn.functional.cross_entropy(self.net(images), targets)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        self.told = self._steps(self)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / self.told)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def rates(data: Path) -> dict[str, dict[str, Any]]:
    """Learning rates by how a module counts its steps, with PyTorch's loader and with a planned one."""
    pairs = torch.utils.data.TensorDataset(torch.zeros(COUNT, 3, 8, 8), torch.arange(COUNT) % CLASSES)
    loaders: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.utils.data.DataLoader(pairs, batch_size=4, shuffle=True),
        "resflow": lambda: make_loader(data, batch_size=4),
    }
    counts: dict[str, Callable[[Any], int]] = {
        "estimated": lambda module: int(module.trainer.estimated_stepping_batches),
        "own loader": lambda module: 2 * len(module.train_dataloader()),
        "own loader, shared": lambda module: 2 * (-(-len(module.train_dataloader()) // module.trainer.world_size)),
    }
    seen: dict[str, dict[str, Any]] = {}
    for how, count in counts.items():
        for kind, made in loaders.items():
            module = Scheduled(made, count)
            _trainer(int(os.environ["WORLD_SIZE"])).fit(module)
            seen.setdefault(how, {})[kind] = [module.rates, module.told, len(module.trainer.train_dataloader)]
    return seen
