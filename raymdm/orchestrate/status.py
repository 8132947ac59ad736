"""How far a sweep is: read from its folder, without Ray, also while it runs."""

import os
import platform
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raymdm.config.load import load_recipe
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.ownership import held
from raymdm.orchestrate.plan import Cell, cost
from raymdm.orchestrate.progress import MOST_ROWS, Row, clock, seconds_left
from raymdm.orchestrate.run_status import RunStatus, json_object, run_status

State = Literal["running", "interrupted", "finished", "failed"]
PHASES = ("finished", "failed", "scoring", "training", "starting", "interrupted", "waiting")
_SECOND_LOOK_S = 0.2
_SHORT = {"loss_spike": "spikes", "skipped_step": "skipped", "broken_checkpoint": "broken"}
_MOST_LINES = 20
"""Failures and events that are told in words, unless all are asked for."""


class RoundStatus(BaseModel):
    """Runs that an adaptive sweep added between two looks at its results."""

    runs: int
    finished: int


class Status(BaseModel):
    """A sweep, as `raymdm status --json` prints it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    folder: str
    name: str
    recipe: str
    """The recipe's file."""
    state: State
    note: str
    """What the state means where it needs words."""
    created: str
    seconds_since_created: float
    updated: str | None
    """When the sweep's process last wrote how far it is."""
    seconds_left: float | None
    """From the runs that have finished; None before the first, and while nothing runs."""
    slots: int | None
    """Runs at once."""
    counts: dict[str, int]
    """Runs by phase."""
    runs: list[RunStatus]
    rounds: list[RoundStatus]
    most_rounds: int
    """0: the seeds are fixed."""
    stopped: str | None
    """Why an adaptive sweep added no more seeds."""
    error: str | None
    """What ended the sweep's process, where that was no run's failure."""
    commands: list[str]
    """What goes on with it."""


def status(folder: Path) -> Status:
    """How far the sweep in `folder` is. Raises UserError when that is no sweep, or its own files cannot be read."""
    (state, note), content = _state(folder), _sweep_json(folder)
    recipe, running = load_recipe(folder / "recipe.yaml"), state == "running"
    try:
        progress, problem = _progress(folder, running)
        known = progress.get("runs", {})
        runs = [
            run_status(folder / "trials", cell, known.get(f"{cell[0]}-s{cell[1]}"), running)
            for cell in _cells(recipe, content["rounds"])
        ]
        slots, phases = progress.get("slots") or content["slots"], Counter(run.phase for run in runs)
        age = datetime.now().astimezone() - datetime.fromisoformat(content["created"])
        return Status(
            folder=str(folder),
            name=content["name"],
            recipe=str(folder / "recipe.yaml"),
            state=state,
            note="; ".join(filter(None, (note, problem))),
            created=content["created"],
            seconds_since_created=age.total_seconds(),
            updated=progress.get("updated"),
            seconds_left=_left(recipe, runs, slots) if running and slots else None,
            slots=slots,
            counts={phase: phases[phase] for phase in (*PHASES, *phases) if phases[phase]},
            runs=runs,
            rounds=_rounds(content["rounds"], runs),
            most_rounds=0 if isinstance(recipe.sweep.seeds, list)
            else recipe.sweep.seeds.num_looks(len(recipe.sweep.players)),
            stopped=content["stopped"],
            error=None if running else _error(content),
            commands=_commands(folder, state, phases),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: sweep.json, progress.json or a run's result.json is not as this version of raymdm writes it "
            f"({error!r}): look at the sweep with the version that began it"
        ) from error


