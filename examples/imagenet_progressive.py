"""The full recipe: ImageNet at a growing resolution, on many ranks, killed at any moment and resumed at the next batch.

    python examples/imagenet_progressive.py                       # small: 2 to 3 minutes on a CPU
    torchrun --nproc-per-node 2 examples/imagenet_progressive.py  # the same global batches, shared by two ranks
    torchrun --nproc-per-node 8 --max-restarts 3 examples/imagenet_progressive.py --full --resume --workers 12 \\
        --train "shards/train-{000000..000146}.tar" --val "shards/val-{000000..000006}.tar"

Pixels come from pipelines/progressive_imagenet.yaml, with a MixUp that grows with the resolution. Beside it: SGD with
label smoothing; a learning rate that rises for two epochs and falls in a straight line, as FFCV's does; a moving
average of the weights; bfloat16 on a GPU; evaluation at a higher resolution, each image once over all ranks; figures
for TensorBoard (pip install 'resflow[examples]'). With --resume a run goes on after its last checkpoint, where there is
one, and ends with the weights, bit by bit, of a run that was never stopped.

The small setting trains a ResNet of four blocks on 400 photographs, or on drawn figures where RESFLOW_TEST_DATA has
none: it shows that all parts work together, on too little data to show what the recipe is worth.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import resnet

import resflow as rf
from resflow.demo.data import draw_data, folder_data, unwatched

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = Path(os.environ.get("RESFLOW_TEST_DATA", ROOT.parent / "shared" / "data")) / "imagenet500"
FIVE_CLASSES = r"^(n0[1-4]|n)"  # the first digits of a file's synset, or none of these
FORMATS = {
    "epoch": "d", "resolution": "d", "batches": "d", "loss": ".3f", "top-1 %": ".1f", "counted": "d",
    "seconds": ".1f", "img/s": ".0f", "padded %": ".1f",
}  # fmt: skip
Row = dict[str, Any]
Shards = str | Sequence[Path]


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that the weights depend on; by default the small setting."""

    resolutions: dict[int, int] = field(default_factory=lambda: {0: 64, 5: 96, 8: 128})  # by first epoch
    evaluate_at: int = 160
    stride: int = 16
    epochs: int = 10
    batch_size: int = 32  # of all ranks together
    rate: float = 0.03
    smoothing: float = 0.1
    mixup: float = 0.1  # at the highest resolution; 0 at the lowest
    ema: float = 0.9
    classes: int = 5
    large: bool = False  # ResNet-50, or a ResNet of four blocks


SMALL = Recipe()
FULL = Recipe({0: 160, 12: 192}, 256, 32, 16, 1024, rate=1.7, mixup=0.2, ema=0.999, large=True)


def network(recipe: Recipe) -> nn.Module:
    """A ResNet, whose pooling takes any size."""
    block, layers = (resnet.Bottleneck, [3, 4, 6, 3]) if recipe.large else (resnet.BasicBlock, [1, 1, 1, 1])
    model: nn.Module = resnet.ResNet(block, layers, num_classes=recipe.classes)
    return model


