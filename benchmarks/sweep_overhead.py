"""Where a finished sweep's wall time went: `python benchmarks/sweep_overhead.py SWEEP_DIR`.

Useful time is what its runs spent in training steps and in scoring, divided by the runs at once. The rest is named:
before the runs (connecting, data, calibration), the runs' start-up (processes, imports, validation, checkpoints), and
slots that stood idle.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    folder = parser.parse_args().sweep
    state = json.loads((folder / "sweep.json").read_text())
    metrics = [json.loads(path.read_text())["metrics"] for path in sorted(folder.glob("trials/*/result.json"))]
    slots, wall, stages = state["slots"], state["wall_seconds"], state["stage_seconds"]
    train = sum(row["train_seconds"] for row in metrics) / slots
    score = sum(row["evaluate_seconds"] for row in metrics) / slots
    trials = sum(row["wall_seconds"] for row in metrics) / slots
    table = Table("part", "seconds", "share of wall time")
    rows = {
        "training steps / slots": train,
        "scoring / slots": score,
        "runs' start-up, validation, checkpoints / slots": trials - train - score,
        "slots idle, or between runs": stages["runs"] - trials,
        "before the runs: connecting to Ray": stages["connect"],
        "before the runs: tracking": stages["tracking"],
        "before the runs: data": stages["data"],
        "before the runs: calibration": stages.get("calibrate", 0.0),
        "the rest": wall - sum(stages.values()),
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.1f}", f"{100 * seconds / wall:.0f}%")
    table.add_row("wall time", f"{wall:.1f}", "100%")
    Console().print(table)
    Console().print(f"wall time / (training + scoring seconds / slots) = {wall / (train + score):.2f}")
    Console().print(f"efficiency: runs' seconds / (slots x wall time) = {trials / wall:.2f}")
    Console().print(f"useful: training and scoring seconds / (slots x wall time) = {(train + score) / wall:.2f}")


if __name__ == "__main__":
    main()
