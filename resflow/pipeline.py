"""What is done to a sample, from its place in an epoch to numbers on a device, as one frozen value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resflow.augment.per_image_kinds import check as check_transform
from resflow.augment.per_image_kinds import view_error
from resflow.augment.per_image_text import transform_text
from resflow.checks import check_fields, is_number, is_whole, whole
from resflow.config import Node, pipeline_file, read_fields
from resflow.decode import engine_names
from resflow.decode.placement import Interpolation
from resflow.errors import ConfigError
from resflow.evaluation import evaluation_fields
from resflow.extras import needed_for
from resflow.geometry import Fit, RandomResizedCrop, View
from resflow.geometry.ramp import has_ramp, resolution_progress
from resflow.images import MAX_PIXELS
from resflow.normalize import Normalize
from resflow.pipeline_fields import DTYPES, MEMORY_FORMATS, READERS
from resflow.pixels import PLAIN, Pixels, check_pixels
from resflow.plan import Buckets, Schedule, as_schedule
from resflow.skip import Skip
from resflow.targets import Targets

_LEFT_OUT = ("device", "on_error", "max_pixels", "strict", "memory_format")  # of `describe`
_LATER = ("interpolation", "transforms", "pixels")  # which it tells where they are not the default


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What is done to a sample. Built in Python or read from YAML (`Pipeline.from_yaml`), the same thing both ways.

    Args:
        resolution: side in pixels of the square whose area a batch's shape comes close to, or a schedule of it.
        buckets: how many aspect ratios to learn from the data, or `Buckets` learned before.
        stride: heights and widths of batches are multiples of it; the model's total stride, in pixels.
        area_tolerance: how far a shape's area may lie from the resolution's square, as a share of it, in [0, 1).
        fit: how an image is placed into its batch's shape.
        views: random views, drawn before decoding and composed with the placement to one matrix.
        interpolation: filter of the crop and resize, as Pillow has it: "bilinear" or "bicubic", both antialiased.
        transforms: callables of one image, run one after the other where images are decoded (docs/transforms.md):
            torchvision's, albumentations' and timm's colour operations, or any function of a tensor uint8 [3, H, W].
            They change no shape, and move no pixels.
        augment: what is done to whole batches on the device, in order: modules of kornia.augmentation, and `Ramped`,
            `Mosaic`, `MixUp`, `CutMix` and `CopyPaste` of `resflow.augment`. Images are then floating, in [0, 1].
        normalize: mean and standard deviation, applied on the device; None leaves bytes (uint8).
        dtype: float32, float16 or bfloat16 of normalised or augmented images.
        memory_format: how images lie in memory: torch.contiguous_format, as PyTorch's loader gives them, so that
            `images.view(len(images), -1)` works; or torch.channels_last, for models in that format, which is the
            decoders' own and saves a copy.
        targets: extension of the sample's member that holds its class as a decimal number; `Targets` for boxes, masks,
            keypoints and classes of pixels; None: no targets.
        tier_quality: of shards with tiers (`resflow tiers`), the smallest is read that holds at least so many pixels of
            what is drawn for an output pixel along each axis; above 0. None reads the originals.
        max_pixels: height times width of the largest image that is decoded; a larger one is a `DecodeError`.
        engine: "auto" (dali on a GPU, turbo on a CPU), "dali", "turbo" or "pillow".
        device: where batches are handed out: "cpu", "cuda" or "cuda:N".
        on_error: "raise" ends the pass at a bad sample; `Skip(budget=...)` leaves a blank place for it (docs/skip.md).
        strict: whether an image is bad that only a lenient decoder reads (damage that Pillow reads over, as torchvision
            does), or whose greyscale of more than 8 bits would be cut to 0..255. False decodes both, as torchvision
            does, and counts them: `Batch.tolerated`, `DataLoader.stats()`.
        pixels: channels and dtype of the images: `Pixels()` is 8-bit RGB; greyscale, alpha, many bands, 16 bits and
            fractions are decoded on the CPU by engine "wide" (docs/pixels.md).

    Raises:
        ConfigError: a field has a wrong type or value.
    """

    resolution: int | Schedule
    buckets: int | Buckets = 8
    stride: int = 32
    area_tolerance: float = 0.15
    fit: Fit = dataclasses.field(default_factory=Fit)
    views: Sequence[View] = ()
    interpolation: Interpolation = "bilinear"
    transforms: Sequence[Callable[..., Any]] = ()
    augment: Sequence[Any] = ()
    normalize: Normalize | None = None
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    targets: str | Targets | None = "cls"
    tier_quality: float | None = 1.0
    max_pixels: int = MAX_PIXELS
    engine: str = "auto"
    device: str = "cpu"
    on_error: str | Skip = "raise"
    strict: bool = False
    pixels: Pixels = PLAIN

    def __post_init__(self) -> None:
        as_schedule(self.resolution)
        for name in ("views", "transforms", "augment"):
            if isinstance(value := getattr(self, name), Sequence):
                object.__setattr__(self, name, tuple(value))
        for name in ("resolution", "buckets", "stride", "max_pixels"):  # of NumPy they would read otherwise as text
            if (number := whole(getattr(self, name), 1)) is not None:
                object.__setattr__(self, name, number)
        checks: tuple[tuple[str, bool, str], ...] = (
            (
                "buckets",
                isinstance(self.buckets, Buckets) or is_whole(self.buckets),
                "a whole number above 0, or Buckets",
            ),
            ("stride", is_whole(self.stride), "a whole number of pixels above 0"),
            ("area_tolerance", is_number(self.area_tolerance) and 0 <= self.area_tolerance < 1, "a share in [0, 1)"),
            ("fit", isinstance(self.fit, Fit), "a Fit"),
            ("views", isinstance(self.views, tuple), "a sequence of views"),
            ("interpolation", self.interpolation in ("bilinear", "bicubic"), '"bilinear" or "bicubic"'),
            ("transforms", isinstance(self.transforms, tuple), "a sequence of callables; put one in a list"),
            ("augment", isinstance(self.augment, tuple), "a sequence of Kornia's modules and resflow.augment's"),
            ("normalize", self.normalize is None or isinstance(self.normalize, Normalize), "a Normalize, or None"),
            ("dtype", self.dtype in DTYPES.values(), f"one of {', '.join(DTYPES)}"),
            (
                "memory_format",
                self.memory_format in MEMORY_FORMATS.values(),
                " or ".join(f"torch.{name}" for name in MEMORY_FORMATS),
            ),
            (
                "targets",
                self.targets is None or isinstance(self.targets, str | Targets),
                "the extension of a member, Targets, or None",
            ),
            (
                "tier_quality",
                self.tier_quality is None or (is_number(self.tier_quality) and self.tier_quality > 0),
                "a number above 0, or None",
            ),
            ("max_pixels", is_whole(self.max_pixels), "a whole number of pixels above 0"),
            (
                "engine",
                self.engine in engine_names(),
                f"one of {', '.join(engine_names())}",
            ),
            ("device", _device(self.device), '"cpu", "cuda" or "cuda:N"'),
            (
                "strict",
                isinstance(self.strict, bool) and not (self.strict and self.engine == "pillow"),
                'a bool, and False with engine "pillow", which has no strict decoder',
            ),
            ("pixels", isinstance(self.pixels, Pixels), "a Pixels"),
            ("on_error", self.on_error == "raise" or isinstance(self.on_error, Skip), '"raise", or a Skip'),
        )
        check_fields(self, checks)
        for view in self.views:
            if not isinstance(view, View) or isinstance(view, type):
                raise view_error(view)
        if isinstance(self.buckets, Buckets) and self.buckets.stride % self.stride:
            raise ConfigError(
                f"Pipeline.stride is {self.stride}, but the shapes of Pipeline.buckets are multiples of "
                f"{self.buckets.stride}. Learn them with that stride."
            )
        if any(isinstance(view, RandomResizedCrop) for view in self.views[1:]):
            raise ConfigError(
                "Pipeline.views: RandomResizedCrop replaces the placement, so it must stand first, and once"
            )

        check_pixels(
            self.pixels, self.normalize, self.padding, self.engine, transforms=self.transforms, augment=self.augment
        )
        for transform in self.transforms:
            check_transform(transform, spatial=isinstance(self.targets, Targets))
        if self.transforms and self.engine == "dali" and torch.device(self.device).type == "cuda":
            raise ConfigError(
                "Pipeline.transforms run on the CPU, image by image, but engine='dali' decodes on the GPU. Leave "
                "engine at 'auto', which then decodes in num_workers processes, or use Kornia's modules in augment."
            )
        if self.augment:
            from resflow.augment import Augment  # with Kornia, which takes seconds

            Augment(self.augment).check(spatial=isinstance(self.targets, Targets))
        if has_ramp((self.views, self.augment)):
            resolution_progress(1, self.schedule.resolutions)

    @property
    def schedule(self) -> Schedule:
        """The resolution as a schedule."""
        return as_schedule(self.resolution)

    @property
    def target_options(self) -> Targets:
        """How spatial targets are treated: the pipeline's own, or the defaults where a class is all it reads."""
        return self.targets if isinstance(self.targets, Targets) else Targets()

    @property
    def padding(self) -> tuple[int, int, int]:
        """The colour of padding: `fit.fill`; of other pixels than 8-bit RGB, 0 unless `fit.fill` was given."""
        pixels = self.pixels
        known = (pixels.channels, pixels.dtype) == (3, "uint8") or self.fit.fill != Fit().fill
        return self.fit.fill if known else (0, 0, 0)

    @property
    def decoder(self) -> str:
        """Name of the engine that decodes: `engine`, or what "auto" stands for."""
        if self.engine != "auto":
            return self.engine
        if not self.pixels.plain:
            return "wide"
        return "dali" if torch.device(self.device).type == "cuda" and not self.transforms else "turbo"

    @classmethod
    def from_yaml(cls, path: str | Path) -> Pipeline:
        """Read a pipeline from a YAML file.

        Args:
            path: the file, or the name of a ready pipeline, such as "classification" or "detection".

        Returns:
            The same value that Python would build.

        Raises:
            ConfigError: the file cannot be read, or a key or value is wrong; names file and line.
        """
        pipeline: Pipeline = read_fields(Node.load(pipeline_file(path)), cls, READERS, what="pipeline")
        return pipeline

    @classmethod
    def for_model(cls, model: torch.nn.Module, **options: Any) -> Pipeline:
        """A pipeline whose shapes a model takes: of its stride, and with no resolution that is too small for it.

        Long shapes are only known when buckets are learned: `spatial_spec(model).check(loader.shapes())` of
        `resflow.models` checks those too, where the model's minimum is above its stride.

        Args:
            model: takes images [B, C, H, W]; examined in the mode it is in by `resflow.models.spatial_spec`.
            options: fields of `Pipeline`. `stride` may be left out; of a model of one size also `resolution` and
                `buckets`, which then are that square.

        Returns:
            The pipeline.

        Raises:
            ConfigError: a resolution or bucket at which nothing would be left in the model, naming the layer; a stride
                that is no multiple of the model's; a model that cannot be examined; a field is wrong.
        """
        from resflow.models.options import pipeline_options

        return cls(**pipeline_options(model, options))

    @classmethod
    def from_transforms(cls, transform: Callable[..., Any], **changes: Any) -> Pipeline:
        """The pipeline that does what a torchvision transform does, in squares as it says, or in buckets.

        `RandomResizedCrop`, flips, `RandomRotation` and `RandomAffine` become views; `Resize` with `CenterCrop` gives
        the same rows and columns; colour operations and `RandomErasing` become `transforms`, `Normalize` becomes
        `normalize`. Give the loader a dataset without the transform.

        Args:
            transform: a `Compose` of torchvision (v1 or v2), a `torch.nn.Sequential` of its transforms, one of its
                presets, or one of timm's; resized bilinearly.
            changes: fields of `Pipeline`, in place of what the transform says: `resolution` and `buckets` for a
                schedule and batches of several shapes.

        Returns:
            The pipeline.

        Raises:
            ConfigError: a step that a pipeline cannot take; names it and the way out.
        """
        with needed_for("Pipeline.from_transforms needs"):
            from resflow.transform_fields import transform_fields  # with torchvision

        return cls(**transform_fields(transform, changes))

    def evaluation(
        self,
        *,
        resolution: int | None = None,
        resize: int | None = None,
        crop: int | None = None,
        transforms: Sequence[Callable[..., Any]] | None = None,
    ) -> Pipeline:
        """The same pipeline with nothing random in it, at one fixed resolution.

        Args:
            resolution: pixels; None takes the highest that the schedule reaches. It may be higher than any trained at.
                Squares stay squares; of buckets of other ratios, as many are learned anew where they lack it.
            resize: with `crop`: pixels of the short side of each image, of whose centre `crop` by `crop` pixels are
                taken, as torchvision's `Resize(resize)` and `CenterCrop(crop)` do, whatever `fit` and `buckets` are.
            crop: pixels.
            transforms: which per-image transforms stay; None keeps those that do the same each time (`Grayscale`).

        Returns:
            A pipeline without the views and augmentations that draw random numbers; those that do the same to every
            image stay. A loader over it, left unshuffled, goes through each bucket in dataset order and gives every
            sample exactly once over all ranks.

        Raises:
            ConfigError: only one of `resize` and `crop`, or either beside `resolution`; nobody can tell whether a
                transform is random, and `transforms` is not given.
        """
        fields = evaluation_fields(self, resolution=resolution, resize=resize, crop=crop, transforms=transforms)
        return dataclasses.replace(self, **fields)

    def shapes(self, buckets: Buckets | None = None) -> tuple[tuple[int, int], ...]:
        """Every shape that batches will have, so that a script can compile or warm up for all of them ahead.

        Args:
            buckets: as a loader learned them (`loader.buckets`); default: the pipeline's own, where it has `Buckets`.
                `loader.shapes()` also tells how many images a batch of each shape has.

        Returns:
            (height, width) in pixels, each shape once, by resolution and then by aspect ratio.

        Raises:
            ConfigError: the buckets are not learned yet, and none were given.
            PlanError: the buckets have no shapes at one of the schedule's resolutions.
        """
        known = self.buckets if buckets is None else buckets
        if not isinstance(known, Buckets):
            raise ConfigError(
                f"Pipeline.buckets is {known!r}: which shapes these are is learned from the data. Ask the loader "
                "(loader.shapes()), or pass Pipeline.shapes(loader.buckets)."
            )
        every = range(len(known))
        found = (known.shape(bucket, resolution) for resolution in self.schedule.resolutions for bucket in every)
        return tuple(dict.fromkeys(found))

    def progress(self, resolution: int) -> float:
        """How far a resolution lies between the schedule's lowest (0) and highest (1): what a `Ramp` follows.

        Args:
            resolution: one of the schedule's, in pixels.
        """
        resolutions = self.schedule.resolutions
        return resolution_progress(resolution, resolutions) if len(resolutions) > 1 else 1.0

    def describe(self) -> dict[str, str]:
        """Each field that decides what a batch holds, as text; two pipelines that agree on all give the same batches.

        `device` and `memory_format` are left out, so that a run may resume on another machine. With engine "auto"
        another engine may then decode, and pixels differ by its tolerance. So are `on_error`, `max_pixels` and
        `strict`: a run that a bad sample ended may go on and skip it, or decode it.
        """
        names = (field.name for field in dataclasses.fields(self) if field.name not in _LEFT_OUT)
        described = {name: _text(getattr(self, name)) for name in names if name not in _LATER}
        if self.transforms:  # so that states saved before there were any can be loaded
            described["transforms"] = ", ".join(map(transform_text, self.transforms))
        if self.interpolation != "bilinear":  # likewise
            described["interpolation"] = repr(self.interpolation)
        if not self.pixels.plain:
            described["pixels"] = self.pixels.describe()
        return described


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    if isinstance(value, torch.nn.Module):
        return _module_text(value)
    if isinstance(value, Buckets):
        return f"Buckets(edges={value.edges.tolist()}, shapes={value.shapes.tolist()})"
    return repr(value)


def _module_text(module: torch.nn.Module) -> str:
    """Kornia's own text, and the plain values that it leaves out, such as how many operations are drawn."""
    plain = (bool, int, float, str, tuple, type(None))
    parts = [
        f"{path}.{name}={value!r}"
        for path, part in module.named_modules()
        for name, value in sorted(vars(part).items())
        if name[0] != "_" and name not in ("training", "call_super_init") and isinstance(value, plain)
    ]
    return f"{module!r}[{', '.join(parts)}]"


def _device(value: object) -> bool:
    try:
        return isinstance(value, str) and torch.device(value).type in ("cpu", "cuda")
    except RuntimeError:
        return False
