"""What a person who watches a sweep sees: a live table on a terminal, a line now and then in a log, and a file."""

import heapq
import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

LINE_EVERY_S = 20.0
FILE_EVERY_S = 2.0
MOST_ROWS = 40
"""Runs that a table shows one by one; of more, only those that a person may ask about."""
_MOST_NAMED = 8

ACTIVE = ("starting", "training", "scoring")
ENDED = ("finished", "failed")


@dataclass
class Row:
    """One run as last heard of. Phases: waiting, those of ACTIVE, those of ENDED."""

    phase: str = "waiting"
    step: int = 0
    total: int = 0
    loss: float | None = None
    best_nll: float | None = None
    seconds: float = 0.0
    """Of training."""
    started: float | None = None
    """By the monotonic clock."""
    took: float | None = None
    """Seconds from start to end."""
    since: str | None = None
    """When it started (ISO)."""

    def left(self) -> float | None:
        """Training seconds left at the pace so far."""
        if self.phase != "training" or not self.step:
            return None
        return self.seconds / self.step * (self.total - self.step)


@dataclass
class Progress:
    """The table of runs; `console.is_terminal` decides between live table and lines.

    `file`: progress.json, which the table is written to as well. `costs`: relative cost of each method's runs.
    """

    names: list[str]
    slots: int
    console: Console = field(default_factory=Console)
    file: Path | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    rows: dict[str, Row] = field(init=False)
    _live: Live | None = field(default=None, init=False)
    _last_line: float = field(default=0.0, init=False)
    _last_file: float = field(default=-math.inf, init=False)
    _refused: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.rows = {name: Row() for name in self.names}

    def add(self, names: list[str]) -> None:
        """Runs that were decided on later."""
        self.rows |= {name: Row() for name in names}

    def start(self) -> None:
        self._write()
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=2, transient=True)
            self._live.start()

    def stop(self) -> None:
        self._write()
        if self._live:
            self._live.stop()
            self._live = None

    def started(self, name: str) -> None:
        self.rows[name] = Row("starting", started=time.monotonic(), since=_now())
        self._write()
        self._show()

    def result(self, name: str, result: dict[str, Any]) -> None:
        row = self.rows[name]
        row.phase, row.step, row.total = result["phase"], result["step"], result["total_steps"]
        for known in ("loss", "best_nll", "seconds"):
            if result.get(known) is not None:
                setattr(row, known, result[known])
        if time.monotonic() - self._last_file > FILE_EVERY_S:
            self._write()
        self._show()

    def ended(self, name: str, phase: str) -> None:
        row = self.rows[name]
        row.phase = phase
        if row.started is not None:
            row.took = time.monotonic() - row.started
        self._write()
        self._show(f"{name}: {phase}" + (f" after {row.took:.0f} s" if row.took is not None else ""))

    def left(self) -> float | None:
        """Seconds until the sweep ends, from the runs that have finished; None before the first."""
        return seconds_left(self.rows, self.slots, self.costs)

    def _write(self) -> None:
        """Write the file, in one step; a disk that takes no more of it must not end the sweep."""
        if self.file is None:
            return
        self._last_file = time.monotonic()
        content = {"updated": _now(), "slots": self.slots, "pid": os.getpid(), "host": platform.node(),
                   "runs": {name: _written(row) for name, row in self.rows.items()}}  # fmt: skip
        partial = self.file.with_name(f".{self.file.name}.partial")
        try:
            partial.write_text(json.dumps(content))
            partial.replace(self.file)
        except OSError as error:
            if not self._refused:
                logging.getLogger(__name__).warning(
                    "cannot write %s (%s): `raymdm status` will lag behind; the sweep goes on",
                    self.file,
                    error.strerror,
                )
            self._refused = True

    def _show(self, event: str | None = None) -> None:
        if self._live:
            self._live.update(self._table())
            return
        now = time.monotonic()
        if event or now - self._last_line > LINE_EVERY_S:
            self._last_line = now
            line = f"{self._headline()}; {event}" if event else self._headline()
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _headline(self) -> str:
        done = sum(row.phase in ENDED for row in self.rows.values())
        active = {name: row for name, row in self.rows.items() if row.phase in ACTIVE}
        running = [
            f"{name} {row.phase} {row.step}/{row.total or '?'}" + (f" loss {row.loss:.3f}" if row.loss else "")
            for name, row in list(active.items())[:_MOST_NAMED]
        ]
        running += [f"and {len(active) - _MOST_NAMED} more"] * (len(active) > _MOST_NAMED)
        left = self.left()
        text = f"{done}/{len(self.rows)} runs" + (f", about {clock(left)} left" if left is not None else "")
        return f"{text}: {', '.join(running)}" if running else text

    def _table(self) -> Table:
        table = Table(title=self._headline().split(":")[0], title_justify="left")
        for name in ("run", "phase", "step", "loss", "best val NLL", "time left"):
            table.add_column(name, justify="left" if name in ("run", "phase") else "right")
        many = len(self.rows) > MOST_ROWS
        for name, row in self.rows.items():
            if many and row.phase not in (*ACTIVE, "failed"):
                continue
            left = row.left()
            table.add_row(
                name, row.phase, f"{row.step}/{row.total}" if row.total else "",
                f"{row.loss:.4f}" if row.loss else "", f"{row.best_nll:.4f}" if row.best_nll else "",
                clock(left) if left is not None else f"took {row.took:.0f} s" if row.took else "",
            )  # fmt: skip
        return table


