"""How far one run of a sweep is, from what the sweep's process last said of it and from the run's own files."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raymdm.orchestrate.plan import Cell
from raymdm.orchestrate.progress import ACTIVE, ENDED

_TAIL_BYTES = 4096
_HEADER = re.compile(r"^Failure # \d+ \(occurred at .*\)$", re.MULTILINE)
"""What Ray writes above each of a run's errors."""
_SERIOUS = ("broken_checkpoint", "skipped_step", "left", "other_density")
"""Events whose last message is kept; of others the number is enough."""


class RunStatus(BaseModel):
    """One run, as `raymdm status --json` prints it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    method: str
    seed: int
    phase: str = "waiting"
    """waiting, starting, training, scoring, finished, failed; interrupted: begun, but nothing works on it now."""
    step: int = 0
    total_steps: int = 0
    """0: not known."""
    loss: float | None = None
    best_nll: float | None = None
    accuracy: float | None = None
    """Mean score on the test split, 0 to 1."""
    started: str | None = None
    train_seconds: float = 0.0
    took_seconds: float | None = None
    """From start to end; of a resumed run, its last attempt."""
    error: str | None = None
    """Why it failed, or what is wrong with its files, in a line."""
    error_file: str | None = None
    """Where all of the error is."""
    events: dict[str, int] = {}
    """How often each kind of event was written down."""
    messages: dict[str, str] = {}
    """The last message of each serious kind of event."""


class _Metrics(BaseModel):
    accuracy: float | None = None
    steps: int = 0
    val_nll: float | None = None
    train_seconds: float = 0.0
    wall_seconds: float | None = None


class _Result(BaseModel):
    """What is read of result.json."""

    status: Literal["finished", "failed"]
    error: str | None
    metrics: _Metrics


def json_object(path: Path) -> dict[str, Any] | str:
    """A file's content, or what is wrong with it."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return f"is not valid JSON ({error})"
    return content if isinstance(content, dict) else "is not a JSON object"


def run_status(trials: Path, cell: Cell, told: dict[str, Any] | None, running: bool) -> RunStatus:
    """trials: the sweep's folder of runs. told: the run in progress.json; None where that does not name it. running:
    whether the sweep is, so that what was told holds now."""
    method, seed = cell
    run = RunStatus(name=f"{method}-s{seed}", method=method, seed=seed)
    if told:
        run.phase, run.step, run.total_steps = told["phase"], told["step"], told["total"]
        run.loss, run.best_nll, run.train_seconds = told["loss"], told["best_nll"], told["seconds"]
        run.started, run.took_seconds = told["started"], told["took"]
    folder = trials / run.name
    if (folder / "result.json").exists():
        _take_result(run, folder / "result.json", again=running and told is not None and run.phase not in ENDED)
    elif run.phase in ENDED and not running:
        run.phase = "waiting"  # its files were removed, so that it is run again
    if run.phase not in ENDED:
        run.step = run.step or _last_step(folder / "metrics.jsonl")
        if not running and (run.step or run.phase in ACTIVE):
            run.phase = "interrupted"
    _take_events(run, folder / "events.jsonl")
    return run


def _take_result(run: RunStatus, path: Path, again: bool) -> None:
    """What result.json says. `again`: a failure is an earlier one, of a run that is tried again."""
    content = json_object(path)
    try:
        result = _Result.model_validate(content)
    except ValidationError:
        wrong = content if isinstance(content, str) else "is not as raymdm writes it"
        run.phase, run.error_file = "failed", str(path)
        run.error = f"result.json {wrong}: remove it, and the run is done again"
        return
    if result.status == "finished":
        metrics = result.metrics
        run.phase, run.accuracy, run.best_nll = "finished", metrics.accuracy, metrics.val_nll
        run.step = run.total_steps = metrics.steps
        run.train_seconds, run.took_seconds = metrics.train_seconds, metrics.wall_seconds
    elif not again:
        run.phase, run.error, run.error_file = "failed", _line(result.error or ""), str(path)


def _line(error: str) -> str:
    """What went wrong, in a line: the first one of Ray's last account, or the last one of a traceback."""
    account = _HEADER.split(error)[-1]
    lines = [line for line in account.splitlines() if line.strip()] or ["no error was recorded"]
    if lines[0].startswith(("Traceback", "ray::")):
        lines = [line for line in reversed(lines) if not line[0].isspace()]
    return lines[0]


def _last_step(path: Path) -> int:
    """The step of the last whole line of metrics.jsonl; 0 where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    steps = (record.get("step") for record in _records(reversed(lines)))
    return next((step for step in steps if isinstance(step, int)), 0)


def _take_events(run: RunStatus, path: Path) -> None:
    """Count what events.jsonl names."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        run.messages["events"] = f"{path} cannot be read ({error.strerror})"
        return
    for record in _records(lines):
        kind = str(record.get("event"))
        run.events[kind] = run.events.get(kind, 0) + 1
        if kind in _SERIOUS:
            run.messages[kind] = f"step {record.get('step', '?')}: {record.get('message', '')}"


def _records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that are whole: a crash may have cut one short."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record
