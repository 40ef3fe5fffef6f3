"""Every error Resflow raises on purpose.

    ResflowError
    ├── ConfigError (ValueError)        an argument, a Pipeline field or a line of YAML is wrong
    ├── PlanError (ValueError)          no plan satisfies what was asked: batch size, stride, resolution
    ├── StateError (ValueError)         a saved state does not belong to this loader
    ├── ShardError                      the bytes of a shard are missing, cut short or damaged
    │   ├── IndexFileError              the index is missing, stale, damaged or of another version
    │   └── StoreError                  a remote store does not give a shard's bytes
    ├── SampleError                     one sample is at fault; carries its key and shard
    │   ├── HeaderError                 no size can be read from an image's first bytes
    │   ├── DecodeError                 an engine could not decode an image
    │   ├── TransformError              a per-image transform failed on an image
    │   └── TargetError                 a label, box, mask or keypoint is missing or wrong
    ├── SkipBudgetError (RuntimeError)  more samples are bad than on_error=Skip(...) allows
    └── WorkerError (RuntimeError)      a worker process or engine thread died

A message says, in one breath, what is wrong, what was got, what was expected, where, and the way out.
"""

from __future__ import annotations


class ResflowError(Exception):
    """Base of all errors that Resflow raises on purpose."""


class ConfigError(ResflowError, ValueError):
    """An argument, a `Pipeline` field or a line of YAML is wrong."""


class PlanError(ResflowError, ValueError):
    """No plan satisfies what was asked (batch size, stride, resolution)."""


class StateError(ResflowError, ValueError):
    """A saved state does not belong to this loader."""


class ShardError(ResflowError):
    """The bytes of a shard are missing, cut short or damaged.

    Args:
        message: what is wrong and the way out; shard and offset are prepended.
        shard: path or URL of the shard.
        offset: byte offset inside the shard, if one place is at fault.
    """

    def __init__(self, message: str, *, shard: str, offset: int | None = None) -> None:
        self.message, self.shard, self.offset = message, shard, offset
        where = shard if offset is None else f"{shard} at byte {offset}"
        super().__init__(f"{where}: {message}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), {"message": self.message, "shard": self.shard, "offset": self.offset})


class IndexFileError(ShardError):
    """The index is missing, stale, damaged or of another version."""


class StoreError(ShardError):
    """A remote store does not give a shard's bytes."""


class SampleError(ResflowError):
    """One sample is at fault.

    Args:
        message: what is wrong and the way out.
        position: place of the sample in the batch that was asked for, if known.
        key: the sample's key, if known.
        shard: the shard that holds it, if known.
    """

    def __init__(
        self, message: str, *, position: int | None = None, key: str | None = None, shard: str | None = None
    ) -> None:
        self.message, self.position, self.key, self.shard = message, position, key, shard
        place = "/".join(part for part in (shard, key) if part)
        super().__init__(f"{message} (sample {place})" if place else message)

    def located(self, *, key: str, shard: str) -> SampleError:
        """The same error, with the sample's key and shard filled in."""
        return type(self)(self.message, position=self.position, key=key, shard=shard)

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"message": self.message, "position": self.position, "key": self.key, "shard": self.shard}
        return _rebuild, (type(self), fields)


class HeaderError(SampleError):
    """No size can be read from an image's first bytes."""


class DecodeError(SampleError):
    """An engine could not decode an image."""


class TransformError(SampleError):
    """A per-image transform failed on an image, or returned something else."""


class TargetError(SampleError):
    """A label, box, mask or keypoint is missing or wrong."""


class SkipBudgetError(ResflowError, RuntimeError):
    """More samples are bad than `Pipeline(on_error=Skip(...))` allows to be skipped."""


class WorkerError(ResflowError, RuntimeError):
    """A worker process or engine thread died."""


def _rebuild(cls: type[ResflowError], fields: dict[str, object]) -> ResflowError:
    """Unpickle an error whose constructor has keyword-only arguments (errors cross process borders)."""
    return cls(**fields)
