"""What tiers cost and bring: `python benchmarks/tiers.py [FOLDER] [--rounds N] [--workers 0,2] [--calibrate]`.

FOLDER holds images whose names begin with their class (imagenet500 in RESFLOW_TEST_DATA by default). They are written
into shards with tiers 96, 160, 192, 256 and 288 in a temporary folder. Printed are, as Markdown:

- each tier's bytes as a share of the originals' and how much faster its images decode (libjpeg-turbo, one thread, full
  size, best of the rounds; images that the tier has an entry for);
- for RandomResizedCrop(0.25 to 1) to 128 and whole images to 160: how much of each tier is read, bytes asked of the
  store a sample, and how far the output lies from that of the originals (mean absolute error of 0 to 255, PSNR of the
  mean squared error over all images, the worst image's error);
- images a second with tiers over those without, median of rounds that alternate within one process, after one epoch
  each that is not counted.

With `--calibrate`, instead: the processor time of an image over sizes, views and tiers, and the `DecodeCost` that
explains it best, from which `resflow plan --tiers auto` predicts; and the bytes it predicts beside those written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from scipy.optimize import nnls

import resflow as rf
from resflow.plan.propose import predict_tiers
from resflow.plan.tier_cost import DecodeCost, tier_bytes
from resflow.session.sampled_windows import draw_windows
from resflow.sources import ShardSource, build_index, index_path, labelled_files, write_index, write_shards
from resflow.sources.tier_writer import make_tiers

SIDES = (96, 160, 192, 256, 288)
SETS: dict[str, dict[str, Any]] = {
    "RandomResizedCrop 128": {
        "resolution": 128,
        "stride": 128,
        "views": [rf.views.RandomResizedCrop(scale=(0.25, 1.0)), rf.views.HorizontalFlip()],
    },
    "val 160": {"resolution": 160, "stride": 160, "fit": rf.Fit.stretch()},
}


def pipeline(settings: dict[str, Any], quality: float | None) -> rf.Pipeline:
    return rf.Pipeline(buckets=1, normalize=None, tier_quality=quality, **settings)


def loader(pattern: str, settings: dict[str, Any], quality: float | None, workers: int) -> Any:
    return rf.DataLoader(
        pattern,
        batch_size=64,
        shuffle=True,
        num_workers=workers,
        pipeline=pipeline(settings, quality),
        persistent_workers=workers > 0,
    )


def decode_seconds(images: list[bytes], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for image in images:
            simplejpeg.decode_jpeg(image)
        best = min(best, time.perf_counter() - start)
    return best


def tier_table(pattern: str, rounds: int) -> None:
    source = ShardSource(pattern)
    tiers = source.open_tiers()
    assert tiers is not None
    print("| tier | images | bytes | of the originals | decodes faster |\n|---|---|---|---|---|")
    for number, side in enumerate(tiers.sides):
        ids = np.flatnonzero(tiers.present(np.arange(len(source)))[number])
        small = [bytes(s.image) for s in source.read_tiers(ids, np.full(len(ids), number), members=False)]
        whole = [bytes(s.image) for s in source.read(ids)]
        pairs = [(a, b) for a, b in zip(whole, small, strict=True) if readable(a)]
        ratio = decode_seconds([a for a, _ in pairs], rounds) / decode_seconds([b for _, b in pairs], rounds)
        total = sum(map(len, small))
        share = total / int(source.shard_index.image_length.sum())
        print(f"| {side} | {len(ids)} of {len(source)} | {total / 1e6:.1f} MB | {share:.1%} | {ratio:.1f} x |")


def readable(image: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg(image)
    except ValueError:
        return False
    return True


def error_table(pattern: str) -> None:
    print("\n| set | tier_quality | from tiers | bytes a sample | of without | MAE | PSNR | worst image |")
    print("|---|---|---|---|---|---|---|---|")
    for name, settings in SETS.items():
        whole = counted(pattern, settings, None)
        for quality in (1.0, 1.5, 2.0):
            tiered = counted(pattern, settings, quality)
            errors, squares = [], []
            for (_, one), (_, other) in zip(whole[0], tiered[0], strict=True):
                difference = one.astype(np.float64) - other
                errors.append(np.abs(difference).mean(axis=(1, 2, 3)))
                squares.append((difference**2).mean(axis=(1, 2, 3)))
            error, square = np.concatenate(errors), np.concatenate(squares)
            psnr = 10 * np.log10(255**2 / max(square.mean(), 1e-9))
            print(
                f"| {name} | {quality} | {(error > 0).mean():.0%} | {tiered[1] / len(error) / 1e3:.1f} kB | "
                f"{tiered[1] / whole[1]:.1%} | {error.mean():.2f} | {psnr:.1f} dB | "
                f"{error.max():.2f} |"
            )


def counted(pattern: str, settings: dict[str, Any], quality: float | None) -> tuple[list[tuple[Any, Any]], int]:
    """The batches of one epoch, and the bytes that were asked of the shards."""
    asked, pread = 0, os.pread

    def counting(descriptor: int, count: int, offset: int) -> bytes:
        nonlocal asked
        asked += count
        return pread(descriptor, count, offset)

    os.pread = counting
    try:
        return [(b.keys, b.images.numpy()) for b in loader(pattern, settings, quality, 0)], asked
    finally:
        os.pread = pread


def speed_table(pattern: str, workers: list[int], rounds: int) -> None:
    print("\n| set | num_workers | without tiers | with tiers | ratio |\n|---|---|---|---|---|")
    for name, settings in SETS.items():
        for number in workers:
            loaders = {quality: loader(pattern, settings, quality, number) for quality in (None, 1.0)}
            rates: dict[float | None, list[float]] = {quality: [] for quality in loaders}
            for turn in range(rounds + 1):
                for quality, under_test in loaders.items():
                    start = time.perf_counter()
                    seen = sum(len(batch) for batch in under_test)
                    if turn:
                        rates[quality].append(seen / (time.perf_counter() - start))
            ratio = statistics.median(b / a for a, b in zip(rates[None], rates[1.0], strict=True))
            slow, fast = statistics.median(rates[None]), statistics.median(rates[1.0])
            print(f"| {name} | {number} | {slow:,.0f} | {fast:,.0f} | {ratio:.1f} x |")


def calibrate(pattern: str, rounds: int) -> None:
    """Fit `DecodeCost`, by non-negative least squares of relative errors, to epochs of one process without workers."""
    source = ShardSource(pattern)
    tiers = source.open_tiers()
    assert tiers is not None
    size, lengths = np.asarray(source.shard_index.index.size), np.asarray(source.shard_index.image_length)
    print("| tier | bytes predicted, of the originals | of those written |\n|---|---|---|")
    for number, side in enumerate(tiers.sides):
        found = tier_bytes(size, lengths, side)
        predicted = found[np.isfinite(found)].sum()
        members = source.read_tiers(
            ids := np.flatnonzero(tiers.present(np.arange(len(source)))[number]),
            np.full(len(ids), number),
            members=False,
        )
        print(f"| {side} | {predicted / lengths.sum():.1%} | {predicted / sum(len(m.image) for m in members):.3f} |")
    rows, measured, names = [], [], []
    crop = [rf.views.RandomResizedCrop(scale=(0.25, 1.0)), rf.views.HorizontalFlip()]
    for side, views in [
        (96, crop),
        (128, crop),
        (192, crop),
        (224, crop),
        (320, crop),
        (128, []),
        (160, []),
        (224, []),
    ]:
        settings = {"resolution": side, "stride": side, "views": views, "fit": rf.Fit.stretch()}
        for quality in (None, 1.0, 2.0):
            under_test = loader(pattern, settings, quality, 0)
            spent = []
            for turn in range(rounds + 1):
                under_test.set_epoch(0)
                start = time.process_time()
                seen = sum(len(batch) for batch in under_test)
                spent.append((time.process_time() - start) / seen * 1e3 if turn else float("inf"))
            draws = draw_windows(pipeline(settings, quality), under_test.buckets, size, epochs=1)
            sides = () if quality is None else tiers.sides
            units = (DecodeCost(*unit) for unit in np.eye(4).tolist())
            rows.append(
                [predict_tiers(size, lengths, draws, sides, quality=quality or 1.0, cost=u).milliseconds for u in units]
            )
            measured.append(min(spent))
            names.append(f"{side} {'crop' if views else 'whole'}, tier_quality {quality}")
    work, spent = np.array(rows), np.array(measured)
    found, _ = nnls(work / spent[:, None], np.ones(len(spent)))
    print("\n| set | ms measured | predicted |\n|---|---|---|")
    for name, one, ms in zip(names, work @ found, spent, strict=True):
        print(f"| {name} | {ms:.3f} | {one:.3f} |")
    print("\nDecodeCost(" + ", ".join(f"{value:.4g}" for value in found) + ")")


def main() -> None:
    root = Path(os.environ.get("RESFLOW_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=root / "imagenet500")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="0,2")
    parser.add_argument("--repeats", type=int, default=4, help="times the images are written, to make epochs longer")
    parser.add_argument("--calibrate", action="store_true", help="fit the cost that `resflow plan` predicts with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = list(labelled_files(options.folder, r"^(n\d+|[^_]+)"))
        copies = (dict(s, __key__=f"{turn}-{s['__key__']}") for turn in range(options.repeats) for s in images)
        paths = write_shards(copies, f"{folder}/train-%06d.tar", max_samples=1000)
        pattern = f"{folder}/train-{{000000..{len(paths) - 1:06d}}}.tar" if len(paths) > 1 else str(paths[0])
        write_index(build_index(pattern), index_path(pattern))
        start = time.perf_counter()
        report = make_tiers(pattern, SIDES, workers=1)
        seconds = time.perf_counter() - start
        print(
            f"{report.samples} images, {report.original_bytes / 1e6:.1f} MB; all tiers in {seconds:.0f} s, 1 process\n"
        )
        if options.calibrate:
            calibrate(pattern, options.rounds)
            return
        tier_table(pattern, options.rounds)
        error_table(pattern)
        speed_table(pattern, [int(number) for number in options.workers.split(",")], options.rounds)


if __name__ == "__main__":
    main()
