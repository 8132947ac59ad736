"""The state of a run: what a checkpoint holds beside tensors, and how it is read."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymdm.training.window import SIZE, Window


@dataclass
class RunState:
    """Everything but tensors that a resumed run needs to go on as if it had not stopped."""

    step: int = 0
    """Optimiser steps done."""
    model_rows: int = 0
    """Rows that went through the model in training."""
    seconds: float = 0.0
    """Training time with refits and searches of the density, without validation and checkpoints."""
    best_nll: float | None = None
    """Lowest validation NLL so far (nats a token)."""
    best_step: int = 0
    evaluations_without_gain: int = 0
    window: list[float] = field(default_factory=lambda: [0.0] * SIZE)
    """This worker's sums of the log window that is open, in the order of `Window`."""
    windows_open: list[list[float]] = field(default_factory=list)
    """In a checkpoint: `window` of every worker, for which alone the sums go on bit for bit."""
    norm_max: float = 0.0
    """Largest gradient norm of the open window, which every worker knows."""
    window_spikes: int = 0
    """Loss spikes of the open window."""
    skipped_steps: int = 0
    """Steps whose loss or gradient was not finite: neither the model nor a window took them in."""
    loss_spikes: int = 0
    recent_losses: list[float] = field(default_factory=list)
    """Mean weighted losses of the latest steps, which tell a spike."""
    totals: list[float] = field(default_factory=lambda: [0.0] * 4)
    """Loss variance, back-propagated variance and gradient norm of closed windows, times their steps, and their
    `norm_squares`."""
    totals_steps: int = 0
    """Steps of closed windows."""
    windows: int = 0
    """Closed windows."""
    density: dict[str, Any] | None = None
    """The calibrated density that the run began with: kind, params, eps, uniform_mix, as `density.json` names them."""
    ema: list[list[float]] | None = None
    """State of the moving averages, (10, 5), of a method that has them."""
    fit: dict[str, Any] | None = None
    """The density of the latest refit, as `density` is written."""
    interval: list[float] | None = None
    """The interval of rates that the latest search chose."""
    measured_rows: int = 0
    """Rows that went through the model for refits and searches."""
    records: list[dict[str, float]] = field(default_factory=list)
    """All records made so far: a worker may outlive its driver for some checkpoints that nobody hears of."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """All skipped steps and loss spikes so far, for the same reason."""

    def close_window(self, window: Window, metrics: Mapping[str, float]) -> None:
        """Add a closed window to the totals and open the next. metrics: what `window.summarise` made of it."""
        means = [metrics[f"train/{name}"] for name in ("loss_variance", "backprop_variance", "grad_norm")]
        added = [*(window.steps * mean for mean in means), window.norm_squares]
        self.totals = [total + value for total, value in zip(self.totals, added, strict=True)]
        self.totals_steps += round(window.steps)
        self.windows += 1
        self.window, self.norm_max, self.window_spikes = [0.0] * SIZE, 0.0, 0

    def take_window(self, rank: int, workers: int) -> None:
        """Go on with the open window of a checkpoint: each worker with its own, or the first with all of them."""
        if len(self.windows_open) == workers:
            self.window = self.windows_open[rank]
        elif rank == 0 and self.windows_open:
            self.window = [math.fsum(sums) for sums in zip(*self.windows_open, strict=True)]
        else:
            self.window = [0.0] * SIZE
        self.windows_open = []

    def summary(self) -> dict[str, float | int | None]:
        """What a finished run is known by. Variances, gradient norm and its spread over steps are taken within the log
        windows, so that the downward trend of the loss from window to window does not count as variance; with windows
        of one step the spread is None."""
        *means, norm_squares = self.totals
        loss_variance, backprop_variance, norm = (total / max(1, self.totals_steps) for total in means)
        free = self.totals_steps - self.windows
        return {
            "val_nll": self.best_nll,
            "best_step": self.best_step,
            "steps": self.step,
            "model_rows": self.model_rows,
            "measured_rows": self.measured_rows,
            "train_seconds": self.seconds,
            "loss_variance": loss_variance,
            "backprop_variance": backprop_variance,
            "grad_norm": norm,
            "grad_norm_std": math.sqrt(norm_squares / free) if free else None,
            "skipped_steps": self.skipped_steps,
            "loss_spikes": self.loss_spikes,
        }


def load_state(folder: Path) -> RunState:
    """Read a checkpoint's state."""
    return RunState(**json.loads((folder / "state.json").read_text()))
