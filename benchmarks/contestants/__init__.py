"""Who takes part in `benchmarks/peers.py`.

A contestant is a module here with `passes(job)`, which gives the batches of each pass, and where it has a format of its
own `prepare(job, folder)`, which writes the set in it and is not measured. Modules import their library at the top;
that is not measured either, except as part of the time from the start of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to load images.

    Args:
        name: what it is called in tables.
        module: its module in this package.
        what: the way, in words.
        requires: packages of its environment; none: it runs in the project's own.
        system: Debian packages that it needs besides.
        options: handed to the module, `Job.options`.
        own_format: the module has `prepare`.
        peer: another project's loader, which Resflow is held against; not Resflow, nor a limit.
    """

    name: str
    module: str
    what: str
    requires: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    own_format: bool = False
    peer: bool = True


BASELINE = "torch-pil"

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(BASELINE, "torch_files", "torch DataLoader, PIL, transforms.v2", options={"decode": "pil"}),
        Contestant(
            "torch-tensor",
            "torch_files",
            "torch DataLoader, torchvision.io.decode_jpeg, transforms.v2 on tensors",
            options={"decode": "tensor"},
        ),
        Contestant("webdataset", "webdataset", "webdataset WebLoader, decode_jpeg, transforms.v2 on tensors"),
        Contestant(
            "litdata",
            "litdata",
            "LitData StreamingDataLoader, decode_jpeg, transforms.v2 on tensors",
            ("litdata",),
            own_format=True,
        ),
        Contestant(
            "streaming",
            "streaming",
            "mosaicml-streaming, MDS of JPEG bytes, decode_jpeg, transforms.v2 on tensors",
            ("mosaicml-streaming",),
            own_format=True,
        ),
        Contestant("dali-cpu", "dali", "NVIDIA DALI on the CPU, image_random_crop and resize"),
        Contestant(
            "ffcv",
            "ffcv",
            "FFCV, JPEG mode",
            ("ffcv",),
            own_format=True,
            system=("pkg-config", "libopencv-dev", "libturbojpeg0-dev"),
        ),
        Contestant(
            "spdl", "spdl", "SPDL, FFmpeg decode, crop and scale", ("spdl",), system=("libavdevice59", "libavfilter8")
        ),
        Contestant("timm", "timm", "timm create_loader (PIL), before its normalisation", ("timm",)),
        Contestant(
            "resflow-threads",
            "resflow",
            "Resflow, num_workers=0",
            options={"workers": False},
            own_format=True,
            peer=False,
        ),
        Contestant(
            "resflow-workers",
            "resflow",
            "Resflow, worker processes",
            options={"workers": True},
            own_format=True,
            peer=False,
        ),
        Contestant(
            "resflow-tiers",
            "resflow_tiers",
            "Resflow, worker processes, tiers 96, 160, 256 (of photos 512, too) beside the shards",
            options={"workers": True},
            own_format=True,
            peer=False,
        ),
        Contestant(
            "decode-full", "raw", "limit: libjpeg-turbo decodes all pixels, nothing else", options={}, peer=False
        ),
        Contestant(
            "decode-scaled",
            "raw",
            "limit: libjpeg-turbo decodes at the least DCT scale that has the window's pixels",
            options={"scaled": True},
            peer=False,
        ),
        Contestant(
            "decode-crop",
            "raw",
            "limit: libjpeg-turbo decodes the window's rows and columns at the least DCT scale, C resizes them plainly",
            system=("gcc", "libjpeg62-turbo-dev"),
            options={"crop": True},
            peer=False,
        ),
    )
}
