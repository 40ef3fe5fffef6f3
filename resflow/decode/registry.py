"""Decode engines by name: Resflow's own, and those that users register."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from resflow.decode import native
from resflow.decode.base import OVERSAMPLE, Decoder, Encoded, Fill, Interpolations, Notice
from resflow.decode.base import Pixels as Decoded
from resflow.errors import ConfigError, DecodeError
from resflow.geometry.affine import Geometry
from resflow.images import MAX_PIXELS
from resflow.pixels import PLAIN, Pixels

_log = logging.getLogger("resflow")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is opened with; it takes from these what it knows.

    Args:
        device: torch device of the batches: "cpu", "cuda" or "cuda:N".
        fill: colour of padding pixels, RGB, 0 to 255.
        threads: decoding threads, at least 1.
        max_batch: largest number of images that one run takes.
        strict: whether images are refused that are read with damage or loss (`Notice`).
        oversample: least pixels that are decoded for an output pixel on each axis before an image is decoded at a
            reduced size; math.inf never does.
        pixels: channels and dtype of the batches; an engine of your own that knows 8-bit RGB alone may leave it.
    """

    device: str = "cpu"
    fill: Fill = (0, 0, 0)
    threads: int = 1
    max_batch: int = 256
    strict: bool = False
    oversample: float = OVERSAMPLE
    pixels: Pixels = PLAIN


@dataclass(frozen=True, slots=True)
class Engine:
    """A decode engine that can be opened.

    Args:
        name: by which `Pipeline(engine=...)` knows it.
        factory: opens it; where worker processes are spawned it must be a function of a module, as for pickle.
        devices: kinds of torch device that it decodes on.
        module: that the factory imports when it is called; loaded before workers are forked, so that they share it.
    """

    name: str
    factory: Callable[[EngineOptions], Decoder]
    devices: tuple[str, ...] = ("cpu",)
    module: str = ""


def register_engine(
    name: str, factory: Callable[[EngineOptions], Decoder], *, devices: Sequence[str] = ("cpu",)
) -> None:
    """Make an engine of your own known by name, to `Pipeline(engine=name)`, `open_engine` and `resflow doctor`.

    Args:
        name: new; letters, digits, "-" and "_".
        factory: from `EngineOptions` to a `Decoder`; called once in each process that decodes.
        devices: "cpu", "cuda" or both: where it can decode. The loader runs it on the CPU, in workers and threads.

    Raises:
        ConfigError: the name is taken or no name, or a device is of another kind.
    """
    known = _ENGINES.get(name)
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier() or name == "auto":
        raise ConfigError(f'an engine needs a name of letters, digits, "-" and "_", other than "auto"; got {name!r}')
    if known is not None and known.factory is not factory:
        raise ConfigError(f"there is an engine {name!r} already. Register yours by another name.")
    if not callable(factory) or not devices or set(devices) - {"cpu", "cuda"}:
        raise ConfigError(
            f"engine {name!r} needs a callable and devices among 'cpu' and 'cuda'; got {factory!r} and {devices!r}"
        )
    _ENGINES[name] = Engine(name, factory, tuple(devices))


def engine_names() -> tuple[str, ...]:
    """Names that `open_engine` and `Pipeline(engine=...)` take, "auto" first."""
    return ("auto", *_ENGINES)