class Run:
    """One rank's part of a training; `parts`, `rows`, `sums` and `seconds` are what a checkpoint holds."""

    def __init__(self, recipe: Recipe, training: Shards, held_out: Shards, device: torch.device, workers: int) -> None:
        self.recipe, self.device = recipe, device
        self.ranks, self.rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        pipeline = replace(
            rf.Pipeline.from_yaml(ROOT / "pipelines" / "progressive_imagenet.yaml"),
            resolution=rf.schedules.Steps(recipe.resolutions),
            stride=recipe.stride,
            augment=[rf.augment.MixUp(rf.schedules.Ramp(0.0, recipe.mixup), recipe.classes)],
            memory_format=torch.channels_last,
            device=str(device),
        )
        options: dict[str, Any] = {"batch_size": recipe.batch_size // self.ranks, "num_workers": workers}
        self.loader = rf.DataLoader(training, shuffle=True, drop_last=True, pipeline=pipeline, **options)
        self.exam = rf.DataLoader(held_out, pipeline=pipeline.evaluation(resolution=recipe.evaluate_at), **options)

        torch.manual_seed(0)
        self.model = network(recipe).to(device).to(memory_format=torch.channels_last)
        self.parallel = DistributedDataParallel(self.model) if self.ranks > 1 else self.model
        moving = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=moving, use_buffers=True).eval()
        weights = [weight for weight in self.model.parameters() if weight.ndim > 1]
        others = [weight for weight in self.model.parameters() if weight.ndim == 1]  # biases and normalisation
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 1e-4}, {"params": others}]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)

        self.parts: dict[str, Any] = {
            "model": self.model,
            "average": self.average,
            "optimizer": self.optimizer,
            "loader": self.loader,
        }
        self.rows: list[Row] = []
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # of the epoch: losses, images
        self.seconds = 0.0

    def save(self, path: Path) -> None:
        """Write a checkpoint: a kill at any moment leaves the one before or this one."""
        state = {"rows": self.rows, "sums": self.over_ranks(self.sums), "seconds": self.seconds}
        if self.rank == 0:
            state |= {name: part.state_dict() for name, part in self.parts.items()}
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Go on where a checkpoint was written."""
        state = torch.load(path, map_location=self.device)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.rows, self.seconds = state["rows"], state["seconds"]
        self.sums += state["sums"] * (self.rank == 0)

    def train(self, output: Path, *, save_every: int) -> list[Row]:
        """Train to the end, print and return the table; each epoch is a row."""
        steps = len(self.loader)
        board = self.tensorboard(output / "tensorboard")
        self.say(" ".join(f"{name:>10}" for name in FORMATS))
        for row in self.rows:
            self.say(line(row))
        for epoch in range(len(self.rows), self.recipe.epochs):
            self.loader.set_epoch(epoch)  # keeps a place within this epoch
            self.model.train()
            begun = time.perf_counter() - self.seconds
            for step, batch in enumerate(self.loader, 1 + self.loader.state_dict()["step"]):
                loss = self.step(batch, epoch + step / steps)
                self.seconds = time.perf_counter() - begun
                if step % save_every == 0 and step < steps:
                    self.save(output / "last.pt")
                    board.add_scalar("train/loss", loss.item(), epoch * steps + step)
            losses, images = self.over_ranks(self.sums).tolist()
            self.seconds = time.perf_counter() - begun
            right, every = self.evaluate()
            told: list[Any] = [epoch, batch.resolution, steps, losses / images, 100 * right / every, every]
            told += [self.seconds, images / self.seconds, 100 * self.exam.stats().padded]
            self.rows.append(dict(zip(FORMATS, told, strict=True)))
            self.say(line(self.rows[-1]))
            board.add_scalar("evaluation/top-1", right / every, (epoch + 1) * steps)
            self.loader.stats().write(board, (epoch + 1) * steps)
            self.sums.zero_()
            self.seconds = 0.0
            self.save(output / "last.pt")
        board.close()
        return self.rows

    def step(self, batch: rf.Batch, epoch: float) -> torch.Tensor:
        """Train on one batch; the learning rate follows from how many epochs are behind."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(np.interp(epoch, (0, 2, self.recipe.epochs), (0, self.recipe.rate, 0)))
        with self.autocast():
            output = self.parallel(batch.images)
            loss = nn.functional.cross_entropy(output, batch.targets, label_smoothing=self.recipe.smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.sums += torch.stack([loss.detach() * len(batch), loss.new_tensor(len(batch))])
        return loss

    @torch.inference_mode()
    def evaluate(self) -> tuple[int, int]:
        """How many held-out images the averaged model tells right, and how many there are, over all ranks."""
        if self.ranks > 1:
            for buffer in self.average.buffers():
                dist.broadcast(buffer, 0)  # each rank has means of its own, and the first one's are saved
        counts = torch.zeros(2, dtype=torch.int64, device=self.device)
        for images, labels in self.exam:
            with self.autocast():
                right = self.average(images).argmax(1) == labels
            counts += torch.stack([right.sum(), torch.tensor(len(labels), device=self.device)])
        told, every = self.over_ranks(counts).tolist()
        return told, every

    def over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        total = values.clone()
        if self.ranks > 1:
            dist.all_reduce(total)
        return total

    def autocast(self) -> torch.autocast:
        """bfloat16 on a GPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def say(self, text: str) -> None:
        """Print, on the first rank."""
        if self.rank == 0:
            print(text, flush=True)

    def tensorboard(self, folder: Path) -> Any:
        """A writer that takes back what was written after the checkpoint; on other ranks one that does nothing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.say("TensorBoard is not installed (pip install 'resflow[examples]'): this table is all there is")
        else:
            if self.rank == 0:
                state = self.loader.state_dict()
                return SummaryWriter(folder, purge_step=state["epoch"] * len(self.loader) + state["step"] + 1)
        return SimpleNamespace(add_scalar=lambda *_: None, close=lambda: None)


def line(row: Row) -> str:
    """A row of the table."""
    return " ".join(f"{row[name]:>10{form}}" for name, form in FORMATS.items())


def plot(rows: list[Row], path: Path) -> None:
    """Loss and accuracy, and the price of an image, by epoch; the resolution stands above."""
    figure = Figure(figsize=(9, 3.4), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["loss"] for row in rows], "o-", color="#b04a2f", label="training loss")
    left.set(xlabel="epoch", ylabel="training loss")
    accuracy = left.twinx()
    accuracy.plot(epochs, [row["top-1 %"] for row in rows], "s-", color="#2f6db0")
    accuracy.set_ylabel("top-1 of the averaged model, %", color="#2f6db0")
    right.bar(epochs, [row["img/s"] for row in rows], color="#7a9e7e")
    right.set(xlabel="epoch", ylabel="images a second, in training")
    for row in rows:
        right.text(row["epoch"], row["img/s"], f"{row['resolution']} px", ha="center", va="bottom", fontsize=7)
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


