"""Runs that are stopped and gone on with, for the tests of this folder."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from raymdm.config.schema import MethodSpec
from raymdm.diffusion.masking import smallest_rate
from raymdm.storage import Storage
from raymdm.training import step
from raymdm.training.checkpoints import Found, newest
from raymdm.training.loop import Job, Worker, train
from raymdm.training.run import Left
from raymdm.training.state import RunState, load_state


class Stopped(Exception):
    """The process went away."""


def density(folder: Path, method: MethodSpec) -> Path | None:
    """A `density.json` for a method with a calibrated density."""
    if not method.calibrated:
        return None
    path = folder / f"{method.calibration}.json"
    params = {"a": 0.8, "b": 0.3, "A": 0.5, "kappa": 0.9, "m": 2.5, "q": 6.0, "r": 0.9}
    fit = {"kind": "epr", "params": params, "eps": smallest_rate(method.mask), "uniform_mix": 0.0}
    path.write_text(json.dumps(fit | {"mask": method.calibration}))
    return path


def run_once(job: Job, folder: Path, stop: int | None = None, **worker: Any) -> list[dict[str, Any]]:
    """Train until the end, or until the middle of the attempt's `stop`th step (from 1); returns the reports."""
    reports: list[dict[str, Any]] = []
    calls = 0

    def stopping() -> Left:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Stopped
        return ""

    where = {"report": reports.append, "checkpoints": Storage(str(folder)), "notice": stopping}
    with suppress(Stopped):
        train(job, Worker(**where | worker))
    return reports


def run_stopped(job: Job, folder: Path, stops: Sequence[int], **worker: Any) -> list[dict[str, Any]]:
    """Train with a stop in each attempt but the last; returns the reports of the last."""
    for stop in stops:
        run_once(job, folder, stop, **worker)
    return run_once(job, folder, **worker)


def records_of(reports: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The records of some reports, without times."""
    return without_times([record for report in reports for record in report["records"]])


def events_of(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for report in reports for event in report["events"]]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records]


def last(folder: Path) -> Found:
    """The newest checkpoint, which must be there."""
    found = newest(Storage(str(folder)), folder.parent / "copy")
    assert found
    return found


def weights(folder: Path, which: str = "model") -> dict[str, torch.Tensor]:
    """The weights of the newest checkpoint."""
    return load_file(last(folder).path / which / "model.safetensors")


def state(folder: Path) -> RunState:
    """The state of the newest checkpoint."""
    return load_state(last(folder).path)


def assert_same_run(found: Path, expected: Path) -> None:
    """The last checkpoints of two folders agree bit for bit in all but times."""
    assert last(found).step == last(expected).step
    for which in ("model", "best"):
        one, other = weights(found, which), weights(expected, which)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in other), which
    one, other = (torch.load(last(folder).path / "optimizer.pt", weights_only=True) for folder in (found, expected))
    for index, moments in other["state"].items():
        assert all(torch.equal(one["state"][index][name], value) for name, value in moments.items())
    one, other = (dict(vars(state(folder))) for folder in (found, expected))
    for kept in (one, other):
        kept["records"] = without_times(kept["records"])
        del kept["seconds"]
    assert one == other


def poison(slot: int, steps: Sequence[int], value: float) -> Callable[..., torch.Tensor]:
    """Stands for `step._losses`: the loss of a slot of the global batch is multiplied by `value` in some steps."""
    original = step._losses

    def losses(model: Any, batch: Any, inputs: Any, number: int, slots: np.ndarray, *rest: Any) -> torch.Tensor:
        found = original(model, batch, inputs, number, slots, *rest)
        factor = np.where((slots == slot) & (number in steps), value, 1.0)
        return found * torch.from_numpy(factor).to(found)

    return losses