def find_engine(name: str) -> Engine:
    """An engine by name; pillow in turbo's place where the compiled decoder is missing, with a warning.

    Args:
        name: of the engine, not "auto".

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in _ENGINES:
        raise ConfigError(
            f"engine must be one of {', '.join(engine_names())}; got {name!r}. One of your own is made known by "
            "resflow.decode.register_engine."
        )
    if name == "turbo" and native.missing():
        _warn_once(native.missing())
        name = "pillow"
    return _ENGINES[name]


def load_engine(name: str) -> None:
    """Load an engine's code into this process: what it starts inherits it.

    Args:
        name: of the engine.
    """
    if module := find_engine(name).module:
        importlib.import_module(module)


def open_engine(
    name: str | Engine,
    device: str = "cpu",
    fill: Fill = (0, 0, 0),
    threads: int = 1,
    max_batch: int = 256,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    oversample: float = OVERSAMPLE,
    pixels: Pixels = PLAIN,
) -> LimitedDecoder:
    """Open a decode engine.

    Args:
        name: "turbo" (our window decoder and libjpeg-turbo, on the CPU), "dali" (NVIDIA DALI, CPU or GPU), "pillow"
            (the reference), "wide" (any `Pixels`, on the CPU), one that was registered (`register_engine`), or "auto":
            wide for other pixels than 8-bit RGB, else dali on a CUDA device and turbo on the CPU. Where the compiled
            decoder is missing, pillow takes turbo's place, and a warning says so.
        device: torch device of the batches: "cpu", "cuda" or "cuda:N"; turbo and pillow give CPU batches only.
        fill: colour of padding pixels, RGB, 0 to 255.
        threads: decoding threads, at least 1.
        max_batch: largest number of images that one run takes; dali splits longer batches.
        max_pixels: height times width of the largest image that is decoded; of a larger one no byte is.
        strict: whether what Pillow reads, but with damage or loss (`Notice`), is refused; not of "pillow". Of "dali"
            only what DALI itself refuses counts as damage.
        oversample: least pixels that turbo decodes for an output pixel on each axis before it decodes a JPEG at a
            reduced size; math.inf never does. The others decode all pixels.
        pixels: channels and dtype of the batches; others than 8-bit RGB are for "wide" and registered engines.

    Returns:
        The engine.

    Raises:
        ConfigError: an unknown engine, a device it cannot serve, DALI is not installed, a bad option.
    """
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device must be 'cpu', 'cuda' or 'cuda:N'; got {device!r}")
    if name == "auto":
        name = "wide" if not pixels.plain else "turbo" if kind == "cpu" else "dali"
    engine = find_engine(name) if isinstance(name, str) else name
    if threads < 1 or max_batch < 1 or max_pixels < 1:
        raise ConfigError(
            f"threads, max_batch and max_pixels must be at least 1; got {threads}, {max_batch} and {max_pixels}"
        )
    if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
        raise ConfigError(f"fill must be three values in 0..255 (RGB); got {fill}")
    if kind not in engine.devices:
        raise ConfigError(
            f"engine {engine.name!r} decodes on {' and '.join(engine.devices).replace('cpu', 'the CPU')}; got device "
            f"{device!r}. Use engine 'dali', or device 'cpu' and move the batches."
        )
    if not pixels.plain and engine.name in _RGB:
        raise ConfigError(f"engine {engine.name!r} decodes 8-bit RGB; got {pixels}. Use engine 'auto', or 'wide'.")
    options = EngineOptions(device, fill, threads, max_batch, strict, oversample, pixels)
    return LimitedDecoder(engine.factory(options), max_pixels)


class LimitedDecoder:
    """An engine that never sees an image of more than `max_pixels`.

    Engines refuse an image whose header does not tell the size that its geometry was made for. So it is enough to look
    at the geometry.

    Args:
        engine: what decodes.
        max_pixels: height times width of the largest image that it is given.
    """

    def __init__(self, engine: Decoder, max_pixels: int) -> None:
        self.engine, self._max_pixels = engine, max_pixels

    def decode(
        self,
        encoded: Sequence[Encoded | Decoded],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """See `Decoder.decode`."""
        pixels = geometry.source_size.astype(np.int64).prod(axis=1)
        if len(pixels) and pixels.max() > self._max_pixels:
            for position, image in enumerate(encoded[: len(pixels)]):
                if pixels[position] > self._max_pixels and not isinstance(image, np.ndarray):
                    height, width = geometry.source_size[position].tolist()
                    raise _too_many_pixels(position, height, width, self._max_pixels)
        return self.engine.decode(encoded, geometry, out, interpolation, warp)

    @property
    def notices(self) -> Sequence[Notice]:
        """Of the images of the last batch; none of an engine that knows of none."""
        return getattr(self.engine, "notices", ())

    def close(self) -> None:
        """See `Decoder.close`."""
        self.engine.close()


def _too_many_pixels(position: int, height: int, width: int, limit: int) -> DecodeError:
    return DecodeError(
        f"image {position} of the batch is not decoded: {height}x{width} (HxW) are {height * width} pixels; at most "
        f"max_pixels={limit} are accepted. Leave it out, or raise the limit: Pipeline(max_pixels={height * width}).",
        position=position,
    )


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("Engine 'pillow' decodes in place of 'turbo', several times as slowly: %s", reason)


def _turbo(options: EngineOptions) -> Decoder:
    from resflow.decode.turbo import TurboDecoder

    return TurboDecoder(options.fill, options.threads, options.oversample, options.strict)


def _dali(options: EngineOptions) -> Decoder:
    try:
        from resflow.decode.dali import DaliDecoder
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("nvidia"):
            raise
        raise ConfigError(
            "engine 'dali' needs NVIDIA DALI, which is not installed. Install it with "
            "`pip install 'resflow[dali]'` (Linux only), or use engine 'turbo' with device 'cpu'."
        ) from error
    return DaliDecoder(
        options.fill,
        device=options.device,
        threads=options.threads,
        max_batch=options.max_batch,
        strict=options.strict,
    )


def _pillow(options: EngineOptions) -> Decoder:
    if options.strict:
        raise ConfigError(
            "engine 'pillow' cannot be strict: it is Pillow that reads over damage. Use 'turbo'. " + native.missing()
        )
    from resflow.decode.pillow import PillowDecoder

    return PillowDecoder(options.fill)


def _wide(options: EngineOptions) -> Decoder:
    from resflow.decode.wide import WideDecoder

    return WideDecoder(options.pixels, options.fill, options.threads, options.oversample, options.strict)


_ENGINES = {
    engine.name: engine
    for engine in (
        Engine("turbo", _turbo, module="resflow.decode.turbo"),
        Engine("dali", _dali, ("cpu", "cuda"), "resflow.decode.dali"),
        Engine("pillow", _pillow, module="resflow.decode.pillow"),
        Engine("wide", _wide, module="resflow.decode.wide"),
    )
}
_RGB = ("turbo", "dali", "pillow")
