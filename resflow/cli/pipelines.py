"""The pipeline of a command, with the targets that were asked for, and whether the data has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from resflow.pipeline import Pipeline
    from resflow.sources import Sample, Source

_LOOKED_AT = 64  # samples, spread evenly, that are asked for their targets

PipelineName = Annotated[
    str,
    typer.Argument(metavar="PIPELINE", help="What is done to the samples: a YAML file, or a ready pipeline's name."),
]
TargetsOption = Annotated[
    str | None,
    typer.Option(
        "--targets",
        metavar="none|objects|MEMBER",
        help="Targets to read, whatever the pipeline says: none, objects or masks, or a member such as cls.",
    ),
]


def read_pipeline(name: str, targets: str | None = None) -> Pipeline:
    """The pipeline of a file or name.

    Args:
        name: the file, or the name of a ready pipeline.
        targets: "none", "objects", the extension of a member with a class, or None: what the pipeline says.

    Raises:
        ConfigError: there is no such pipeline, or something is wrong with it.
    """
    from resflow.pipeline import Pipeline

    pipeline = Pipeline.from_yaml(name)
    return pipeline if targets is None else replace(pipeline, targets=targets_of(targets, pipeline.target_options))


def targets_of(text: str, options: Any = None) -> Any:
    """`Pipeline.targets` as --targets says it."""
    from resflow.targets import Targets

    return {"none": None, "objects": options or Targets()}.get(text, text.removeprefix("."))


def likely_targets(source: Source) -> Any:
    """What `Pipeline.targets` would be for most samples that have any; None where none has."""
    from resflow.sources import NO_TARGET
    from resflow.targets import Annotation, LabelMap, Targets

    def kind(sample: Sample) -> str | None:
        if sample.target is not NO_TARGET:
            return "objects" if isinstance(sample.target, Annotation | LabelMap) else "cls"
        if "cls" in sample.members:
            return "cls"
        return "objects" if any(name == "json" or name.endswith(".png") for name in sample.members) else None

    found = Counter(name for sample in some_samples(source) if (name := kind(sample)) is not None)
    return None if not found else Targets() if found.most_common(1)[0][0] == "objects" else "cls"


class Lacking(NamedTuple):
    """That samples lack the targets that a pipeline wants.

    Args:
        text: what to say.
        every: whether each of the samples that were looked at lacks them.
    """

    text: str
    every: bool


def lacking_targets(source: Source, spec: Any) -> Lacking | None:
    """Whether samples lack the targets that a pipeline wants; None where they have them.

    Args:
        source: of the samples.
        spec: `Pipeline.targets`.
    """
    from resflow.errors import TargetError
    from resflow.session.labels import sample_target
    from resflow.sources import NO_TARGET

    if spec is None:
        return None
    lacking, seen, reason = 0, 0, ""
    for sample in some_samples(source):
        seen += 1
        try:
            if sample_target(sample.members, sample.target, spec) is NO_TARGET:
                lacking, reason = lacking + 1, reason or "the images have none"
        except TargetError as error:
            lacking, reason = lacking + 1, reason or error.message.partition(" Name the right member")[0].rstrip(".")
    if not lacking:
        return None
    wanted = f"a class (.{spec})" if isinstance(spec, str) else "objects or masks"
    likely = likely_targets(source)
    other = "" if likely is None or isinstance(likely, str) == isinstance(spec, str) else f", or {_option(likely)}"
    text = (
        f"targets: the pipeline wants {wanted}, which {lacking} of {seen} samples looked at lack: {reason}. "
        f"Pass --targets none to do without{other}."
    )
    return Lacking(text, lacking == seen)


def some_samples(source: Source) -> Iterator[Sample]:
    """Samples spread evenly over a source, but for those that cannot be read."""
    import numpy as np

    from resflow.errors import ResflowError

    count = min(_LOOKED_AT, len(source.index))
    for number in np.linspace(0, len(source.index) - 1, count).astype(np.int64).tolist():
        try:
            yield source.read(np.array([number], np.int64))[0]
        except (ResflowError, OSError):
            continue


def _option(targets: Any) -> str:
    return f"--targets {targets if isinstance(targets, str) else 'objects'} for those that are there"
