"""The ImageNet recipe: killed in mid-epoch and resumed it ends with the weights of a run that was never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resflow.demo.model import small_classifier
from tests.examples.loading import load
from tests.shards import make_shards

ROOT = Path(__file__).parents[2]
COUNT, HELD_OUT = 43, 13  # 5 batches of 8 an epoch, 3 images dropped; 13 to evaluate on
STEPS = 5
TINY = {"resolutions": {0: 32, 1: 48}, "evaluate_at": 64, "epochs": 2, "batch_size": 8, "classes": 7}


def recipe() -> Any:
    module: Any = load("imagenet_progressive")
    module.SMALL = replace(module.SMALL, **TINY)
    module.network = lambda recipe: small_classifier(recipe.classes, width=4)
    return module


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other cost a small model most of its time
    yield
    torch.set_num_threads(threads)


VARIABLES = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # or gloo finds the addresses of the ranks before the restart
}


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def example() -> Any:
    return recipe()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder / "train", COUNT), make_shards(folder / "val", HELD_OUT)


def train(example: Any, shards: tuple[str, str], folder: Path, *, until: int | None = None, forget: str = "") -> Any:
    """Train, from the folder's checkpoint if it has one, and be killed within a step; or restore all but one part."""
    folder.mkdir(exist_ok=True)
    run = example.Run(example.SMALL, *shards, torch.device("cpu"), 0)
    if (folder / "last.pt").exists():
        kept = run.parts
        run.parts = {name: part for name, part in kept.items() if name != forget}
        run.load(folder / "last.pt")
        run.parts = kept
    step, taken = run.step, []

    def killed(batch: Any, epoch: float) -> Any:
        if until is not None and epoch * STEPS >= until - 0.5:
            raise KilledError
        taken.append((round(epoch * STEPS), batch.sample_ids.tolist()))
        return step(batch, epoch)

    run.step = killed
    try:
        run.train(folder, save_every=2)
    except KilledError:
        assert until is not None
    return run, taken


def same_weights(one: Any, other: Any) -> bool:
    pairs = [(run.model.state_dict() | {"average": run.average.state_dict()}) for run in (one, other)]
    averages = [pair.pop("average") for pair in pairs]
    return all(
        torch.equal(first[name], second[name]) for first, second in (pairs, averages) for name in first.keys() | second
    )


def test_killed_twice_and_resumed_is_as_never_stopped(example: Any, shards: tuple[str, str], tmp_path: Path) -> None:
    whole, steps = train(example, shards, tmp_path / "whole")
    assert [step for step, _ in steps] == list(range(1, 2 * STEPS + 1))
    assert [(row["resolution"], row["batches"], row["counted"]) for row in whole.rows] == [
        (32, STEPS, HELD_OUT),
        (48, STEPS, HELD_OUT),
    ]

    folder = tmp_path / "killed"
    taken = [train(example, shards, folder, until=until)[1] for until in (4, 9)]
    kept = (folder / "last.pt").read_bytes()
    rest, last = train(example, shards, folder)
    assert [[step for step, _ in part] for part in (*taken, last)] == [[1, 2, 3], [3, 4, 5, 6, 7, 8], [8, 9, 10]]
    for step, ids in (*taken[0], *taken[1], *last):
        assert ids == steps[step - 1][1]
    assert same_weights(whole, rest)
    for name in ("loss", "top-1 %", "resolution", "counted"):
        assert [row[name] for row in rest.rows] == [row[name] for row in whole.rows]

    for part in ("model", "average", "optimizer", "loader"):  # the law sees each part that is not restored
        (folder / "last.pt").write_bytes(kept)
        forgetful, _ = train(example, shards, folder, forget=part)
        assert not same_weights(whole, forgetful), part


def test_the_command_writes_table_plot_and_figures(
    example: Any, shards: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--train",
        shards[0],
        "--val",
        shards[1],
        "--classes",
        "7",
        "--output",
        str(tmp_path),
        "--workers",
        "0",
    ]
    rows = example.main(arguments)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == " ".join(example.FORMATS).split()
    assert [line.split()[:3] for line in printed[1:3]] == [["0", "32", "5"], ["1", "48", "5"]]
    assert np.asarray(Image.open(tmp_path / "table.png").convert("L")).std() > 10
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert example.main([*arguments, "--resume"]) == rows  # nothing is left to do
    assert capsys.readouterr().out.splitlines()[:3] == printed[:3]


@pytest.mark.slow
def test_two_ranks_killed_and_restarted_by_torchrun_are_as_never_stopped(
    shards: tuple[str, str], tmp_path: Path
) -> None:
    found = []
    for name, kill in (("whole", ""), ("killed", "8")):
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", __file__]
        command += ["--train", shards[0], "--val", shards[1], "--output", str(tmp_path / name), "--resume"]
        done = subprocess.run(
            [sys.executable, "-m", *command, "--save-every", "2", "--workers", "0", "--classes", "7"],
            env=os.environ | VARIABLES | {"KILL_AT": kill},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("exitcode: -9" in done.stderr) == bool(kill)
        found.append(torch.load(tmp_path / name / "last.pt"))
    for part in ("model", "average"):
        assert found[0][part].keys() == found[1][part].keys()
        for name, value in found[0][part].items():
            assert torch.equal(value, found[1][part][name]), name
    for rows in zip(found[0]["rows"], found[1]["rows"], strict=True):
        assert [row["counted"] for row in rows] == [HELD_OUT, HELD_OUT]
        assert rows[0]["top-1 %"] == rows[1]["top-1 %"]
        assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-12)


def _rank() -> None:
    """What torchrun starts: the example, one rank of which is killed within a step of its first life."""
    module = recipe()
    step, at = module.Run.step, os.environ["KILL_AT"]

    def killed(run: Any, batch: Any, epoch: float) -> Any:
        first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if at and first_life and run.rank == 1 and round(epoch * STEPS) == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(run, batch, epoch)

    module.Run.step = killed
    module.main(sys.argv[1:])


if __name__ == "__main__":
    _rank()
