"""From runs to medians, ratios, tables and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from contestants import BASELINE, CONTESTANTS

Run = dict[str, Any]
"""One run: task, contestant, round, and what `contestants.child.run` returns with `rate`, images a second."""

_MIB = 2**20
_COLUMNS = (
    "img/s",
    "lowest",
    "highest",
    "x baseline",
    "x best peer",
    "CPU ms",
    "kB read",
    "first batch s",
    "from start s",
    "own MiB",
    "MiB",
)


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One record for each task and contestant.

    Args:
        runs: of all tasks.

    Returns:
        Medians over the rounds; `baseline` and `best_peer` are medians of the ratios within each round, None where
        there is nothing to compare with; `best_peer_name` is the peer of the highest median rate in the task.
    """
    found = []
    for task in dict.fromkeys(run["task"] for run in runs):
        by_name: dict[str, dict[int, Run]] = {}
        for run in runs:
            if run["task"] == task:
                by_name.setdefault(run["contestant"], {})[run["round"]] = run
        rate = {name: median(run["rate"] for run in rounds.values()) for name, rounds in by_name.items()}
        peers = [name for name in rate if CONTESTANTS[name].peer]
        best = max(peers, key=rate.__getitem__, default=None)
        for name, rounds in by_name.items():
            rates = [run["rate"] for run in rounds.values()]
            record = {"task": task, "contestant": name, "rounds": len(rounds), "rate": rate[name]}
            record |= {"lowest": min(rates), "highest": max(rates)}
            record |= {"baseline": _ratio(rounds, by_name.get(BASELINE, {}))}
            record |= {"best_peer": _ratio(rounds, by_name.get(best or "", {})), "best_peer_name": best}
            for key in ("first_batch", "start", "peak", "peak_own"):
                record[key] = median(run[key] for run in rounds.values())
            record["cpu_ms"] = median(1000 * run["cpu"] / run["samples"] for run in rounds.values())
            record["read_kb"] = median(run["read"] / run["samples"] / 1e3 for run in rounds.values())
            record["difference"] = next(iter(rounds.values()))["difference"]
            found.append(record)
    return found


def _ratio(rounds: dict[int, Run], others: dict[int, Run]) -> float | None:
    ratios = [run["rate"] / others[number]["rate"] for number, run in rounds.items() if number in others]
    return median(ratios) if ratios else None


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records of one task as a table, fastest first."""
    first = records[0]
    lines = [f"{first['task']}  ({first['rounds']} rounds; best peer: {first['best_peer_name']})"]
    lines.append(f"  {'':<18}" + "".join(f"{name:>15}" for name in _COLUMNS))
    for record in sorted(records, key=lambda record: -record["rate"]):
        limit = CONTESTANTS[record["contestant"]].module == "raw"
        cells = [f"{record[key]:,.0f}" for key in ("rate", "lowest", "highest")]
        cells += ["-" if record[key] is None else f"{record[key]:.2f}" for key in ("baseline", "best_peer")]
        cells += [f"{record['cpu_ms']:.2f}", f"{record['read_kb']:,.1f}"]
        cells += ["-"] * 2 if limit else [f"{record[key]:.2f}" for key in ("first_batch", "start")]
        cells += ["-"] * 2 if limit else [f"{record[key] / _MIB:,.0f}" for key in ("peak_own", "peak")]
        lines.append(f"  {record['contestant']:<18}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw each task's ratios to the baseline as bars, limits hatched, Resflow dark."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(record["task"] for record in records))
    most = max(sum(record["task"] == task for record in records) for task in tasks)
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.6 * columns, rows * (0.9 + 0.26 * most)), dpi=120, layout="constrained")
    for number, task in enumerate(tasks):
        axes = figure.add_subplot(rows, columns, number + 1)
        chosen = sorted((record for record in records if record["task"] == task), key=lambda record: record["rate"])
        base = next((record["rate"] for record in chosen if record["contestant"] == BASELINE), chosen[0]["rate"])
        for at, record in enumerate(chosen):
            who = CONTESTANTS[record["contestant"]]
            width = record["baseline"] or record["rate"] / base
            spread = [[(record["rate"] - record["lowest"]) / base], [(record["highest"] - record["rate"]) / base]]
            limit = who.module == "raw"
            colour = "white" if limit else "#9aa5b1" if who.peer else "#1b4965"
            axes.barh(
                at,
                width,
                xerr=spread,
                color=colour,
                edgecolor="#666666",
                hatch="///" if limit else None,
                ecolor="#222222",
            )
        axes.set_yticks(range(len(chosen)), [record["contestant"] for record in chosen], fontsize=8)
        axes.set_title(task, fontsize=9)
        axes.axvline(1.0, color="#222222", linewidth=0.8)
        axes.set_xlabel(f"images/s over {BASELINE}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def machine() -> dict[str, Any]:
    """What the runs ran on."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
