"""What is wrong with a dataset's annotations: found before training, named, then refused or left out."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

from resflow.errors import ConfigError, TargetError

_LOG = logging.getLogger("resflow")
_SHOWN = 5  # problems that an error names

KINDS = (
    "missing file",  # an image, or what describes it, is not there; the image is left out
    "unreadable image",  # no size in its header; the image is left out
    "unreadable annotation",  # XML, text or a record of JSON that is not what it should be
    "size mismatch",  # the annotation, or the mask, is for an image of another size; the image is left out
    "unknown image",  # an object, or a file of labels, of an image that the dataset does not have
    "unknown category",
    "duplicate",  # an image or object that came before
    "not finite",  # NaN or infinite box, area, polygon or keypoint
    "out of bounds",  # more than OVERHANG pixels outside its image
    "zero area",  # a box without width or height
    "mask",  # polygons of an odd or too small number of coordinates, run lengths of another size, no mask at all
    "keypoints",  # of another number than the category has, or with a visibility other than 0, 1 and 2
)
"""What problems are called."""

OVERHANG = 1.0
"""Pixels that a box, polygon or keypoint may stand out of its image: rounding, which is clipped (boxes) or left."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: one of `KINDS`.
        key: the image's file, relative to the dataset's folder; "" if it belongs to none.
        where: the file that says so, with the line or the number of the record.
        what: what was got and what was expected.
    """

    kind: str
    key: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what} ({', '.join(filter(None, (self.key, self.where)))})"


@dataclass(frozen=True, slots=True)
class LintReport:
    """What was found when a dataset was opened.

    Args:
        name: the dataset.
        problems: in the order in which they were found.
        images: images that were looked at.
        objects: objects that were looked at.
        notes: what is worth knowing and is no problem by itself, a sentence each.
    """

    name: str
    problems: tuple[Problem, ...]
    images: int
    objects: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def counts(self) -> dict[str, int]:
        """How many problems there are of each kind that is there, in the order of `KINDS`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def __str__(self) -> str:
        looked = f"{self.images:,} images" + (f" and {self.objects:,} objects" if self.objects else "")
        if not self.problems:
            return f"{self.name}: no problems in {looked}"
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items())
        return f"{self.name}: {_plural(len(self))} in {looked} ({counts})"


def check_on_error(on_error: str) -> None:
    """Refuse what is neither "raise" nor "drop", before anything is read.

    Raises:
        ConfigError: another value.
    """
    if on_error not in ("raise", "drop", "clip"):
        raise ConfigError(f"on_error must be 'raise', 'drop' or 'clip'; got {on_error!r}")


def settle(report: LintReport, on_error: str) -> None:
    """Raise a report's problems, or log that they were left out.

    Args:
        report: what was found.
        on_error: "raise", "drop" or "clip".

    Raises:
        TargetError: there are problems, and `on_error` is "raise".
    """
    if not report.problems:
        return
    if on_error != "raise":
        _LOG.warning("%s; left out, see the source's .problems", report)
        return
    shown = "".join(f"\n    {problem}" for problem in report.problems[:_SHOWN])
    more = f"\n    and {len(report) - _SHOWN:,} more" if len(report) > _SHOWN else ""
    raise TargetError(
        f"{report}:{shown}{more}\n  Correct the dataset, or pass on_error='drop' to leave these out; the source's "
        ".problems then lists them all."
    )


def _plural(count: int) -> str:
    return "1 problem" if count == 1 else f"{count:,} problems"
