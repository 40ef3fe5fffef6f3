"""The DataLoader: PyTorch's own without a pipeline, planned fixed-shape batches with one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic

import torch
import torch.utils.data
from typing_extensions import TypeVar  # typing's own takes a default from Python 3.13 on

from resflow.decode.registry import load_engine
from resflow.errors import ConfigError
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, EpochPlan, PixelBudget, World
from resflow.session.device import on_cpu
from resflow.session.finalize import BatchFinalizer
from resflow.session.iterator import Loop
from resflow.session.meter import Meter, ready_batches
from resflow.session.open_session import open_session
from resflow.session.plain import PlainPass, PlainSession, plain_pass
from resflow.session.session import Session
from resflow.session.stats import Stats
from resflow.session.torch_compat import can_make_iterators, forget, is_under_way, persisting, set_facts
from resflow.session.torch_iterators import InProcess, OverWorkers, begin_iterator
from resflow.session.workers import WorkerInit, check_may_start, watch_workers
from resflow.skip import Skipped

_PREFETCH = 2  # PyTorch's default: batches ahead for each worker

_OF_A_SESSION = {"epoch": "epoch", "buckets": "buckets", "skipped": "skipped", "total_batch_size": "global_batch_size"}

T_co = TypeVar("T_co", covariant=True, default=Any)


class DataLoader(torch.utils.data.DataLoader[T_co], Generic[T_co]):
    """PyTorch's DataLoader, and with a `pipeline` one that plans fixed-shape batches over images of many sizes.

    Without `pipeline` it is `torch.utils.data.DataLoader`: same arguments, same results, same errors; `state_dict` and
    `load_state_dict` resume it, too. With one, each pass over the loader is an epoch of the plan: every sample once, in
    batches of one shape each, the same shape on every rank at each step; a pass gives `Batch`es, which unpack as
    `images, targets`.

    Args:
        dataset: without `pipeline`, any PyTorch dataset. With one: shards (a path with braces or wildcards, or a list
            of paths; `resflow index` must have indexed them), any `resflow.sources.Source`, or a dataset whose items
            are (image, target), the image a path, encoded bytes, a PIL image, an array or a tensor. Iterable datasets,
            webdataset's pipelines and shards at a URL without an index are streams: what they can promise is told in
            docs/ordering.md.
        batch_size: samples in a rank's batch; or, with a pipeline, a `PixelBudget`.
        shuffle: whether samples and batches come in an order drawn anew for each epoch.
        sampler: as in PyTorch. Beside a pipeline it must be one of indices, and the pipeline of one shape for each
            resolution, such as `Buckets.square`; docs/ordering.md says what it means on several ranks.
        batch_sampler: the same by the batch.
        num_workers: with a pipeline, processes that read and decode, or on a GPU the decoder's CPU threads; 0 works in
            this process.
        collate_fn: PyTorch's; with a pipeline, from a finished `Batch` to what the loop is given, called in the loop's
            own process. `tuple` gives the plain pair of images and targets; `default_collate` changes nothing.
        pin_memory: as in PyTorch.
        drop_last: leave out fewer than one global batch of samples rather than have one short batch in an epoch.
        timeout: as in PyTorch.
        worker_init_fn: as in PyTorch.
        multiprocessing_context: as in PyTorch.
        generator: as in PyTorch; ignored beside a pipeline, with a warning: everything random follows from `seed`.
        prefetch_factor: batches ahead for each worker; default 2.
        persistent_workers: as in PyTorch.
        pin_memory_device: as in PyTorch.
        in_order: as in PyTorch; beside a pipeline always True.
        pipeline: what is done to each sample.
        seed: everything random in a plan follows from it, the epoch and the sample's number.
        world: rank and number of ranks; default: torch.distributed's, else RANK and WORLD_SIZE, else one alone.
        even: fill up the short batch by repeating samples, so that every rank has equally many (for trainers that
            gather and cut off the repeats, such as Accelerate's `gather_for_metrics`).
        decorrelate: at each step give the ranks batches of different buckets, as far as the data has them: gradients
            are of mixed shapes, where by default steps take equally long on all ranks. Each sample is used once all
            the same; a state is good for as many ranks as it was saved by.
        sizes: height and width of each image of a dataset, integers [N, 2], or the path of a file of them, which is
            written if it is missing; default: read from the images' headers, asked of the dataset, or measured once.
        sampling: how often samples come in an epoch (`rf.sampling`); default: each once.

    Raises:
        ConfigError: an argument that has no meaning beside a pipeline, or a wrong value.
        PlanError: no plan satisfies the batch size, stride and resolutions asked for.
        ShardError: shards are missing; IndexFileError where the index is missing or stale.
    """

    epoch: int
    """The epoch of the next pass, or of the one under way (with a pipeline)."""
    buckets: Buckets
    """The buckets, learned from the data or given (with a pipeline; None until a stream's first pass)."""
    skipped: tuple[Skipped, ...]
    """Bad samples that this rank skipped in the pass under way, or else the last (`Pipeline(on_error=Skip(...))`)."""

    _resflow_session: Session | None = None
    _meter: Meter | None = None
    _plain_place: PlainSession | None = None
    _plain_pass: PlainPass | None = None

    def __init__(
        self,
        dataset: Any,
        batch_size: int | PixelBudget | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        pipeline: Pipeline | None = None,
        seed: int = 0,
        world: World | None = None,
        even: bool = False,
        decorrelate: bool = False,
        sizes: Any = None,
        sampling: Any = None,
    ) -> None:
        kept: dict[str, Any] = {
            "pin_memory": pin_memory,
            "timeout": timeout,
            "multiprocessing_context": multiprocessing_context,
            "generator": generator,
            "pin_memory_device": pin_memory_device,
        }
        session: Session
        planner = getattr(batch_sampler, "session", None)  # a trainer builds the loader anew from its parts
        if isinstance(planner, Session):
            session = planner
        elif pipeline is None:
            if isinstance(dataset, str | Path):
                raise ConfigError(
                    f"reading {dataset!r} needs a pipeline. Pass DataLoader(..., pipeline=Pipeline(...))."
                )
            ours = {"seed": seed or None, "world": world, "even": even or None, "sizes": sizes}
            ours |= {"decorrelate": decorrelate or None, "sampling": sampling}
            for name, value in ours.items():
                if value is not None:
                    raise ConfigError(f"{name} has no meaning without a pipeline; got {value!r}. Drop it, or pass one.")
            size: Any = batch_size  # a PixelBudget is PyTorch's to refuse
            if collate_fn is None and (batch_size is not None or batch_sampler is not None):
                collate_fn = _collate_fused(dataset)
            super().__init__(
                dataset, size, shuffle, sampler, batch_sampler, num_workers, collate_fn, drop_last=drop_last,
                worker_init_fn=worker_init_fn, prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
                in_order=in_order, **kept,
            )  # fmt: skip
            return
        else:
            _refuse(in_order=None if in_order else in_order)
            if generator is not None:
                warnings.warn(
                    "generator is ignored beside a pipeline, where the order and all views follow from seed, alike on "
                    f"all ranks. Drop it, and pass seed={generator.initial_seed()} for an order of its own.",
                    stacklevel=2,
                )
            if batch_sampler is not None and (batch_size != 1 or sampler is not None or drop_last):
                raise ConfigError("batch_sampler decides batch_size, sampler and drop_last; drop these beside it")
            session = open_session(
                dataset,
                pipeline,
                batch_size=batch_size,
                shuffle=bool(shuffle),
                drop_last=drop_last,
                seed=seed,
                world=world,
                workers=num_workers,
                prefetch=num_workers * (prefetch_factor or _PREFETCH) or _PREFETCH,
                even=even,
                decorrelate=decorrelate,
                sizes=sizes,
                sampler=sampler,
                batch_sampler=batch_sampler,
                sampling=sampling,
            )
            batch_sampler = None
        if session.in_this_process:
            num_workers, prefetch_factor, persistent_workers = 0, None, False
        finish: Any = (
            collate_fn if isinstance(collate_fn, BatchFinalizer) else BatchFinalizer(session.pipeline, collate_fn)
        )
        batches: Any = session.dataset  # of batches, where PyTorch's types expect samples
        walker = session.sampler
        super().__init__(
            batches,
            batch_size=None if walker is None else 1,
            batch_sampler=walker if batch_sampler is None else batch_sampler,
            num_workers=num_workers,
            collate_fn=finish,
            worker_init_fn=worker_init_fn if isinstance(worker_init_fn, WorkerInit) else WorkerInit(worker_init_fn),
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            **kept,
        )
        # PyTorch forgets these beside a batch sampler, and trainers ask for them.
        size = session.batch_size
        known: dict[str, Any] = {"batch_size": size if isinstance(size, int) else None, "drop_last": session.drop_last}
        known |= {} if walker is None else {"sampler": walker.sampler}
        set_facts(self, **known)
        self._resflow_session = session
        self.use_stateful_dataloader = True
        self.end_of_dataloader, self.remainder = False, session.remainder()

    def __iter__(self) -> Any:
        check_may_start(self.num_workers)
        session = self._resflow_session
        if session is None and not can_make_iterators(self):
            return super().__iter__()
        if session is None:
            return plain_pass(self, self._place(), self._begun)
        session.asked(sys._getframe(1))
        guest = is_under_way(self)
        start = {name: getattr(self, name) for name in ("worker_init_fn", "multiprocessing_context", "timeout")}
        with on_cpu():
            stale = session.begin(living=persisting(self) is not None and not guest, guest=guest, **start)
        if stale:
            forget(self)  # what its workers were told does not hold any more
        steps, self.remainder = session.steps_left(), session.remainder()
        threads = 2 if session.in_this_process else 0
        ahead = session.prefetch if threads else self.num_workers * (self.prefetch_factor or _PREFETCH)
        meter = self._meter = Meter(
            session.epoch, workers=self.num_workers, threads=threads, queue_size=ahead, before=self._meter
        )
        if session.in_this_process:
            made: Any = session.prefetched()
            meter.depth = ready_batches(made)
            return Loop(self, session, made, steps, meter)
        if self.num_workers:
            load_engine(session.pipeline.decoder)
        with on_cpu():
            batches = begin_iterator(self, session, self._get_iterator if guest else super().__iter__, guest=guest)
        meter.depth = ready_batches(batches)
        return Loop(self, session, batches, steps, meter, watch_workers(batches, self))

    def _get_iterator(self) -> Any:
        if not can_make_iterators(self):
            return super()._get_iterator()
        if self.num_workers == 0:
            return InProcess(self)
        self.check_worker_number_rationality()
        return OverWorkers(self)

    def _begun(self, plain: PlainPass) -> Any:
        """PyTorch's iterator over a pass without a pipeline; one that is still under way keeps its workers."""
        self._plain_pass = plain
        guest = is_under_way(self)
        if plain.needs_new_workers and not guest:
            forget(self)
        return self._get_iterator() if guest else super().__iter__()

    def __len__(self) -> int:
        session = self._resflow_session
        if session is None:
            return super().__len__()
        session.asked(sys._getframe(1))
        return session.told_length()

    def __getattr__(self, name: str) -> Any:
        # Given by no attribute, so that without a pipeline PyTorch's own surface is all there is.
        if name == "_is_accelerate_prepared" and self._resflow_session is not None:
            self._resflow_session.asked(sys._getframe(1))
            return True  # ordered and sharded by the plan, not by Accelerate
        if name in _OF_A_SESSION and self._resflow_session is not None:
            return getattr(self._resflow_session, _OF_A_SESSION[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass. Without it, each pass is the epoch after the last.

        A position restored by `load_state_dict` is kept if it lies in this epoch. Without a pipeline the call is handed
        on to the sampler, batch sampler and dataset, as far as they take it.

        Args:
            epoch: at least 0.

        Raises:
            ConfigError: a negative epoch.
        """
        if self._resflow_session is not None:
            self._resflow_session.set_epoch(epoch)
            return
        parts = (self.sampler, self.batch_sampler, getattr(self.batch_sampler, "sampler", None), self.dataset)
        for part in {id(part): part for part in parts}.values():
            tell = getattr(part, "set_epoch", None)
            if callable(tell):
                tell(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where this loader is: plain JSON values, valid at any batch, with a plan on any rank."""
        if self._resflow_session is not None:
            return self._resflow_session.state()
        return self._place().state(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken: the next pass gives the rest of that epoch, with a pipeline bit by bit.

        Without a pipeline the samples of the rest are those of the saved pass, in its order; what a dataset draws at
        random for a sample is drawn anew. With an iterable dataset the batches before are made again and dropped.

        Args:
            state_dict: what `state_dict` returned.

        Raises:
            StateError: the state is damaged or belongs to other data, seed, batch size or pipeline.
        """
        if self._resflow_session is not None:
            self._resflow_session.restore(state_dict)
            return
        self._place().load(self, state_dict)

    def plan(self, epoch: int) -> EpochPlan:
        """All global batches of an epoch, without reading a byte.

        Args:
            epoch: at least 0.

        Raises:
            ConfigError: a loader without a pipeline, or over a stream.
        """
        if self._resflow_session is None:
            raise ConfigError(
                "DataLoader.plan needs a pipeline and data of known sizes. Pass DataLoader(..., "
                "pipeline=Pipeline(...)), and index shards with `resflow index`."
            )
        return self._resflow_session.plan(epoch)

    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Every shape of images that this rank's full batches will have, over all epochs.

        Unless `drop_last` is set, one batch of an epoch may hold fewer images; with a `PixelBudget`, batches may hold
        fewer than the limit told here.

        Returns:
            (batch, channels, height, width), each shape once, by resolution and then by aspect ratio.

        Raises:
            ConfigError: a loader without a pipeline, over a stream whose buckets are not learned yet, or of
                `Pixels(channels="file")`.
        """
        session = self._resflow_session
        if session is None:
            raise ConfigError("DataLoader.shapes needs a pipeline. Pass DataLoader(..., pipeline=Pipeline(...)).")
        size, channels = session.batch_size, session.pipeline.pixels.known_channels()
        return tuple(
            (size.limit(shape) if isinstance(size, PixelBudget) else int(size or 1), channels, *shape)
            for shape in session.pipeline.shapes(session.buckets)
        )

    def stats(self) -> Stats:
        """Where the pass under way, or else the last one, has spent its time; `print` it for a table with advice.

        Returns:
            Seconds and images a second by stage, depth of the queue, padded and cropped share, bytes read, and one
            sentence of advice. `Stats.write(writer, step)` hands them to TensorBoard (docs/stats.md).

        Raises:
            ConfigError: a loader without a pipeline, or before its first pass.
        """
        if self._meter is None:
            before = "has begun no pass" if self._resflow_session is not None else "has no pipeline"
            raise ConfigError(
                f"DataLoader.stats tells of a pass over a loader with a pipeline; this one {before}. Iterate over a "
                "DataLoader(..., pipeline=Pipeline(...)) first."
            )
        return self._meter.stats()

    def _place(self) -> PlainSession:
        if self._plain_place is None:
            self._plain_place = PlainSession()
        return self._plain_place


def _collate_fused(dataset: Any) -> Callable[[Any], Any] | None:
    """What collates batches of a dataset that `fuse` made, or that holds one; None for any other."""
    if "resflow.fusion" not in sys.modules:
        return None
    from resflow.fusion import collate_views, holds_fused

    return collate_views if holds_fused(dataset) else None


def _refuse(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ConfigError(
                f"{name} has no meaning beside a pipeline, whose plan decides it; got {value!r}. Drop it."
            )
