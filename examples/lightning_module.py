"""A LightningModule fed by Resflow: a growing resolution, and a run that is stopped within an epoch and goes on.

    python examples/lightning_module.py                 # small: about 2 minutes on a CPU
    python examples/lightning_module.py --full --devices 8 --workers 12 --train "shards/train-{000000..000146}.tar" \\
        --val "shards/val-{000000..000006}.tar" --stop-at 0

Nothing here is special to Resflow but the two loaders: the Trainer tells the epoch, from which the loader's plan takes
the resolution; it stores the loader's place in each checkpoint, and its ranks share each batch. The small run trains on
400 photographs (or on drawn figures, where RESFLOW_TEST_DATA has none), is stopped in the middle of an epoch, between
two checkpoints, goes on from the last one, and counts which samples the final weights have seen: each once an epoch.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from torchvision.models import resnet50

import resflow as rf
from resflow.demo.data import draw_data, folder_data, unwatched
from resflow.demo.model import small_classifier

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = Path(os.environ.get("RESFLOW_TEST_DATA", ROOT.parent / "shared" / "data")) / "imagenet500"
FIVE_CLASSES = r"^(n0[1-4]|n)"  # the first digits of a file's synset, or none of these


class Classifier(lightning.LightningModule):
    """A classifier whose checkpoints tell what its weights have seen."""

    def __init__(self, model: nn.Module, classes: int, rate: float) -> None:
        super().__init__()
        self.model, self.rate = model, rate
        self.accuracy = MulticlassAccuracy(classes, average="micro")  # counts over all ranks
        self.seen: list[tuple[int, int, list[int], float]] = []  # of each batch: epoch, resolution, samples, loss
        self.top_1: dict[int, float] = {}
        self.resumed = 0  # batches that a checkpoint brought along

    def training_step(self, batch: rf.Batch, _: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.model(batch.images), batch.targets, label_smoothing=0.1)
        samples: Any = self.all_gather(batch.sample_ids)
        self.seen.append((self.current_epoch, batch.resolution, samples.flatten().tolist(), loss.item()))
        return loss

    def validation_step(self, batch: rf.Batch, _: int) -> None:
        images, labels = batch
        self.accuracy.update(self.model(images), labels)

    def on_validation_epoch_end(self) -> None:
        self.top_1[self.current_epoch] = self.accuracy.compute().item()
        self.accuracy.reset()

    def configure_optimizers(self) -> Any:
        trainer: Any = self.trainer
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.02)
        # Not trainer.estimated_stepping_batches: asked for here, it makes Lightning 2.6 forget the loader's place
        # (Lightning-AI/pytorch-lightning#20550).
        steps = trainer.max_epochs * len(trainer.datamodule.train)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"seen": list(self.seen), "top_1": dict(self.top_1)}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        self.seen, self.top_1 = list(checkpoint["seen"]), dict(checkpoint["top_1"])
        self.resumed = len(self.seen)


class Images(lightning.LightningDataModule):
    """Shards to train on, and held-out ones."""

    def __init__(self, train: Any, val: Any, pipeline: rf.Pipeline, at: int, **options: Any) -> None:
        super().__init__()
        self.train = rf.DataLoader(train, shuffle=True, drop_last=True, pipeline=pipeline, **options)
        self.val = rf.DataLoader(val, pipeline=pipeline.evaluation(resolution=at), **options)

    def train_dataloader(self) -> rf.DataLoader:
        return self.train

    def val_dataloader(self) -> rf.DataLoader:
        return self.val


class PowerCutError(Exception):
    """The run is over, whatever it was at."""


class PowerCut(lightning.Callback):
    """Ends a run after a batch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise PowerCutError


