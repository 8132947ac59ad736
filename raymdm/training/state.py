"""The state of a run: what a checkpoint holds, and how it is written and read."""

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

from raymdm.models.load import save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class RunState:
    """Everything but tensors that a resumed run needs to go on as if it had not stopped."""

    step: int = 0
    """Optimiser steps done."""
    model_rows: int = 0
    """Rows that went through the model in training."""
    seconds: float = 0.0
    """Training time without validation and checkpoints."""
    best_nll: float | None = None
    """Lowest validation NLL so far (nats a token)."""
    best_step: int = 0
    evaluations_without_gain: int = 0
    window: list[float] = field(default_factory=lambda: [0.0] * 7)
    """Sums of the log window that is open, over all workers."""
    totals: list[float] = field(default_factory=lambda: [0.0] * 3)
    """Loss variance, back-propagated variance and gradient norm of closed windows, times their steps."""
    totals_steps: int = 0
    """Steps of closed windows."""
    records: list[dict[str, float]] = field(default_factory=list)
    """All records made so far: a worker may outlive its driver for some checkpoints that nobody hears of."""

    def summary(self) -> dict[str, float | int | None]:
        """What a finished run is known by. Variances and gradient norm are means over the log windows, so that the
        downward trend of the loss from window to window does not count as variance."""
        loss_variance, backprop_variance, norm = (total / max(1, self.totals_steps) for total in self.totals)
        return {
            "val_nll": self.best_nll,
            "best_step": self.best_step,
            "steps": self.step,
            "model_rows": self.model_rows,
            "train_seconds": self.seconds,
            "loss_variance": loss_variance,
            "backprop_variance": backprop_variance,
            "grad_norm": norm,
        }


def save_checkpoint(folder: Path, model: "PreTrainedModel", optimizer: Optimizer, state: RunState, best: Path) -> None:
    """Write model (safetensors), optimiser and state, and the best model so far from `best`."""
    save_model(model, folder / "model")
    shutil.copytree(best, folder / "best")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "state.json").write_text(json.dumps(dataclasses.asdict(state)))


def load_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Read a checkpoint's optimiser state; the model's weights are in `folder/model`."""
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"))


def load_state(folder: Path) -> RunState:
    """Read a checkpoint's state."""
    return RunState(**json.loads((folder / "state.json").read_text()))
