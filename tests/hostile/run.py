"""Runs the hostile images in a process of its own, whose memory and time the tests measure.

`python -m tests.hostile.run some|all FOLDER` prints JSON: of each image and way of reading it what came of it and the
seconds it took, and the peak of the process's memory before and after, in MiB.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resflow import Pipeline
from resflow.decode import Decoder, open_engine
from resflow.errors import ResflowError, SampleError
from resflow.geometry.affine import Geometry, identity
from resflow.images import read_header
from resflow.loader import DataLoader
from resflow.sources import ShardSource, ShardStream, build_index
from tests.decode.reference import reference_decode
from tests.hostile import images, tars

MAX_PIXELS = 8_000_000
ENGINES = ("pillow", "turbo", "dali")
SIDE = 512  # of the largest output
Cases = dict[str, images.Case]
Found = dict[str, dict[str, dict[str, object]]]
GOOD = images.samples.jpeg(images.HEIGHT, images.WIDTH)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def attempt(work: Callable[[], str]) -> dict[str, object]:
    """What came of it: "pixels", "refused: ...", "wrong: ..." or "crash: ...", and the seconds."""
    start = time.perf_counter()
    try:
        outcome = work()
    except ResflowError as error:
        outcome = f"refused: {type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 (this is what the tests look for)
        outcome = f"crash: {type(error).__name__}: {error}"
    return {"outcome": outcome, "seconds": time.perf_counter() - start}


def decode(engine: Decoder, data: bytes) -> str:
    """Decode an image beside a good one, hold it against Pillow."""
    try:
        header = read_header(data)
        size = header.height, header.width
    except ResflowError:
        size = images.HEIGHT, images.WIDTH
    where = Geometry(identity(1), np.array([size], np.int32), (min(size[0], SIDE), min(size[1], SIDE)))
    batch = engine.decode([data], where)
    try:
        expected = reference_decode(data)[:SIDE, :SIDE].astype(np.float64)
    except ValueError:  # Pillow's limit of texts beside the pixels
        return "pixels without a reference"
    error = np.abs(batch[0].permute(1, 2, 0).numpy() - expected).mean()
    return "pixels" if error <= 2 else f"wrong: mean error {error:.1f}"


def engines(cases: Cases) -> Found:
    opened = {name: open_engine(name, max_pixels=MAX_PIXELS) for name in ENGINES}
    return {
        name: {engine: attempt(lambda o=opened[engine], d=case.data: decode(o, d)) for engine in ENGINES}  # type: ignore[misc]
        for name, case in cases.items()
    }


def load(dataset: object, engine: str, name: str) -> str:
    """One batch of a loader, which holds the image between two good ones; an error must name the sample."""
    pipeline = Pipeline(resolution=64, buckets=1, targets=None, engine=engine, max_pixels=MAX_PIXELS)
    try:
        (batch,) = DataLoader(dataset, batch_size=3, pipeline=pipeline)
    except SampleError as error:
        return named(error, name)
    return "pixels" if list(batch.keys) == ["a", name, "z"] else f"wrong: keys {batch.keys}"


def named(error: SampleError, name: str) -> str:
    if error.key != name or not error.shard:
        return f"wrong: {error} does not name the sample"
    return f"refused: {type(error).__name__}: {error}"


def loaders(folder: Path, cases: Cases) -> Found:
    """Each image in a shard between two good ones: by index and as a stream, in turbo; every tenth in all engines."""
    results: Found = {}
    for number, (name, case) in enumerate(cases.items()):
        key = name.replace(" ", "_").replace(".", "")
        path = folder / f"{number}.tar"
        middle = tars.member(f"{key}.jpg".encode(), case.data)  # of the wrong extension, mostly
        path.write_bytes(tars.member(b"a.jpg", GOOD) + middle + tars.member(b"z.jpg", GOOD) + tars.END)

        def indexed(engine: str, path: Path = path, key: str = key) -> str:
            try:
                source = ShardSource(build_index(str(path), workers=1))
            except SampleError as error:
                return named(error, key)
            return load(source, engine, key)

        ways = ENGINES if number % 10 == 0 else ("turbo",)
        results[name] = {f"index {engine}": attempt(lambda e=engine: indexed(e)) for engine in ways}  # type: ignore[misc]
        results[name] |= {
            f"stream {engine}": attempt(lambda e=engine, p=path, k=key: load(ShardStream(str(p)), e, k))  # type: ignore[misc]
            for engine in ways
        }
        path.unlink()
    return results


def main() -> None:
    warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
    for engine in ENGINES:
        opened = open_engine(engine)
        opened.decode([GOOD], Geometry(identity(1), np.array([[images.HEIGHT, images.WIDTH]], np.int32), (64, 64)))
        opened.close()
    cases = images.cases()
    if sys.argv[1] == "some":  # without most of those that are cut short
        places = {name: place for place, name in enumerate(cases)}
        cases = {name: case for name, case in cases.items() if " cut at " not in name or places[name] % 20 == 0}
    before = peak()
    found = engines(cases)
    loaded = cases if sys.argv[1] == "all" else dict(list(cases.items())[::12])
    for name, outcomes in loaders(Path(sys.argv[2]), loaded).items():
        found[name] |= outcomes
    expected = {name: case.decodes for name, case in cases.items()}
    print(json.dumps({"found": found, "expected": expected, "before": before, "peak": peak()}))


if __name__ == "__main__":
    main()
