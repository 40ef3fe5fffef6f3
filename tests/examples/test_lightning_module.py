"""The LightningModule of the examples: stopped within an epoch and resumed, it has seen each sample once an epoch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resflow as rf
from tests.examples.loading import load
from tests.shards import make_shards

pytest.importorskip("lightning.pytorch", reason="lightning is not installed: pip install 'resflow[trainers]'")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

PATH = Path(__file__).parents[2] / "examples" / "lightning_module.py"
COUNT, HELD_OUT, BATCH, STEPS = 43, 13, 8, 5  # 5 batches an epoch; 3 images are dropped in each


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load("lightning_module")


@pytest.fixture(scope="module", autouse=True)
def _as_it_was() -> Iterator[None]:
    logger, threads = logging.getLogger("lightning.pytorch"), torch.get_num_threads()
    level = logger.level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logger.setLevel(level)


def text(table: Any) -> list[list[str]]:
    """A table's rows."""
    return list(map(list, zip(*(column.cells for column in table.columns), strict=True)))


def test_stopped_within_an_epoch_and_resumed_is_as_never_stopped(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = make_shards(tmp_path / "train", COUNT), make_shards(tmp_path / "val", HELD_OUT)

    def run(name: str, *more: str) -> Any:
        options = [
            "--epochs",
            "2",
            "--batch-size",
            str(BATCH),
            "--save-every",
            "2",
            "--workers",
            "0",
            "--classes",
            "7",
            *more,
        ]
        return example.main(["--train", train, "--val", val, "--output", str(tmp_path / name), *options])

    whole, same = run("whole", "--stop-at", "0")
    assert whole is same
    capsys.readouterr()
    first, rest = run("stopped", "--stop-at", "9")
    printed = capsys.readouterr().out
    assert "the power went after batch 9; last.ckpt is of batch 8" in printed
    assert "1 batches were trained again: the same samples and losses, bit by bit" in printed
    assert (len(first.seen), rest.resumed) == (9, 8)
    assert rest.seen == whole.seen
    assert rest.top_1 == whole.top_1
    for (name, value), other in zip(whole.state_dict().items(), rest.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert [resolution for _, resolution, _, _ in rest.seen] == [64] * STEPS + [128] * STEPS
    assert np.asarray(Image.open(tmp_path / "stopped" / "loss.png").convert("L")).std() > 10

    loader = rest.trainer.datamodule.train
    for epoch in range(2):
        seen = Counter(sample for at, _, samples, _ in rest.seen if at == epoch for sample in samples)
        assert seen == Counter(loader.plan(epoch).sample_ids.tolist())
        assert max(seen.values()) == 1
    rows = text(example.table(rest, loader))
    assert [row[:8] for row in rows] == [
        ["0", "64", "5", "0", "5", "40", "0", "0"],
        ["1", "128", "3", "2", "5", "40", "0", "0"],
    ]
    epoch, resolution, samples, loss = rest.seen[6]  # the table tells of samples that were lost or came twice
    rest.seen[6] = (epoch, resolution, [rest.seen[5][2][0], *samples[1:]], loss)
    assert text(example.table(rest, loader))[1][6:8] == ["1", "1"]
    assert isinstance(loader, rf.DataLoader)
