"""Resflow on a GPU beside DALI alone and its peers: `python benchmarks/gpu.py [--check] [--json FILE]`.

One command, one table: images a second, memory of the device, processor time of the host, at 128, 224 and 448 pixels
and for a whole set of epochs from 128 to 224; and how long a ResNet-50 (bfloat16, channels_last, compiled) waits for
data.
`--check` runs the tests that need a GPU first. `--rehearsal` does all of it on the CPU with a handful of images, to see
that it works; its figures mean nothing. Without a GPU nothing else is possible.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from on_gpu.data import DEFAULT, Data, prepare
from on_gpu.feeds import EPOCH_SETS, FEEDS, Job
from on_gpu.measure import epoch_set, rate, training
from on_gpu.modes import compare

EQUAL, WAITING = 0.95, 0.02  # what is aimed at: of DALI alone, and of a training step


def main() -> int:
    options = _options()
    if options.one:
        return _answer(options)
    if not options.rehearsal and not torch.cuda.is_available():
        print("No CUDA device was found. A rehearsal on the CPU: python benchmarks/gpu.py --rehearsal")
        return 1
    if options.check and not options.rehearsal and _check():
        return 1
    with tempfile.TemporaryDirectory(prefix="resflow-gpu-") as temporary:
        folder = options.folder or Path(temporary)
        images = options.images if options.images and options.images.is_dir() else None
        data = prepare(folder, images, options.count)
        print(f"{data.count} images, {data.bytes / data.count / 1000:.0f} kB each, of {images or 'our own making'}")
        found = []
        for job in _jobs(options):
            result = {"job": job, "result": _measured(job, data, options)}
            found.append(result)
            print(_line(result), flush=True)
    report = {"machine": _machine(options), "data": dataclasses.asdict(data), "rows": found, "verdict": _verdict(found)}
    print("\n".join(["", *report["verdict"]]))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))
    failed = [row for row in found if "error" in row["result"]]
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rehearsal", action="store_true", help="on the CPU, with a handful of images")
    parser.add_argument("--check", action="store_true", help="run `pytest -m gpu` first")
    parser.add_argument(
        "--images", type=Path, default=DEFAULT, help="folder of JPEGs; made-up ones where it is missing"
    )
    parser.add_argument("--count", type=int, help="images that a pass has; those of the folder are repeated")
    parser.add_argument("--folder", type=Path, help="keep shards and files here; default: a temporary folder")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=15.0, help="that each row is measured, after warming up")
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 224, 448])
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.rehearsal
    options.device = "cpu" if small else "cuda"
    options.count = options.count or (24 if small else 20_000)
    options.batch = options.batch or (4 if small else 256)
    if small:
        options.images, options.threads, options.seconds, options.sides = None, 1, 0.0, [32]
    return options


def _jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is measured, as plain values that a process of its own can be told."""
    common = {"batch": options.batch, "device": options.device, "threads": options.threads, "epochs": 4}
    jobs = [{"kind": "modes", "what": "dali's modes", "side": options.sides[0], **common}]
    for side in options.sides:
        jobs += [{"kind": "rate", "what": what, "side": side, **common} for what in FEEDS]
    jobs += [{"kind": "epochs", "what": what, "side": 0, **common} for what in EPOCH_SETS]
    jobs += [{"kind": "training", "what": "resflow", "side": 32 if options.rehearsal else 224, **common}]
    if options.rehearsal:
        for job in jobs:
            job["epochs"] = 2
            if job["what"] == "pytorch" or "resflow" in job["what"]:
                job["threads"] = 0  # in this process
    return jobs


def _measured(job: dict[str, Any], data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """One row; in a process of its own, so that memory and threads of one do not count for another."""
    if options.rehearsal:
        return _measure(job, data, options)
    argument = json.dumps(dataclasses.asdict(data))
    command = [sys.executable, __file__, "--one", json.dumps(job), argument, "--seconds", str(options.seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _answer(options: argparse.Namespace) -> int:
    job, data = (json.loads(text) for text in options.one)
    print(json.dumps(_measure(job, Data(**data), options)))
    return 0


def _measure(job: dict[str, Any], data: Data, options: argparse.Namespace) -> dict[str, Any]:
    small = job["device"] == "cpu"
    fields = {field.name: job[field.name] for field in dataclasses.fields(Job)}
    if job["kind"] == "modes":
        known = {name: fields[name] for name in ("side", "batch", "device", "threads")}
        return compare(data, rounds=2 if small else 20, **known)
    if job["kind"] == "epochs":
        return epoch_set(data, Job(**fields))
    if job["kind"] == "training":
        return training(data, Job(**fields), steps=2 if small else 200, small=small)
    return rate(data, Job(**fields), warm=1 if small else 20, seconds=options.seconds)


def _line(row: dict[str, Any]) -> str:
    job, result = row["job"], row["result"]
    name = f"{job['kind']:9}{job['what']:25}{job['side'] or '128-224':>8}"
    if "error" in result:
        return f"{name}  failed: {result['error'].strip().splitlines()[-1]}"
    if job["kind"] == "modes":
        return f"{name}  pipeline {result['pipeline_ms']:.3f} ms, dynamic {result['dynamic_ms']:.3f} ms an image"
    line = f"{name}{result['images_per_second']:10.0f} images/s{result['device_mib']:8.0f} MiB"
    line += f"{result['cpu_cores']:7.1f} cores{result['cpu_ms_per_image']:8.2f} CPU ms an image"
    return line + (f"   waits {result['waiting']:.1%} of a step" if "waiting" in result else "")


def _verdict(rows: list[dict[str, Any]]) -> list[str]:
    """What was aimed at, and what came of it."""
    if any(row["job"]["device"] == "cpu" for row in rows):
        return ["This was a rehearsal on the CPU with a handful of images: no figure of it means anything."]
    speed = {
        (row["job"]["what"], row["job"]["side"]): row["result"].get("images_per_second")
        for row in rows
        if row["job"]["kind"] == "rate"
    }
    lines = []
    for side in sorted({side for _, side in speed}):
        ours, alone = speed.get(("resflow", side)), speed.get(("dali alone", side))
        if ours and alone:
            met = "met" if ours / alone >= EQUAL else "missed"
            lines.append(f"{side}: {ours / alone:.2f} of DALI alone on equal work (aim: {EQUAL}; {met})")
    for row in rows:
        waiting = row["result"].get("waiting")
        if waiting is not None:
            met = "met" if waiting <= WAITING else "missed"
            lines.append(f"ResNet-50 waits {waiting:.1%} of a step for data (aim: at most {WAITING:.0%}; {met})")
    return lines


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    import kornia
    import nvidia.dali

    from resflow.decode.hardware import probe_hardware

    on_gpu = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "jpeg_engines": dataclasses.asdict(probe_hardware()) if on_gpu else None,
        "cores": os.cpu_count(),
        "processor": platform.processor(),
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "dali": nvidia.dali.__version__,
            "kornia": kornia.__version__,
        },
    }


def _check() -> int:
    """Run the tests that need a GPU."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--timeout", "600"]
    return subprocess.run(command, cwd=root, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
