"""`resflow doctor`: what is installed, what will be used and why, and how many workers are best on this machine."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import AsJson
from resflow.errors import ConfigError, ResflowError
from resflow.progress import followed

if TYPE_CHECKING:
    from resflow.plan import Index
    from resflow.sources import Sample

_PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "simplejpeg", "kornia", "nvidia-dali-cuda120", "pyarrow",
    "webdataset", "fsspec", "pycocotools", "matplotlib", "ray",
)  # fmt: skip
_IMAGES = 16  # that are drawn to measure with
_SIZES = ((375, 500), (500, 375), (333, 500), (480, 640))
_SIDE = 224  # pixels of the measured resolution
_ALIKE = 12.0  # mean difference of bytes up to which two decodes are of one picture


def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Measure engines, threads and workers on drawn images.")
    ] = True,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each setting that is measured.")] = 1.5,
    as_json: AsJson = False,
) -> None:
    """Tell versions, devices, engines and image formats, what will be used and why, and the best number of workers."""
    told: dict[str, Any] = {"versions": _versions(), "machine": _machine(), "engines": _engines()}
    told["kornia"] = _kornia()
    told["auto"] = _auto(told["engines"], told["machine"])
    told["formats"] = _formats({name for name, one in told["engines"].items() if one["there"]})
    told["calibration"] = _calibrated(told["engines"], seconds) if calibrate else None
    print(json.dumps(told) if as_json else _as_text(told))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"resflow": None, "python": platform.python_version()}
    for name in ("resflow", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _machine() -> dict[str, Any]:
    import torch

    from resflow.session.stats import cpus

    shared = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": cpus(),
        "cpus_of_machine": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "shared_memory_bytes": None if shared is None else shared.total,
        "shared_memory_free": None if shared is None else shared.free,
        "cuda": torch.version.cuda,
        "devices": devices,
        "jpeg_engines": _jpeg_engines() if devices else 0,
    }


def _jpeg_engines() -> int:
    from resflow.decode.hardware import probe_hardware

    return probe_hardware().engines


def _engines() -> dict[str, dict[str, Any]]:
    """Whether each engine opens here, and why not."""
    from resflow.decode import engine_names, native, open_engine

    found = {}
    for name in engine_names()[1:]:
        try:
            why = native.missing() if name == "turbo" else ""
            if not why:
                open_engine(name).close()
            found[name] = {"there": not why, "why": why}
        except (ResflowError, ImportError, OSError) as error:
            found[name] = {"there": False, "why": str(error)}
    return found


def _kornia() -> str | None:
    """What Kornia does otherwise than is taken for granted here, "" if nothing; None without Kornia."""
    try:
        from resflow.augment.conventions import kornia_difference
    except ModuleNotFoundError:
        return None
    return kornia_difference()


def _auto(engines: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, str]:
    """What engine="auto" takes for each device, and why."""
    told = {"cpu": "turbo: the part of each JPEG that is shown, decoded by compiled code; workers do it in parallel"}
    if not engines["turbo"]["there"]:
        told["cpu"] = f"pillow: turbo is not here: {engines['turbo']['why']}"
    if not machine["devices"]:
        told["cuda"] = "not here: PyTorch sees no CUDA device"
    elif not engines["dali"]["there"]:
        told["cuda"] = f"not here: {engines['dali']['why']}"
    else:
        hardware = f"with {machine['jpeg_engines']} JPEG engines" if machine["jpeg_engines"] else "by its CUDA cores"
        told["cuda"] = f"dali: decodes on the GPU, {hardware}; no workers are started"
    return told


def _formats(engines: set[str]) -> list[dict[str, Any]]:
    """Which code decodes each kind of image, tried on a small one; None under an engine that is not there."""
    from resflow.decode.routes import is_native
    from resflow.images import read_header

    told = []
    for kind, data in _samples():
        if data is None:
            told.append({"format": kind, "turbo": None, "window": False, "dali": None, "right": None})
            continue
        header = read_header(data)
        window = "turbo" in engines and header.format == "jpeg" and takes_window(data)
        plain = header.format == "jpeg" and kind != "jpeg, CMYK"
        by_turbo = "window" if window else "libjpeg-turbo" if plain else "pillow"
        turbo = by_turbo if "turbo" in engines else None
        dali = None if "dali" not in engines else "dali" if is_native(header, data, "cpu") else "pillow"
        told.append({"format": kind, "turbo": turbo, "window": window, "dali": dali, "right": _right(data)})
    return told


def _samples() -> Iterator[tuple[str, bytes | None]]:
    """A small image of each kind, None where Pillow was built without it."""
    from PIL import Image

    picture = Image.fromarray(_picture(96, 128, 1))
    for name, mode, options in (
        ("jpeg, 4:2:0", "RGB", {"format": "JPEG", "subsampling": 2}),
        ("jpeg, 4:2:2", "RGB", {"format": "JPEG", "subsampling": 1}),
        ("jpeg, 4:4:4", "RGB", {"format": "JPEG", "subsampling": 0}),
        ("jpeg, grey", "L", {"format": "JPEG"}),
        ("jpeg, optimised tables", "RGB", {"format": "JPEG", "optimize": True}),
        ("jpeg, restart markers", "RGB", {"format": "JPEG", "restart_marker_rows": 1}),
        ("jpeg, progressive", "RGB", {"format": "JPEG", "progressive": True}),
        ("jpeg, CMYK", "CMYK", {"format": "JPEG"}),
        ("png", "RGB", {"format": "PNG"}),
        ("webp", "RGB", {"format": "WEBP"}),
        ("gif", "RGB", {"format": "GIF"}),
        ("tiff", "RGB", {"format": "TIFF"}),
        ("bmp", "RGB", {"format": "BMP"}),
        ("avif", "RGB", {"format": "AVIF"}),
    ):
        buffer, given = io.BytesIO(), dict[str, Any](options)
        try:
            picture.convert(mode).save(buffer, given.pop("format"), **given)
        except (OSError, KeyError, ValueError):
            yield name, None
        else:
            yield name, buffer.getvalue()


def takes_window(data: bytes) -> bool:
    """Whether the compiled decoder of windows takes a JPEG; what it does not goes through libjpeg-turbo.

    Args:
        data: the file.
    """
    import numpy as np

    from resflow.decode.native import decode_window, missing
    from resflow.images import read_header

    if missing():
        return False

    header = read_header(data)
    height, width = header.height, header.width
    out = np.zeros(((height + 1) // 2, (width + 1) // 2, 3), np.uint8)
    encoded = np.frombuffer(data, np.uint8)
    box = np.array([0, 0, out.shape[1], out.shape[0]], np.int64)
    step = width / out.shape[1], height / out.shape[0]
    return bool(decode_window(encoded, out, box, 0.0, 0.0, *step, width, height, header.orientation, 1.5))


def _right(data: bytes) -> bool:
    """Whether turbo gives the picture that Pillow does."""
    import numpy as np

    from resflow.decode import open_engine
    from resflow.geometry import Geometry
    from resflow.geometry.affine import identity
    from resflow.images import read_header

    header = read_header(data)
    size = np.array([[header.height, header.width]], np.int32)
    geometry = Geometry(identity(1), size, (header.height, header.width))
    decoded = []
    for name in ("turbo", "pillow"):
        engine = open_engine(name)
        decoded.append(engine.decode([data], geometry).float())
        engine.close()
    return float((decoded[0] - decoded[1]).abs().mean()) < _ALIKE


def _picture(height: int, width: int, seed: int) -> Any:
    """A drawn picture with about the detail of a photograph."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    layers = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 90), (24, 40), (120, 14)):
        coarse = random.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(coarse[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            layers[..., channel] += strength * np.asarray(plane)
    return np.clip(128 + layers, 0, 255).astype(np.uint8)


class DrawnImages:
    """A source of drawn JPEGs in memory, to measure with.

    Args:
        count: of samples; there are 16 pictures, which repeat.
    """

    def __init__(self, count: int) -> None:
        import numpy as np
        from PIL import Image

        from resflow.plan import Index

        self._images: list[bytes] = []
        for number in range(_IMAGES):
            buffer = io.BytesIO()
            Image.fromarray(_picture(*_SIZES[number % len(_SIZES)], number)).save(buffer, "JPEG", quality=90)
            self._images.append(buffer.getvalue())
        size = np.array([_SIZES[number % _IMAGES % len(_SIZES)] for number in range(count)], np.int32)
        zeros = np.zeros(count, np.int64)
        self.index: Index = Index(zeros.astype(np.int32), zeros, zeros + 1, size, "drawn")

    def read(self, sample_ids: Any) -> list[Sample]:
        """Samples by number."""
        from resflow.sources import Sample

        return [
            Sample(str(number), "drawn", memoryview(self._images[number % _IMAGES]), {})
            for number in sample_ids.tolist()
        ]

    def read_ahead(self, sample_ids: Any) -> None:
        """Nothing: all is in memory."""

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key."""
        return "drawn", str(sample_id)

    def close(self) -> None:
        """Nothing is open."""


def settings(cpus: int, engines: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Engines and numbers of workers worth trying; 0 workers decode with threads of one process.

    Args:
        cpus: that may be used.
        engines: as `doctor` tells them.
    """
    counts = sorted({0, 1, 2, max(1, cpus // 2), cpus}) if engines["turbo"]["there"] else ()
    found = [("turbo", count) for count in counts if count <= cpus]
    found += [("dali", 0)] if engines["dali"]["there"] else []
    return [*found, ("pillow", cpus)]


def _calibrated(engines: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Images a second of each setting, and the best."""
    from resflow.session.stats import cpus

    source = DrawnImages(1 << 14)
    tried = settings(cpus(), engines)
    found = []
    for engine, workers in followed(tried, "measuring", len(tried), unit="settings"):
        found.append({"engine": engine, "workers": workers, "rate": round(_rate(source, engine, workers, seconds), 1)})
    best = max(found, key=lambda one: float(str(one["rate"])))
    return {"resolution": _SIDE, "settings": found, "best": best}


def _rate(source: DrawnImages, engine: str, workers: int, seconds: float) -> float:
    """Images a second from the second batch on, by when all code is compiled or loaded."""
    from resflow.geometry.views import RandomResizedCrop
    from resflow.loader import DataLoader
    from resflow.pipeline import Pipeline

    pipeline = Pipeline(resolution=_SIDE, buckets=2, views=[RandomResizedCrop()], targets=None, engine=engine)
    loader: DataLoader[Any] = DataLoader(source, batch_size=32, shuffle=True, num_workers=workers, pipeline=pipeline)
    now, start, images = 0.0, 0.0, 0
    for number, batch in enumerate(loader):
        now = time.perf_counter()
        if number <= max(1, workers):
            start = now
            continue
        images += len(batch)
        if now - start > seconds:
            break
    if not images:
        raise ConfigError(f"engine {engine} with {workers} workers could not be measured. Pass --no-calibrate.")
    return images / (now - start)


def _as_text(told: Mapping[str, Any]) -> str:
    machine = told["machine"]
    lines = ["versions"]
    lines += [f"  {name:<22}{version or 'not installed'}" for name, version in told["versions"].items()]
    shared = machine["shared_memory_bytes"]
    lines += [
        "machine",
        f"  {machine['system']}, {machine['cpus']} of {machine['cpus_of_machine']} CPUs for this process, "
        f"{machine['torch_threads']} threads of PyTorch",
        "  shared memory: " + ("none" if shared is None else f"{shared / 1e9:.1f} GB for batches of workers"),
        "  CUDA devices: " + (", ".join(machine["devices"]) or f"none (PyTorch built for CUDA {machine['cuda']})"),
        "engines",
    ]
    lines += [f"  {name:<8}{'yes' if one['there'] else 'no: ' + one['why']}" for name, one in told["engines"].items()]
    if told["kornia"] is not None:
        works = f"WRONG: {told['kornia']}. Boxes would miss the pixels: install a Kornia that resflow[kornia] allows"
        lines += ["kornia's coordinates", f"  {works if told['kornia'] else 'pixel centres, as expected'}"]
    lines += ['what engine="auto" takes', *(f"  {device:<6}{why}" for device, why in told["auto"].items())]
    there = [name for name in ("turbo", "dali") if told["engines"][name]["there"]]
    heads = {"turbo": "turbo decodes with", "dali": "dali decodes with"}
    lines += ["formats" + " " * 20 + "".join(f"{heads[name]:<22}" for name in there).rstrip()]
    for one in told["formats"]:
        if one["right"] is None:
            lines.append(f"  {one['format']:<25}not in this build of Pillow")
        else:
            wrong = "" if one["right"] else "WRONG: differs from Pillow"
            columns = "".join(f"{one[name]:<22}" for name in there) or f"{'pillow':<22}"
            lines.append(f"  {one['format']:<25}{columns}{wrong}".rstrip())
    found = told["calibration"]
    if found is not None:
        lines.append(f"images/s at {found['resolution']} pixels, drawn JPEGs of about 500 x 375")
        for one in found["settings"]:
            mark = "   <- best" if one == found["best"] else ""
            how = f"{one['workers']} workers" if one["workers"] else "threads of one process"
            lines.append(f"  {one['engine']:<8}{how:<24}{one['rate']:>9,.0f}{mark}")
        best = found["best"]
        lines.append(f'Best here: num_workers={best["workers"]}, Pipeline(engine="{best["engine"]}").')
    return "\n".join(lines)
