"""What a person who watches a sweep sees: a live table on a terminal, a line now and then in a log."""

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

LINE_EVERY_S = 20.0


@dataclass
class Row:
    """One run as last heard of."""

    phase: str = "waiting"
    step: int = 0
    total: int = 0
    loss: float | None = None
    best_nll: float | None = None
    seconds: float = 0.0
    started: float | None = None
    took: float | None = None

    def left(self) -> float | None:
        """Training seconds left at the pace so far."""
        if self.phase != "training" or not self.step:
            return None
        return self.seconds / self.step * (self.total - self.step)


@dataclass
class Progress:
    """The table of runs; `console.is_terminal` decides between live table and lines."""

    names: list[str]
    slots: int
    console: Console = field(default_factory=Console)
    rows: dict[str, Row] = field(init=False)
    _live: Live | None = field(default=None, init=False)
    _last_line: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.rows = {name: Row() for name in self.names}

    def add(self, names: list[str]) -> None:
        """Runs that were decided on later."""
        self.rows |= {name: Row() for name in names}

    def start(self) -> None:
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=2, transient=True)
            self._live.start()

    def stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def started(self, name: str) -> None:
        self.rows[name].phase = "starting"
        self.rows[name].started = time.monotonic()
        self._show()

    def result(self, name: str, result: dict[str, Any]) -> None:
        row = self.rows[name]
        row.phase, row.step, row.total = result["phase"], result["step"], result["total_steps"]
        row.loss, row.best_nll = result.get("loss", row.loss), result.get("best_nll", row.best_nll)
        row.seconds = result.get("seconds", row.seconds)
        self._show()

    def ended(self, name: str, phase: str) -> None:
        row = self.rows[name]
        row.phase = phase
        if row.started is not None:
            row.took = time.monotonic() - row.started
        self._show(f"{name}: {phase}" + (f" after {row.took:.0f} s" if row.took is not None else ""))

    def left(self) -> float | None:
        """Seconds until the sweep ends, from the runs that have ended; None before the first."""
        took = [row.took for row in self.rows.values() if row.took is not None]
        if not took:
            return None
        mean = sum(took) / len(took)
        waiting = sum(row.phase == "waiting" for row in self.rows.values())
        busy = [max(0.0, mean - (time.monotonic() - row.started)) for row in self.rows.values() if _active(row)]  # type: ignore[operator]
        return (sum(busy) + waiting * mean) / self.slots

    def _show(self, event: str | None = None) -> None:
        if self._live:
            self._live.update(self._table())
            return
        now = time.monotonic()
        if event or now - self._last_line > LINE_EVERY_S:
            self._last_line = now
            line = f"{self._headline()}; {event}" if event else self._headline()
            self.console.print(line, highlight=False, soft_wrap=True)

    def _headline(self) -> str:
        done = sum(row.phase in ("finished", "failed") for row in self.rows.values())
        running = [
            f"{name} {row.phase} {row.step}/{row.total or '?'}" + (f" loss {row.loss:.3f}" if row.loss else "")
            for name, row in self.rows.items()
            if _active(row)
        ]
        left = self.left()
        text = f"{done}/{len(self.rows)} runs" + (f", about {_clock(left)} left" if left is not None else "")
        return f"{text}: {', '.join(running)}" if running else text

    def _table(self) -> Table:
        table = Table(title=self._headline().split(":")[0], title_justify="left")
        for name in ("run", "phase", "step", "loss", "best val NLL", "time left"):
            table.add_column(name, justify="left" if name in ("run", "phase") else "right")
        for name, row in self.rows.items():
            left = row.left()
            table.add_row(
                name, row.phase, f"{row.step}/{row.total}" if row.total else "",
                f"{row.loss:.4f}" if row.loss else "", f"{row.best_nll:.4f}" if row.best_nll else "",
                _clock(left) if left is not None else f"took {row.took:.0f} s" if row.took else "",
            )  # fmt: skip
        return table


def _active(row: Row) -> bool:
    return row.phase in ("starting", "training", "scoring")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
