"""A PyTorch that lacks a private name: passes go on with what is public, and a warning says what is missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import resflow as rf
from resflow.errors import ConfigError
from resflow.session import torch_compat
from tests.shards import make_shards

COUNT = 12
PIPELINE = rf.Pipeline(resolution=32, buckets=1, stride=8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("compat"), COUNT, per_shard=COUNT)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hides a private attribute of PyTorch's loader and iterators from all code but PyTorch's own."""

    def hidden(name: str) -> None:
        def get(one: Any, asked: str) -> Any:
            if asked == name and not sys._getframe(1).f_globals["__name__"].startswith("torch."):
                raise AttributeError(asked)
            return object.__getattribute__(one, asked)

        for kind in (torch_compat.WorkersIterator, torch_compat.SingleProcessIterator):
            monkeypatch.setattr(kind, "__getattribute__", get, raising=False)
        monkeypatch.setattr(torch_compat, "_said", set())

    return hidden


@pytest.mark.parametrize("name", torch_compat._OF_WORKERS)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_workers_that_cannot_be_watched_do_their_work(name: str, shards: str, hide: Callable[[str], None]) -> None:
    hide(name)
    loader = rf.DataLoader(shards, 4, num_workers=1, pipeline=PIPELINE)
    with pytest.warns(UserWarning, match=f"{re.escape(torch.__version__)} has no {name}, .*death of a worker") as said:
        counts = [len(batch) for _ in range(2) for batch in loader]
    assert sum(counts) == 2 * COUNT
    assert len(said) == 1


@pytest.mark.parametrize("name", ["_data_queue", "_task_info", "_sampler_iter"])
def test_what_is_missing_elsewhere_costs_a_figure_alone(name: str, shards: str, hide: Callable[[str], None]) -> None:
    hide(name)
    loader = rf.DataLoader(shards, 4, num_workers=1, pipeline=PIPELINE)
    assert sum(len(batch) for batch in loader) == COUNT
    assert (loader.stats().queue_depth is None) == (name != "_sampler_iter")
    plain = rf.DataLoader(list(range(COUNT)), 4, shuffle=True)
    assert sum(map(len, plain)) == COUNT


@pytest.mark.parametrize("workers", [0, 1])
def test_without_iterators_of_its_own_a_plain_loader_is_pytorchs(
    workers: int, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_compat, "_said", set())
    monkeypatch.setattr(torch_compat, "SingleProcessIterator", object)  # as where PyTorch named it otherwise
    plain = rf.DataLoader(list(range(COUNT)), 4, num_workers=workers)
    with pytest.warns(UserWarning, match=r"has no _next_index, _reset, .*state_dict needs a pipeline"):
        assert torch.cat(list(plain)).tolist() == list(range(COUNT))
    with pytest.raises(ConfigError, match=rf"torch=={torch_compat.CHECKED}"):
        plain.state_dict()
    planned = rf.DataLoader(shards, 4, num_workers=workers, persistent_workers=workers > 0, pipeline=PIPELINE)
    for _ in range(2):
        assert sum(len(batch) for batch in planned) == COUNT


def test_shared_memory_that_pytorch_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_compat, "_said", set())
    owner = next(kind for kind in torch.UntypedStorage.__mro__ if "_new_shared" in vars(kind))
    monkeypatch.delattr(owner, "_new_shared")
    with pytest.warns(UserWarning, match="has no _new_shared"):
        assert torch_compat.shared_storage(100) is None


def test_no_other_module_touches_them() -> None:
    names = {*torch_compat._OF_WORKERS, "_data_queue", "_task_info", "_sampler_iter", "_new_shared", "_dataset_kind"}
    names |= {"_get_default_store", "_remove_worker_pids", "_MultiProcessingDataLoaderIter"} - {"_workers"}
    folder = Path(torch_compat.__file__).parent
    for path in [*folder.glob("*.py"), folder.parent / "loader.py"]:
        if path.name != "torch_compat.py":
            found = {name for name in names if re.search(rf"(?<!self)\.{name}\b", path.read_text())}
            assert not found, f"{path.name}: {found}"
