"""Lightning's Trainer over planned loaders and over loaders without a pipeline."""

from __future__ import annotations

import logging
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
    Seen,
    as_torch_gives,
    assert_planned,
    make_data,
    make_loader,
    planned,
)
from tests.trainers.ranks import in_ranks

lightning = pytest.importorskip(
    "lightning.pytorch", reason="lightning is not installed: pip install 'resflow[trainers]'"
)

pytestmark = [
    # Lightning advises more workers, whatever the dataset.
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    # Lightning 2.6 still asks PyTorch for LeafSpec.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    # Lightning advises to log less often than there are steps in these small epochs.
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]


class Module(lightning.LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.seen: list[Any] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, targets = batch
        if isinstance(batch, rf.Batch):
            assert images.dtype == torch.float32
            self.seen.append((self.current_epoch, batch.sample_ids.tolist(), batch.resolution))
        else:
            self.seen.append((self.current_epoch, images.sum().item(), targets.tolist()))
        return torch.nn.functional.cross_entropy(self.net(images), targets)

    def predict_step(self, batch: Any, _: int) -> Any:
        images, _targets = batch
        return batch, self.net(images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Validating(Module):
    """Notes what it validates on, too."""

    def __init__(self) -> None:
        super().__init__()
        self.validated: list[Any] = []

    def validation_step(self, batch: Any, _: int) -> None:
        assert batch.images.dtype == torch.float32
        assert batch.resolution == 48
        self.validated += batch.sample_ids.tolist()


class SaveAtEveryBatch(lightning.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def make_trainer(**options: Any) -> Any:
    options = {"max_epochs": 3, "enable_checkpointing": False} | options
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_data(root)
    return root


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_fit_follows_the_plan(data: Path, kind: str, workers: int) -> None:
    module, loader = Module(), make_loader(data, kind, num_workers=workers, persistent_workers=bool(workers))
    make_trainer().fit(module, loader)
    assert_planned(module.seen, make_loader(data, kind), range(3))
    assert [resolution for _, _, resolution in module.seen] == [32] * 5 + [48] * 5 + [64] * 5
    for epoch in range(3):
        assert Counter(i for e, ids, _ in module.seen for i in ids if e == epoch) == Counter(range(COUNT))


def test_the_law_sees_lost_repeated_and_reordered_samples(data: Path) -> None:
    loader = make_loader(data)
    right = planned(loader, range(2))
    assert_planned(right, loader, range(2))
    (epoch, ids, resolution), *rest = right
    faults: list[Seen] = [
        rest,
        [(epoch, ids, resolution), *right],
        [right[1], right[0], *right[2:]],
        [(epoch, ids[1:], resolution), *rest],
        [(epoch, [ids[1], ids[0], *ids[2:]], resolution), *rest],
        [(epoch, ids, resolution + 16), *rest],
        [(epoch + 1, ids, resolution), *rest],
    ]
    for fault in faults:
        with pytest.raises(AssertionError):
            assert_planned(fault, loader, range(2))


@pytest.mark.parametrize("kind", KINDS)
def test_resume_at_every_batch_gives_the_rest_of_the_plan(data: Path, kind: str, tmp_path: Path) -> None:
    whole = Module()
    make_trainer(callbacks=[SaveAtEveryBatch(tmp_path)]).fit(whole, make_loader(data, kind))
    assert_planned(whole.seen, make_loader(data, kind), range(3))
    for step in range(1, 15):
        rest = Module()
        make_trainer().fit(rest, make_loader(data, kind), ckpt_path=tmp_path / f"{step}.ckpt", weights_only=False)
        assert rest.seen == whole.seen[step:], f"resumed after {step} batches"


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # as is meant
@pytest.mark.parametrize("validate", [False, True])
def test_resume_from_lightnings_own_checkpoint_at_the_end_of_an_epoch(
    data: Path, tmp_path: Path, validate: bool
) -> None:
    def fit(name: str, **options: Any) -> Seen:
        module = Validating() if validate else Module()
        every_epoch = lightning.callbacks.ModelCheckpoint(tmp_path, name + "-{epoch}", save_top_k=-1)
        loaders = [make_loader(data), *([make_loader(data, pipeline=EVALUATION)] if validate else [])]
        make_trainer(callbacks=[every_epoch], enable_checkpointing=True).fit(module, *loaders, **options)
        return module.seen

    whole = fit("whole")
    assert_planned(whole, make_loader(data), range(3))
    for epoch in range(2):
        path = tmp_path / f"whole-epoch={epoch}.ckpt"
        assert fit(f"rest{epoch}", ckpt_path=path, weights_only=False) == whole[5 * (epoch + 1) :]


def test_a_run_interrupted_twice_uses_each_sample_once_an_epoch(data: Path, tmp_path: Path) -> None:
    seen: Seen = []
    path = None
    for start, stop in ((0, 3), (3, 7), (7, 15)):
        module, folder = Module(), tmp_path / str(stop)
        folder.mkdir()
        resumed = {"ckpt_path": path, "weights_only": False} if path else {}
        make_trainer(callbacks=[SaveAtEveryBatch(folder)]).fit(module, make_loader(data), **resumed)
        seen += module.seen[: stop - start]
        path = folder / f"{stop}.ckpt"
    assert_planned(seen, make_loader(data), range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_validation_uses_each_sample_once_in_order(data: Path, kind: str) -> None:
    module = Validating()
    make_trainer(max_epochs=2, num_sanity_val_steps=0).fit(
        module, make_loader(data, kind), make_loader(data, kind, pipeline=EVALUATION)
    )
    once = [i for _, ids, _ in planned(make_loader(data, kind, pipeline=EVALUATION), [0]) for i in ids]
    assert Counter(once) == Counter(range(COUNT))
    assert module.validated == once * 2
    assert_planned(module.seen, make_loader(data, kind), range(2))
    module.validated.clear()
    make_trainer().validate(module, make_loader(data, kind, pipeline=EVALUATION), verbose=False)
    assert module.validated == once


def test_validation_within_an_epoch_leaves_the_place_in_training_alone(data: Path, tmp_path: Path) -> None:
    def fit(module: Validating, **options: Any) -> None:
        make_trainer(max_epochs=2, num_sanity_val_steps=2, val_check_interval=2, callbacks=[save]).fit(
            module, make_loader(data), make_loader(data, pipeline=EVALUATION), **options
        )

    save = SaveAtEveryBatch(tmp_path)
    whole, rest = Validating(), Validating()
    fit(whole)
    assert_planned(whole.seen, make_loader(data), range(2))
    fit(rest, ckpt_path=tmp_path / "3.ckpt", weights_only=False)
    assert rest.seen == whole.seen[3:]


@pytest.mark.filterwarnings(
    "ignore:You are using a custom batch sampler `PlanSampler` for prediction"
)  # it is complete
@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_predict_gives_each_sample_once_normalised(data: Path, hook: bool, workers: int) -> None:
    def loader() -> rf.DataLoader[Any]:
        return make_loader(data, pipeline=EVALUATION, num_workers=workers)

    module = Module()
    if hook:
        module.predict_dataloader = loader
        predictions = make_trainer().predict(module)
    else:
        predictions = make_trainer().predict(module, loader())
    expected = list(make_loader(data, pipeline=EVALUATION))
    assert Counter(i for batch in expected for i in batch.sample_ids.tolist()) == Counter(range(COUNT))
    for (batch, _), right in zip(predictions, expected, strict=True):
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.images, right.images)
        assert torch.equal(batch.sample_ids, right.sample_ids)


def test_hooks_give_loaders_as_well(data: Path) -> None:
    module = Module()
    module.train_dataloader = lambda: make_loader(data)
    make_trainer(max_epochs=2).fit(module)
    assert_planned(module.seen, make_loader(data), range(2))


def test_overfit_batches_is_refused_by_lightning(data: Path) -> None:
    with pytest.raises(TypeError, match="inject"), pytest.warns(UserWarning, match="requested to overfit"):
        make_trainer(overfit_batches=2).fit(Module(), make_loader(data))


def test_limit_train_batches_and_accumulation_follow_the_plan(data: Path) -> None:
    module = Module()
    make_trainer(limit_train_batches=2, accumulate_grad_batches=2, max_epochs=2).fit(module, make_loader(data))
    loader = make_loader(data)
    assert module.seen == [*planned(loader, [0])[:2], *planned(loader, [1])[:2]]


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_pipeline_fit_and_checkpoint_are_as_with_torch(tmp_path: Path, workers: int) -> None:
    seen = []
    for number, kind in enumerate((torch.utils.data.DataLoader, rf.DataLoader)):
        torch.manual_seed(1)
        module, folder = Module(), tmp_path / str(number)
        folder.mkdir()
        loader = kind(as_torch_gives(), batch_size=3, shuffle=True, num_workers=workers)
        make_trainer(max_epochs=2, callbacks=[SaveAtEveryBatch(folder)]).fit(module, loader)
        seen.append(module.seen)
    assert seen[0] == seen[1]
    assert Counter(label for _, _, labels in seen[1] for label in labels) == Counter(i % 7 for i in [*range(16)] * 2)
    for step in (2, 6, 8) if workers == 0 else (2,):
        torch.manual_seed(2)
        rest = Module()
        loader = rf.DataLoader(as_torch_gives(), batch_size=3, shuffle=True, num_workers=workers)
        make_trainer(max_epochs=2).fit(rest, loader, ckpt_path=tmp_path / "1" / f"{step}.ckpt", weights_only=False)
        left = 6 - step % 6 if step % 6 else 0
        assert rest.seen[:left] == seen[1][step : step + left]
        assert len(rest.seen) == 12 - step


@pytest.fixture(scope="module")
def ranks(data: Path) -> dict[str, list[Any]]:
    return in_ranks(
        "tests.trainers.lightning_ranks", [("fit", 2), ("fit_launched", 2), ("evaluate", 2), ("rates", 2)], data
    )


@pytest.mark.parametrize("job", ["fit/2", "fit_launched/2"])
def test_two_ranks_share_each_batch_of_the_plan(data: Path, ranks: dict[str, list[Any]], job: str) -> None:
    loader = make_loader(data, batch_size=2 * BATCH)
    first, second = ranks[job]
    assert len(first) == len(second) == 2 * len(loader)
    both = [(e, one + other, r) for (e, one, r), (_, other, _) in zip(first, second, strict=True)]
    assert_planned(both, loader, range(2))
    for epoch in range(2):
        assert Counter(i for e, ids, _ in both for i in ids if e == epoch) == Counter(range(COUNT))


def test_two_ranks_validate_and_predict_each_sample_once(ranks: dict[str, list[Any]]) -> None:
    for what in ("validated", "predicted"):
        assert Counter(i for rank in ranks["evaluate/2"] for i in rank[what]) == Counter(range(COUNT))


def assert_same_rates(ranks: list[Any]) -> None:
    for rank in ranks:
        assert len(rank) == 3
        for how, seen in rank.items():
            assert len(set(seen["torch"][0])) > 1
            assert seen["resflow"] == seen["torch"], how


def test_rates_are_those_of_pytorchs_loader(ranks: dict[str, list[Any]]) -> None:
    assert_same_rates(ranks["rates/2"])


@pytest.mark.slow
def test_rates_on_other_numbers_of_ranks(data: Path) -> None:
    for found in in_ranks("tests.trainers.lightning_ranks", [("rates", 1), ("rates", 4)], data).values():
        assert_same_rates(found)
