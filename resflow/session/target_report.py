"""What a look at a dataset's targets finds that no single sample shows: `resflow info` and `resflow lint` print it."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from resflow.errors import TargetError
from resflow.targets import Annotation, LabelMap
from resflow.targets.label_maps import label_map_classes
from resflow.targets.values import found_values, strange_values

_SHOWN = 12  # numbers in label maps that are named


class Finding(NamedTuple):
    """A sentence, and whether it says that something is wrong."""

    text: str
    wrong: bool


class TargetReport:
    """Looks at targets, one by one.

    Args:
        source: of the samples; what it knows itself (`problems.notes`) comes first.
        ignore_index: the number in label maps that is no class.
    """

    def __init__(self, source: Any, ignore_index: int = 255) -> None:
        self._notes: tuple[str, ...] = getattr(getattr(source, "problems", None), "notes", ())
        self._ignore_index = ignore_index
        self._pixels: Counter[int] = Counter()
        self._first: dict[int, str] = {}
        self._known: Any = None
        self._objects = self._without_mask = 0

    def look(self, key: str, target: object) -> None:
        """Take a target in.

        Args:
            key: of the sample.
            target: as `sample_target` gives it.

        Raises:
            TargetError: a label map cannot be decoded.
        """
        if isinstance(target, LabelMap):
            self._known = target.known
            counts = found_values(label_map_classes(target))
            self._pixels.update(counts)
            for number in counts:
                self._first.setdefault(number, key)
        elif isinstance(target, Annotation):
            self._objects += len(target)
            masks = target.masks if target.masks is not None else [None] * len(target)
            self._without_mask += sum(mask is None for mask in masks)

    def all(self) -> list[Finding]:
        """What was found."""
        found = [Finding(note, wrong=False) for note in self._notes]
        if self._pixels:
            total = sum(self._pixels.values())
            shares = [f"{number} ({count / total:.1%})" for number, count in sorted(self._pixels.items())]
            more = f" and {len(shares) - _SHOWN} more" if len(shares) > _SHOWN else ""
            found.append(Finding(f"label maps hold {', '.join(shares[:_SHOWN])}{more} of their pixels", wrong=False))
            strange = strange_values(self._pixels, self._known, self._ignore_index)
            if strange is not None:
                known = self._known or {0}
                first = next(self._first[number] for number in sorted(self._first) if number not in known)
                found.append(Finding(f"{strange} (first seen in {first})", wrong=True))
        if 0 < self._without_mask < self._objects:
            found.append(
                Finding(
                    f"{self._without_mask:,} of {self._objects:,} objects have a box and no mask; Targets(masks=True) "
                    "refuses them, box_as_mask=True takes the box for the mask",
                    wrong=False,
                )
            )
        return found


def report_targets(source: Any, spec: Any) -> list[Finding]:
    """What all targets of a source show; those that cannot be read are passed over.

    Args:
        source: any.
        spec: the pipeline's targets.
    """
    import numpy as np

    from resflow.session.labels import sample_target
    from resflow.session.skip import is_of_sample
    from resflow.sources import AnnotatedSource

    report = TargetReport(source, getattr(spec, "ignore_index", 255))
    for number in range(len(source.index)) if not isinstance(spec, str | None) else ():
        try:
            if isinstance(source, AnnotatedSource):
                report.look(source.name(number)[1], source.target(number))
            else:
                (sample,) = source.read(np.array([number], np.int64))
                report.look(sample.key, sample_target(sample.members, sample.target, spec, sample.keypoint_pairs))
        except Exception as error:
            if not (isinstance(error, TargetError) or is_of_sample(error)):
                raise
    return report.all()
