"""What each rank does in the tests of learning rates: scripts' habits, over PyTorch's loader and over a planned one.

Each habit returns the learning rate at each step and the lengths it was told; the rates must not depend on the loader.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from tests.trainers.common import COUNT, Net, make_loader

EPOCHS = 2
BATCH = 4  # 29 samples: 8 batches alone, 4 for each of two ranks, 2 for each of four
warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()

Made = Callable[[], Any]
"""Makes the loader of a script: PyTorch's or ours."""


def _loaders(data: Path, **ours: Any) -> dict[str, Made]:
    images = torch.zeros(COUNT, 3, 8, 8)
    pairs = torch.utils.data.TensorDataset(images, torch.arange(COUNT) % 7)
    return {
        "torch": lambda: torch.utils.data.DataLoader(pairs, batch_size=BATCH, shuffle=True),
        "resflow": lambda: make_loader(data, batch_size=BATCH, **ours),
    }


def _compared(data: Path, habit: Callable[[Made], Any], **ours: Any) -> dict[str, Any]:
    seen = {}
    for kind, made in _loaders(data, **ours).items():
        accelerate.state.AcceleratorState._reset_state(True)
        accelerate.state.GradientState._reset_state()
        seen[kind] = habit(made)
    return seen


def _parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = Net()
    return model, torch.optim.SGD(model.parameters(), 0.1)


def _trained(accelerator: Accelerator, model: Any, optimizer: Any, loader: Any, scheduler: Any) -> list[float]:
    rates = []
    for _ in range(EPOCHS):
        for images, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.cross_entropy(model(images), targets))
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return [*rates, optimizer.param_groups[0]["lr"]]


def cv_example(data: Path) -> dict[str, Any]:
    """Accelerate's cv_example: OneCycleLR over the length before `prepare`."""

    def habit(made: Made) -> Any:
        accelerator, loader = Accelerator(cpu=True), made()
        model, optimizer = _parts()
        told = [len(loader)]
        scheduler: Any = OneCycleLR(optimizer, max_lr=0.5, epochs=EPOCHS, steps_per_epoch=len(loader))
        model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
        return _trained(accelerator, model, optimizer, loader, scheduler), [*told, len(loader)]

    return _compared(data, habit)


def accumulating(data: Path) -> dict[str, Any]:
    """transformers' no_trainer examples: a linear schedule, gradients accumulated over two batches."""

    def habit(made: Made) -> Any:
        accelerator, loader = Accelerator(cpu=True, gradient_accumulation_steps=2), made()
        model, optimizer = _parts()
        updates = math.ceil(len(loader) / 2)
        scheduler: Any = transformers.get_scheduler("linear", optimizer, 1, EPOCHS * updates)
        model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
        return _trained(accelerator, model, optimizer, loader, scheduler), [updates, math.ceil(len(loader) / 2)]

    return _compared(data, habit)


def diffusers(data: Path) -> dict[str, Any]:
    """diffusers' examples: the length divided by the number of processes before `prepare`, checked after it."""

    def habit(made: Made) -> Any:
        accelerator, loader = Accelerator(cpu=True), made()
        model, optimizer = _parts()
        sharded = math.ceil(len(loader) / accelerator.num_processes)
        scheduler: Any = transformers.get_scheduler(
            "cosine", optimizer, 0, EPOCHS * sharded * accelerator.num_processes
        )
        model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
        return _trained(accelerator, model, optimizer, loader, scheduler), [sharded, len(loader)]

    return _compared(data, habit)


def prepared_first(data: Path) -> dict[str, Any]:
    """The loader is prepared by itself, and its length then multiplied by the number of processes."""

    def habit(made: Made) -> Any:
        accelerator = Accelerator(cpu=True)
        loader = accelerator.prepare_data_loader(made())
        model, optimizer = _parts()
        steps = len(loader) * EPOCHS * accelerator.num_processes
        scheduler: Any = LambdaLR(optimizer, lambda step: 1 - step / steps)
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
        return _trained(accelerator, model, optimizer, loader, scheduler), [len(loader)]

    return _compared(data, habit, num_workers=1)


def split_batches(data: Path) -> dict[str, Any]:
    """The batch size is that of all processes together."""

    def habit(made: Made) -> Any:
        accelerator = Accelerator(
            cpu=True, dataloader_config=accelerate.utils.DataLoaderConfiguration(split_batches=True)
        )
        loader = made()
        model, optimizer = _parts()
        told = [len(loader)]
        scheduler: Any = OneCycleLR(optimizer, max_lr=0.5, total_steps=EPOCHS * len(loader))
        model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
        return _trained(accelerator, model, optimizer, loader, scheduler), [*told, len(loader), loader.total_batch_size]

    return _compared(data, habit)


def unprepared(data: Path) -> dict[str, Any]:
    """A loader that is not prepared: all of it in each process; and metrics gathered over one that is."""

    def habit(made: Made) -> Any:
        accelerator = Accelerator(cpu=True)
        loader = made()
        alone = [len(targets) for _, targets in loader]
        return len(loader), len(alone), sum(alone), accelerator.num_processes

    return _compared(data, habit)


def gathered(data: Path) -> dict[str, Any]:
    """Evaluation as in cv_example, where nobody says `even`."""

    def habit(made: Made) -> Any:
        accelerator = Accelerator(cpu=True)
        loader = accelerator.prepare(made())
        targets = [t for _, t in loader]
        found = [accelerator.gather_for_metrics(t) for _, t in loader]
        return len(targets), sum(map(len, found))

    return _compared(data, habit, shuffle=False)


def trainer(data: Path) -> dict[str, Any]:
    """The Trainer of transformers, whose loader it prepares, the script prepares, or nobody does."""

    def habit(made: Made, prepare: bool) -> Any:
        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = Net()

            def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
                logits = self.net(pixel_values)
                return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

        rates: list[float] = []

        class Note(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **known: Any) -> None:
                rates.append(known["optimizer"].param_groups[0]["lr"])

        class Trainer(transformers.Trainer):  # type: ignore[name-defined,misc]
            def get_train_dataloader(self) -> Any:
                loader = made()
                if isinstance(loader.dataset, torch.utils.data.TensorDataset):
                    loader.collate_fn = lambda items: _as_dict(torch.utils.data.default_collate(items))
                    return self.accelerator.prepare(loader)
                return self.accelerator.prepare(loader) if prepare else loader

        arguments = transformers.TrainingArguments(
            str(data / "trainer"),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        made_trainer = Trainer(Model(), arguments, callbacks=[Note()])
        made_trainer.train()
        return rates, made_trainer.state.max_steps

    def _as_dict(pair: Any) -> dict[str, Any]:
        return {"pixel_values": pair[0], "labels": pair[1]}

    prepared = _compared(data, lambda made: habit(made, prepare=True), collate_fn=_as_dict)
    bare = _compared(data, lambda made: habit(made, prepare=False), collate_fn=_as_dict)
    return prepared | {"resflow, unprepared": bare["resflow"]}
