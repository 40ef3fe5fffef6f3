"""Write the README's table of speeds from the peers' benchmark: `python benchmarks/readme.py [--json FILE] [--check]`.

What stands between the two markers in README.md is replaced by a table of benchmarks/results/peers.json, with its date,
machine and versions. Short runs (`peers.py --quick`) are refused, and so is a file that lacks a task of the table.
`--check` writes nothing, and ends with 1 if the README is not what the file says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contestants import BASELINE, CONTESTANTS

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- speeds: written by benchmarks/readme.py -->"
END = "<!-- end of speeds -->"
TASKS = {
    "imagenet-224": "RandomResizedCrop 224",
    "imagenet-128": "RandomResizedCrop 128",
    "imagenet-val-224": "whole images to 224",
    "imagenet-val-160": "whole images to 160",
    "imagenet-progressive": "16 epochs, 128 to 224",
    "photos-224": "12-megapixel photos, RandomResizedCrop 224",
}
OURS, TIERS = ("resflow-threads", "resflow-workers"), "resflow-tiers"


class Unfit(Exception):
    """The results cannot be shown; says why."""


def table(results: dict[str, Any]) -> str:
    """The table and what it was measured on, as Markdown.

    Args:
        results: as `peers.py --json` writes them.

    Raises:
        Unfit: a quick run, a missing task or contestant, or wrong work.
    """
    if results["options"]["quick"]:
        raise Unfit("these are the results of a quick run, whose figures mean nothing. Run peers.py without --quick")
    lines = [
        f"| images per second | {CONTESTANTS[BASELINE].what.split(',')[0]} + PIL | best peer | Resflow | with tiers |",
        "|---|---|---|---|---|",
    ]
    for task, what in TASKS.items():
        records = {one["contestant"]: one for one in results["summary"] if one["task"] == task}
        missing = {BASELINE, TIERS, *OURS} - records.keys()
        if missing:
            raise Unfit(f"{task} lacks {', '.join(sorted(missing))}. Run peers.py with all tasks and contestants")
        best = records[records[BASELINE]["best_peer_name"]]
        own = max((records[name] for name in OURS), key=lambda one: one["rate"])
        cells = [what, f"{records[BASELINE]['rate']:,.0f}", f"{_cell(best)} ({best['contestant']})"]
        lines.append(f"| {' | '.join([*cells, f'**{_cell(own)}**', f'**{_cell(records[TIERS])}**'])} |")
    return "\n".join([*lines, "", _measured_on(results)])


def _cell(record: dict[str, Any]) -> str:
    return f"{record['rate']:,.0f}, {record['baseline']:.1f} x"


def _measured_on(results: dict[str, Any]) -> str:
    machine, options, peers = results["machine"], results["options"], results["contestants"]
    shown = {}  # of each contestant's packages, what it is about; and what all have
    for name, known in peers.items():
        asked = [package for package in CONTESTANTS[name].requires if package in known["versions"]]
        for package in (*asked, "torch", "torchvision", "pillow", "webdataset", "nvidia-dali-cuda120", "resflow"):
            if package in known["versions"]:
                shown[package] = known["versions"][package]
    left_out = sorted({failure["contestant"] for failure in results["failed"]})
    told = (
        f"Medians of {options['rounds']} rounds and ratios to the first column within a round, "
        f"{options['workers']} workers, {results['date']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']:.0f} GiB, Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(shown.items()))
        + "."
    )
    if left_out:
        told += f" Failed and not among the peers of some task: {', '.join(left_out)}."
    return f"{told} How it is measured, and all contestants: [docs/performance.md](docs/performance.md)."


def replaced(text: str, content: str) -> str:
    """The text with other content between the markers.

    Raises:
        Unfit: there are not exactly these two markers, in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise Unfit(f"the README must hold these two lines, once each, in this order: {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; 1 with the reason where that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "peers.json")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the README says something else")
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text()
        new = replaced(old, table(json.loads(options.json.read_text())))
    except (Unfit, OSError) as error:
        print(f"{options.readme} is left as it is: {error}", file=sys.stderr)
        return 1
    if options.check:
        if old != new:
            print(
                f"{options.readme} says something else than {options.json}. Run: benchmarks/readme.py", file=sys.stderr
            )
        return int(old != new)
    options.readme.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