def fit(
    module: Classifier, images: Images, checkpoint: Path, *, save_every: int, stop_at: int = 0, **options: Any
) -> Classifier:
    """Train, from the checkpoint if it is there; until the end, or until the power is cut."""
    keep = ModelCheckpoint(
        checkpoint.parent, checkpoint.stem, every_n_train_steps=save_every, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        callbacks=[keep, PowerCut(stop_at)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    place = checkpoint if checkpoint.exists() else None
    try:
        trainer.fit(module, images, ckpt_path=place, weights_only=None if place is None else False)
    except PowerCutError:
        print(f"the power went after batch {stop_at}; {checkpoint.name} is of batch {stop_at - stop_at % save_every}")
    return module


def table(module: Classifier, loader: rf.DataLoader) -> Table:
    """A row an epoch: batches before and after the checkpoint, and the samples seen, held against the loader's plan."""
    columns = ("epoch", "resolution", "before", "after", "planned", "samples", "lost", "twice", "loss", "top-1 %")
    shown = Table(*columns, box=None, header_style="bold")
    for epoch in sorted(module.top_1):
        part = [(step, *batch[1:]) for step, batch in enumerate(module.seen) if batch[0] == epoch]
        seen, plan = Counter(sample for _, _, samples, _ in part for sample in samples), loader.plan(epoch)
        planned = Counter(plan.sample_ids.tolist())
        before, loss = sum(step < module.resumed for step, *_ in part), sum(batch[3] for batch in part) / len(part)
        values: list[int] = [epoch, part[0][1], before, len(part) - before, len(plan), sum(planned.values())]
        values += [(planned - seen).total(), (seen - planned).total()]
        shown.add_row(*map(str, values), f"{loss:.3f}", f"{100 * module.top_1[epoch]:.1f}")
    return shown


def plot(first: Classifier, rest: Classifier, path: Path) -> None:
    """The loss of each batch: of the run that was stopped, and of the one that went on."""
    figure = Figure(figsize=(8, 3.2), dpi=80, layout="constrained")
    axes = figure.subplots()
    for run, start, mark, label in (
        (rest, 0, "-", "what the final weights have seen"),
        (first, rest.resumed, "x", "lost with the power, and trained again"),
    ):
        losses = [loss for *_, loss in run.seen[start:]]
        axes.plot(range(start, start + len(losses)), losses, mark, linewidth=1, label=label)
    axes.axvline(rest.resumed - 0.5, color="#222222", linewidth=0.8, linestyle="--")
    stages = [step for step, batch in enumerate(rest.seen) if not step or batch[1] != rest.seen[step - 1][1]]
    for step in stages:
        axes.text(step, axes.get_ylim()[1], f"{rest.seen[step][1]} px", va="bottom", fontsize=8)
    axes.set(xlabel="batch; dashed: the checkpoint", ylabel="training loss")
    axes.legend(fontsize=8)
    figure.savefig(path)


def small_data(folder: Path) -> tuple[Sequence[Path], Sequence[Path], int]:
    """Shards to train on and held-out ones: of photographs in five classes, or of drawn figures; number of classes."""
    if PHOTOGRAPHS.is_dir():
        data = folder_data(folder, PHOTOGRAPHS, FIVE_CLASSES, most=500, seed=0, watch=unwatched)
    else:
        print(f"no photographs in {PHOTOGRAPHS} (set RESFLOW_TEST_DATA): figures are drawn instead")
        data = draw_data(folder, 500, seed=0, watch=unwatched)
    print(f"{len(data.train)} images to train on, {len(data.held_out)} held out, in {len(data.classes)} classes")
    print(f"always answering the most frequent class is right {data.chance:.1%} of the time")
    return data.train.shards, data.held_out.shards, len(data.classes)


def main(arguments: list[str] | None = None) -> tuple[Classifier, Classifier]:
    """Train until the power is cut, then to the end; returns both modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ResNet-50 from 128 to 224 pixels, 16 epochs")
    parser.add_argument("--train", help="pattern of the shards to train on")
    parser.add_argument("--val", help="pattern of the shards to evaluate on")
    parser.add_argument("--classes", type=int, default=1000, help="of these shards")
    parser.add_argument("--epochs", type=int, default=0, help="8, or 16 with --full")
    parser.add_argument("--batch-size", type=int, default=32, help="of each rank")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="loader processes a rank")
    parser.add_argument("--save-every", type=int, default=5, help="batches between checkpoints")
    parser.add_argument("--stop-at", type=int, default=53, help="batch after which the power goes, once; 0: never")
    parser.add_argument("--resume", action="store_true", help="go on after the last checkpoint, if there is one")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "examples" / "lightning_module")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    checkpoint = given.output / "last.ckpt"
    if not given.resume:
        checkpoint.unlink(missing_ok=True)
    train, val, classes = (
        (given.train, given.val, given.classes) if given.train else small_data(given.output / "shards")
    )
    epochs = given.epochs or (16 if given.full else 8)
    low, high, tested_at = (128, 224, 256) if given.full else (64, 128, 160)
    on_gpu = torch.cuda.is_available()
    pipeline = rf.Pipeline(
        resolution=rf.schedules.Linear(low, high, epochs),
        stride=32 if given.full else 16,
        fit=rf.Fit(max_crop=0.1),
        views=[rf.views.RandomResizedCrop(scale=(0.35, 1.0)), rf.views.HorizontalFlip()],
        normalize=rf.IMAGENET,
        device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if on_gpu else "cpu",
    )

    def run(stop_at: int) -> Classifier:
        torch.manual_seed(0)
        model = resnet50(num_classes=classes) if given.full else small_classifier(classes)
        images = Images(train, val, pipeline, tested_at, batch_size=given.batch_size, num_workers=given.workers)
        precision = "bf16-mixed" if on_gpu else "32-true"
        options = {"max_epochs": epochs, "devices": given.devices, "accelerator": "gpu" if on_gpu else "cpu"}
        return fit(
            Classifier(model, classes, 4e-3), images, checkpoint,
            save_every=given.save_every, stop_at=stop_at, precision=precision, **options,
        )  # fmt: skip

    first = run(given.stop_at)
    rest = run(0) if given.stop_at else first
    if rest.global_rank == 0:
        global_size = given.batch_size * given.devices
        planner = Images(train, val, pipeline, tested_at, batch_size=global_size, world=rf.World()).train
        Console(width=100).print(table(rest, planner))
        again = first.seen[rest.resumed :]
        same = again == rest.seen[rest.resumed :][: len(again)]
        print(
            f"{len(again)} batches were trained again: {'the same' if same else 'OTHER'} samples and losses, bit by bit"
        )
        plot(first, rest, given.output / "loss.png")
        print(f"checkpoint and plot are in {given.output}")
    return first, rest


if __name__ == "__main__":
    main()