def seconds_left(rows: Mapping[str, Row], slots: int, costs: Mapping[str, float]) -> float | None:
    """Seconds until all runs have ended: those that wait start in the order of `rows`, each where a slot is free.

    rows: by the run's name. costs: relative cost by method, for methods of which nothing is known; 1 where it lacks
    one. None before a run has finished.
    """
    expected = _expected(rows, costs)
    if expected is None:
        return None
    now = time.monotonic()
    busy = sorted(
        max(0.0, expected[_method(name)] - (now - row.started))
        for name, row in rows.items()
        if row.phase in ACTIVE and row.started is not None
    )
    # of more than `slots`, some are only scored: those that end first make no room
    free = [0.0] * (slots - len(busy)) + busy[-slots:]
    for name, row in rows.items():
        if row.phase == "waiting":
            heapq.heapreplace(free, free[0] + expected[_method(name)])
    return max(free)


def _expected(rows: Mapping[str, Row], costs: Mapping[str, float]) -> dict[str, float] | None:
    """Seconds that a run of each method takes: what its finished runs took; else from the pace of one in training;
    else from what finished runs of others took for their cost. None before a run has finished."""
    finished = [(_method(name), row) for name, row in rows.items() if row.phase == "finished" and row.took is not None]
    if not finished:
        return None
    beside = _mean(max(0.0, (row.took or 0.0) - row.seconds) for _, row in finished)
    rate = sum(row.took or 0.0 for _, row in finished) / sum(costs.get(method, 1.0) for method, _ in finished)
    found = {}
    for method in {_method(name) for name in rows}:
        took = [row.took or 0.0 for name, row in finished if name == method]
        paces = [row.seconds / row.step * row.total + beside for name, row in rows.items()
                 if _method(name) == method and row.phase in ACTIVE and row.step and row.seconds]  # fmt: skip
        found[method] = _mean(took or paces) if took or paces else rate * costs.get(method, 1.0)
    return found


def _mean(numbers: Iterable[float]) -> float:
    values = list(numbers)
    return sum(values) / len(values)


def _method(name: str) -> str:
    return name.rpartition("-s")[0]


def _written(row: Row) -> dict[str, Any]:
    loss, best = (
        None if number is None or not math.isfinite(number) else number for number in (row.loss, row.best_nll)
    )
    return {"phase": row.phase, "step": row.step, "total": row.total, "loss": loss, "best_nll": best,
            "seconds": row.seconds, "started": row.since, "took": row.took}  # fmt: skip


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def clock(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