def _sweep_json(folder: Path) -> dict[str, Any]:
    """The content of sweep.json. Raises UserError when there is none, or it is broken."""
    file = folder / "sweep.json"
    if not file.is_file():
        inside = sorted(folder.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
        remedy = (
            f"name one of those in it, such as {inside[-1].parent}" if inside else "name one that `raymdm sweep` made"
        )
        raise UserError(f"{folder} is no sweep's folder, as it holds no sweep.json: {remedy}")
    content = json_object(file)
    if isinstance(content, str):
        raise UserError(f"{file} {content}: put back a copy of it; the runs' own files are not touched by that")
    return content


def _error(content: dict[str, Any]) -> str | None:
    """Earlier versions keep none."""
    found = content.get("error")
    return f"{found['stage']}: {found['text']}" if found else None


def _state(folder: Path) -> tuple[State, str]:
    """What sweep.json says; `running` only where a living process holds the sweep's lock."""
    for last in (False, True):
        said = _sweep_json(folder).get("status")
        if said in ("interrupted", "finished", "failed"):
            return said, ""
        if said != "running":
            raise UserError(f"{folder / 'sweep.json'}: status is {said!r}: it must be running, interrupted, finished "
                            "or failed; put back a copy of the file")  # fmt: skip
        alive = held(folder)
        if alive is not False:
            return "running", "" if alive else "cannot tell whether its process is alive: no locks on this file system"
        if not last:
            time.sleep(_SECOND_LOOK_S)  # it may have been about to take the lock, or to end
    return "interrupted", "its process is gone"


def _progress(folder: Path, running: bool) -> tuple[dict[str, Any], str]:
    """The content of progress.json and what is wrong with it; nothing where it is not there yet."""
    if not (folder / "progress.json").exists():
        return {}, ""
    content = json_object(folder / "progress.json")
    if isinstance(content, str):
        return {}, f"progress.json {content}, so what runs now is not known"
    if running and content["host"] == platform.node() and not _alive(content["pid"]):
        return {}, ""  # left by the process before: this one has not come to its runs
    return content, ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _cells(recipe: Recipe, rounds: list[dict[str, Any]]) -> list[Cell]:
    if rounds:
        return [(method, seed) for round_ in rounds for method, seed in round_["cells"]]
    return [(method, seed) for seed in recipe.sweep.first_seeds for method in recipe.sweep.methods]


def _rounds(rounds: list[dict[str, Any]], runs: list[RunStatus]) -> list[RoundStatus]:
    done = {(run.method, run.seed) for run in runs if run.phase == "finished"}
    return [
        RoundStatus(runs=len(round_["cells"]), finished=sum((method, seed) in done for method, seed in round_["cells"]))
        for round_ in rounds
    ]


def _left(recipe: Recipe, runs: list[RunStatus], slots: int) -> float | None:
    """Seconds until the runs have ended, the longest of those that wait starting first."""
    costs = {method: cost(recipe, method) for method in {run.method for run in runs}}
    now, clock_now = datetime.now().astimezone(), time.monotonic()
    rows = {}
    for run in sorted(runs, key=lambda run: -costs[run.method]):
        age = (now - datetime.fromisoformat(run.started)).total_seconds() if run.started else None
        rows[run.name] = Row(
            run.phase, run.step, run.total_steps, seconds=run.train_seconds, took=run.took_seconds,
            started=None if age is None else clock_now - age,
        )  # fmt: skip
    return seconds_left(rows, slots, costs)


def _commands(folder: Path, state: State, phases: Counter[str]) -> list[str]:
    found = []
    if state == "interrupted":
        found.append(shlex.join(["raymdm", "sweep", str(folder / "recipe.yaml"), "--resume"]))
    if state != "running" and phases["failed"]:
        found.append(shlex.join(["raymdm", "retry", str(folder), "--failed"]))
    return found


def render(found: Status, every: bool = False) -> Group:
    """For a terminal. `every`: all runs, however many; else of more than 40 only those not finished."""
    many = len(found.runs) > MOST_ROWS and not every
    shown = [run for run in found.runs if not many or run.phase not in ("finished", "waiting")]
    head = Text("\n".join(_head(found)))
    left_out = f"{len(found.runs) - len(shown)} runs that are done or wait are not shown: --all shows them"
    ended = [f"ended by an error in its {found.error}"] if found.error else []
    lines = [*_told(found.runs, every), *ended, *(f"go on with: {command}" for command in found.commands)]
    parts: list[RenderableType] = [head]
    if shown:
        parts.append(_table(shown))
    if len(shown) < len(found.runs):
        parts.append(Text(left_out))
    if lines:
        parts.append(Text("\n".join(lines)))
    return Group(*parts)


def _head(found: Status) -> Iterator[str]:
    note = f" ({found.note})" if found.note else ""
    yield f"{found.name}: {found.state}{note}"
    yield f"recipe: {found.recipe}"
    since = f"started {found.created}, {clock(found.seconds_since_created)} ago"
    left = f"; about {clock(found.seconds_left)} left" if found.seconds_left is not None else ""
    heard = f"; last heard of {found.updated}" if found.updated and found.state != "finished" else ""
    yield since + left + heard
    at_once = f", {found.slots} at once" if found.slots else ""
    yield f"{len(found.runs)} runs{at_once}: {', '.join(f'{n} {phase}' for phase, n in found.counts.items())}"
    if found.most_rounds:
        rounds = ", ".join(f"{round_.finished}/{round_.runs}" for round_ in found.rounds)
        end = f"; no more seeds: {found.stopped}" if found.stopped else ""
        yield f"rounds: {len(found.rounds)} of at most {found.most_rounds}, runs finished: {rounds or 'none'}{end}"


def _table(runs: list[RunStatus]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("run", "phase", "step", "loss", "val NLL", "score", "time", "events"):
        # only events may wrap: a name that is cut short names no run
        justify: Literal["left", "right"] = "left" if name in ("run", "phase", "events") else "right"
        table.add_column(name, justify=justify, no_wrap=name in ("run", "phase", "step"), overflow="fold")
    for run in runs:
        # a Text takes no markup: names and messages are data
        cells = (
            run.name, run.phase, f"{run.step}/{run.total_steps or '?'}" if run.step or run.total_steps else "",
            _number(run.loss), _number(run.best_nll),
            f"{100 * run.accuracy:.1f}%" if run.accuracy is not None else "",
            _time(run),
            ", ".join(f"{n} {_SHORT.get(kind, kind)}" for kind, n in run.events.items()),
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    return table


def _told(runs: list[RunStatus], every: bool) -> list[str]:
    """Why runs failed, and the last of each serious kind of event."""
    failed = [f"{run.name} failed: {run.error} (all of it: {run.error_file})" for run in runs if run.error]
    events = [f"{run.name}: {kind.replace('_', ' ')}, {text}" for run in runs for kind, text in run.messages.items()]
    found = []
    for lines in (failed, events):
        most = len(lines) if every else _MOST_LINES
        found += lines[:most] + [f"and {len(lines) - most} more: --all shows them"] * (len(lines) > most)
    return found


def _time(run: RunStatus) -> str:
    if run.took_seconds is not None:
        return clock(run.took_seconds)
    left = Row(run.phase, run.step, run.total_steps, seconds=run.train_seconds).left()
    return f"{clock(left)} left" if left is not None else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