def main(arguments: list[str] | None = None) -> list[Row]:
    """Train, write a table and a plot; returns the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ResNet-50 at 160 and 192 pixels, 16 epochs")
    parser.add_argument("--train", help="pattern of the shards to train on")
    parser.add_argument("--val", help="pattern of the shards to evaluate on")
    parser.add_argument("--classes", type=int, default=1000, help="of these shards")
    parser.add_argument("--resume", action="store_true", help="go on after the last checkpoint, if there is one")
    parser.add_argument("--save-every", type=int, default=8, help="batches between checkpoints")
    parser.add_argument("--workers", type=int, default=1, help="loader processes a rank")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "examples" / "imagenet_progressive")
    given = parser.parse_args(arguments)
    on_gpu, local = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device(f"cuda:{local}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # as torchrun sets it
        dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    given.output.mkdir(parents=True, exist_ok=True)
    made: list[Any] = [(given.train, given.val, given.classes)]
    if given.train is None:
        made = [small_data(given.output / "shards") if rank == 0 else None]
        if dist.is_initialized():
            dist.broadcast_object_list(made)
    training, held_out, classes = made[0]
    recipe = replace(FULL if given.full else SMALL, classes=classes)
    run = Run(recipe, training, held_out, device, given.workers)
    if given.resume and (given.output / "last.pt").exists():
        run.load(given.output / "last.pt")
    rows = run.train(given.output, save_every=given.save_every)
    if rank == 0:
        plot(rows, given.output / "table.png")
        print(f"checkpoint, plot and TensorBoard's figures are in {given.output}")
    if dist.is_initialized():
        dist.destroy_process_group()
    return rows


if __name__ == "__main__":
    main()
