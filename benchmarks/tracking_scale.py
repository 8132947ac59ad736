"""What MLflow costs a sweep's driver: `python benchmarks/tracking_scale.py [--trials 1000] [--uri http://HOST:5000]`.

Each trial is started with 60 parameters, logs 20 records of 8 metrics in calls of their own, a summary of 15 metrics
and finishes. A second tracker then tells the same again, as a resumed sweep does, which should add nothing.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from raymdm.tracking.mlflow_connection import Connection, connect, sqlite_uri
from raymdm.tracking.mlflow_tracker import MlflowTracker

PARAMS = {"train": {f"setting_{i}": i for i in range(60)}}
SUMMARY = {f"final_{i}": i / 7 for i in range(15)}
RECORDS = [{"step": step, **{f"train/m{k}": step / (k + 1) for k in range(8)}} for step in range(1, 21)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--uri", help="a server; without it, a SQLite file in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = options.uri or sqlite_uri(folder / "mlflow.db")
        connection = connect(uri, f"tracking-scale-{time.time_ns()}", folder / "artifacts")
        tables = [measure(connection, options.trials, title) for title in ("first time", "told again")]
    for table in tables:
        Console().print(table)


def measure(connection: Connection, trials: int, title: str) -> Table:
    """Tell a tracker of all trials; a table of the driver's seconds by call, and of those until MLflow has it all."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable[..., None], *arguments: Any) -> None:
        started = time.perf_counter()
        call(*arguments)
        seconds[name].append(time.perf_counter() - started)

    begun = time.perf_counter()
    tracker = MlflowTracker(connection, "sweep")
    for trial in (f"trial-{i}" for i in range(trials)):
        timed("start", tracker.start, trial, PARAMS, {"method": "mirror"})
        for record in RECORDS:
            timed("log", tracker.log, trial, [record])
        timed("log_summary", tracker.log_summary, trial, SUMMARY)
        timed("finish", tracker.finish, trial, "finished")
    told = time.perf_counter() - begun
    assert tracker.flush(3600)
    timed("close", tracker.close, "finished")
    whole = time.perf_counter() - begun
    table = Table("call", "calls", "median ms", "last tenth's median ms", "worst ms", title=f"{trials} trials, {title}")
    for name, values in seconds.items():
        last = values[-max(1, len(values) // 10) :]
        row = (statistics.median(values), statistics.median(last), max(values))
        table.add_row(name, str(len(values)), *(f"{1000 * value:.2f}" for value in row))
    table.add_section()
    table.add_row("driver's ms a trial", "", f"{1000 * told / trials:.1f}")
    table.add_row("ms a trial until MLflow has it all", "", f"{1000 * whole / trials:.1f}")
    table.add_row("seconds until MLflow has it all", "", f"{whole:.1f}")
    return table


if __name__ == "__main__":
    main()
