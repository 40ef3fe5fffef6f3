"""The DataLoader: PyTorch's own without a pipeline, planned fixed-shape batches with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.utils.data

from resflow.errors import ConfigError
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, Cursor, EpochPlan, PixelBudget, World
from resflow.runtime.run import Pass, PlannedRun, as_it_is
from resflow.runtime.world import current_world
from resflow.sources import ShardSource, Source

_PREFETCH = 2  # PyTorch's default: batches ahead for each worker


class DataLoader(torch.utils.data.DataLoader[Any]):
    """PyTorch's DataLoader, and with a `pipeline` one that plans fixed-shape batches over images of many sizes.

    Without `pipeline` it is `torch.utils.data.DataLoader`: same arguments, same results, same errors. With one, each
    pass over the loader is an epoch of the plan: every sample once, in batches of one shape each, the same shape on
    every rank at each step; a pass gives `Batch`es, which unpack as `images, targets`.

    Args:
        dataset: without `pipeline`, any PyTorch dataset; with one, shards (a path with braces or wildcards, or a
            list of paths; `resflow index` must have indexed them) or any `resflow.sources.Source`.
        batch_size: samples in a rank's batch; or, with a pipeline, a `PixelBudget`.
        shuffle: whether samples and batches come in an order drawn anew for each epoch.
        num_workers: with a pipeline, processes that read and decode, or on a GPU the decoder's CPU threads; 0 works in
            this process.
        pin_memory: as in PyTorch.
        drop_last: leave out fewer than one global batch of samples rather than have one short batch in an epoch.
        prefetch_factor: batches ahead for each worker; default 2.
        pipeline: what is done to each sample.
        seed: everything random follows from it, the epoch and the sample's number.
        world: rank and number of ranks; default: torch.distributed's, else RANK and WORLD_SIZE, else one alone.
        options: PyTorch's other arguments, with PyTorch's meaning.

    Raises:
        ConfigError: an argument that has no meaning beside a pipeline, or a wrong value.
        PlanError: no plan satisfies the batch size, stride and resolutions asked for.
        ShardError: shards are missing; IndexFileError where the index is missing or stale.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | PixelBudget | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        *args: Any,
        pipeline: Pipeline | None = None,
        seed: int = 0,
        world: World | None = None,
        **options: Any,
    ) -> None:
        self._run: PlannedRun | None = None
        if pipeline is None:
            if isinstance(dataset, str | Path):
                raise ConfigError(
                    f"reading {dataset!r} needs a pipeline. Pass DataLoader(..., pipeline=Pipeline(...))."
                )
            size: Any = batch_size  # a PixelBudget is PyTorch's to refuse
            super().__init__(
                dataset, size, shuffle, sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last,
                timeout, *args, **options,
            )  # fmt: skip
            return
        refused = {"sampler": sampler, "batch_sampler": batch_sampler, "collate_fn": collate_fn}
        refused["in_order"] = None if options.get("in_order", True) else False
        for name, value in refused.items():
            if value is not None:
                raise ConfigError(
                    f"{name} has no meaning beside a pipeline, whose plan decides it; got {value!r}. Drop it."
                )
        run = PlannedRun(
            _open_source(dataset),
            pipeline,
            batch_size=batch_size,
            shuffle=bool(shuffle),
            drop_last=drop_last,
            seed=seed,
            world=world or current_world(),
            threads=num_workers or torch.get_num_threads(),
            prefetch=num_workers * (options.get("prefetch_factor") or _PREFETCH) or _PREFETCH,
        )
        if run.in_this_process:
            num_workers = 0
            options = options | {"prefetch_factor": None, "persistent_workers": False}
        super().__init__(
            run.dataset, 1, None, None, run.sampler, num_workers, as_it_is, pin_memory, False, timeout, *args, **options
        )
        self._run = run

    def __iter__(self) -> Any:
        if self._run is None:
            return super().__iter__()
        run = self._run
        run.begin()
        batches = run.prefetched() if run.in_this_process else super().__iter__()
        return Pass(run, iter(batches))

    @property
    def epoch(self) -> int:
        """The epoch of the next pass, or of the one under way."""
        return self._planned("epoch").epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass. Without it, each pass is the epoch after the last.

        A position restored by `load_state_dict` is kept if it lies in this epoch.

        Args:
            epoch: at least 0.

        Raises:
            ConfigError: a negative epoch, or a loader without a pipeline.
        """
        self._planned("set_epoch").set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where this loader is: plain JSON values, valid at any batch, on any rank.

        Raises:
            ConfigError: a loader without a pipeline.
        """
        return self._planned("state_dict").cursor().to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken: the next pass gives the rest of that epoch, bit by bit.

        Args:
            state: what `state_dict` returned.

        Raises:
            StateError: the state is damaged or belongs to other data, seed, batch size or pipeline.
            ConfigError: a loader without a pipeline.
        """
        self._planned("load_state_dict").restore(Cursor.from_json(state))

    @property
    def buckets(self) -> Buckets:
        """The buckets, learned from the data or given."""
        return self._planned("buckets").buckets

    def plan(self, epoch: int) -> EpochPlan:
        """All global batches of an epoch, without reading a byte.

        Args:
            epoch: at least 0.
        """
        return self._planned("plan").plan(epoch)

    def _planned(self, name: str) -> PlannedRun:
        if self._run is None:
            raise ConfigError(f"DataLoader.{name} needs a pipeline. Pass DataLoader(..., pipeline=Pipeline(...)).")
        return self._run


def _open_source(dataset: object) -> Source:
    if isinstance(dataset, Source):
        return dataset
    if isinstance(dataset, str | Path) or (
        isinstance(dataset, Sequence) and all(isinstance(part, str | Path) for part in dataset)
    ):
        return ShardSource(dataset)
    raise ConfigError(
        f"with a pipeline, dataset must be shards (a path with braces or wildcards, or a list of paths) or a Source; "
        f"got {type(dataset).__name__}"
    )
